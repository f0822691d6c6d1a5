"""`pyramid-seed regenerate`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from ..files import check_clip
from .options import (
    Commands,
    add_again_options,
    add_clip,
    add_output_options,
    again_options,
    given_from,
    output_options,
    save_made,
    say_start,
)
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "regenerate",
        usage="%(prog)s CLIP -o FILE [options]",
        help="make a clip again from its manifest, into another file",
        description="Make a clip again from its manifest, into another file, also in another format.",
    )
    parser.set_defaults(run=run)
    add_clip(parser)
    add_output_options(parser, "CLIP's name with _again")
    add_again_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed regenerate`."""
    check_clip(options.clip)
    say_start(options)

    from ..clip_files import check_outputs
    from ..provenance.manifest import read_manifest, recipe_of

    path = options.output or options.clip.with_stem(f"{options.clip.stem}_again")
    settings = recipe_of(read_manifest(options.clip)).settings
    check_outputs(path, **output_options(options), fps=settings.fps, num_frames=settings.num_frames)
    given = given_from(options)

    from ..reproduce import regenerate

    make = partial(regenerate, options.clip, **given, processes=processes, **again_options(options))
    return save_made(path, options, processes, lambda sink: make(sink=sink))
