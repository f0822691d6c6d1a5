"""`pyramid-seed extend`."""

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
    root_seed,
    save_made,
    say_start,
)
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "extend",
        usage="%(prog)s CLIP --num-frames N [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="continue a saved clip, or branch off with another seed",
        description="Continue a saved clip: the new one begins with the same frames, bit for bit.\n"
        "Uses the latents kept beside it (--keep-latents), or else makes the beginning again.",
        epilog="example:\n  pyramid-seed extend circle.mp4 --num-frames 33 --branch-seed 7 --from-frame 9",
    )
    parser.set_defaults(run=run)
    add_clip(parser)
    parser.add_argument(
        "--num-frames",
        type=int,
        metavar="N",
        required=True,
        help="frames of the new clip, those of the old one included",
    )
    parser.add_argument(
        "--branch-seed",
        type=root_seed,
        metavar="S",
        help="root seed of what follows the beginning (default: the clip's own)",
    )
    parser.add_argument(
        "--from-frame",
        type=int,
        metavar="K",
        help="with --branch-seed: how many frames are kept (default: all)",
    )
    add_output_options(parser, "the clip's name with the number of frames, and the branch's seed")
    add_again_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed extend`."""
    check_clip(options.clip)
    say_start(options)

    from ..clip_files import check_outputs, continued_stem
    from ..provenance.manifest import read_manifest, recipe_of

    clip, branch = options.clip, options.branch_seed
    path = options.output or clip.with_stem(continued_stem(clip.stem, options.num_frames, branch))
    fps = recipe_of(read_manifest(clip)).settings.fps
    check_outputs(path, **output_options(options), fps=fps, num_frames=options.num_frames)
    given = given_from(options)

    from ..reproduce import extend

    make = partial(
        extend,
        clip,
        options.num_frames,
        branch_seed=branch,
        from_frame=options.from_frame,
        **given,
        processes=processes,
        **again_options(options),
    )
    return save_made(path, options, processes, lambda sink: make(sink=sink))
