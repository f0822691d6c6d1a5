"""`pyramid-seed generate`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..seeds import root_from_entropy
from .next_steps import tell_next
from .options import (
    Commands,
    add_given_options,
    add_lora_option,
    add_output_options,
    add_run_options,
    add_setting_options,
    chosen_settings,
    given_from,
    loras_from,
    output_options,
    root_seed,
    run_options_from,
    save_made,
    say_start,
    settings_from,
)
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "generate",
        usage="%(prog)s PROMPT [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="make one clip from a prompt",
        description="Make one clip from a prompt and write it to a file.",
        epilog="example:\n  pyramid-seed generate "
        '"a red circle moves to the right on a white background" --seed 19 -o circle.mp4',
    )
    parser.set_defaults(run=run)
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    parser.add_argument(
        "--seed", type=root_seed, metavar="N", help="root seed, 0 .. 2^64 - 1 (default: random, printed)"
    )
    add_given_options(
        parser,
        "the first frame, or, with Helios, what the clip goes on from; its size is the clip's, unless height "
        "and width or fit are given",
        "a video (or a folder of .png) that a clip of Helios goes on from, of a length that a clip can have",
    )
    add_lora_option(parser)
    add_output_options(parser, "an .mp4 named after prompt and seed")
    add_setting_options(parser)
    add_run_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed generate`."""
    from ..checkpoints.geometry import known_geometry
    from ..clip_files import check_outputs, clip_stem

    seed = root_from_entropy() if options.seed is None else options.seed
    if processes is not None and options.seed is None:
        seed = processes.from_first(seed)
    path = options.output or Path(clip_stem(options.prompt, seed) + ".mp4")
    given = given_from(options)
    begins_with = given["image"] or given["video"]
    settings = chosen_settings(options, begins_with)
    check_outputs(path, **output_options(options), fps=settings.fps, num_frames=settings.num_frames)
    geometry = known_geometry(settings.model) if begins_with is None else None
    if geometry is not None:  # before torch is imported
        geometry.check_size(settings.height, settings.width)
        geometry.check_num_frames(settings.num_frames)
    loras = loras_from(options)
    say_start(options)

    from ..api import generate

    make = partial(
        generate,
        options.prompt,
        seed=seed,
        preset=options.preset or settings,
        **given,
        loras=loras,
        progress=not options.quiet,
        processes=processes,
        **run_options_from(options).arguments(),
        **settings_from(options),
    )
    status = save_made(path, options, processes, lambda sink: make(sink=sink))
    tell_next(options, path, seed)
    return status
