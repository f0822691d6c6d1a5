"""`pyramid-seed verify`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..texts import printable
from .options import (
    Commands,
    add_again_options,
    add_clip,
    again_options,
    open_image,
    quiet_loading,
    say,
    say_step,
)
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify",
        help="make a clip again and compare",
        description="Make a clip again from its manifest and compare: weights, text, noise, units, decoded "
        "chunks, frames, and the pixels in the file. Answers MATCH or the first difference.",
        epilog="exit status: 0 the same clip, 1 it differs, 2 it could not be made again",
    )
    parser.set_defaults(run=run)
    add_clip(parser)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--noise-only", action="store_true", help="only draw the noise again: needs no weights, takes seconds"
    )
    extent.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="make only N random units again, from the latents that --keep-latents wrote beside CLIP, and "
        "decode all of these; tells with which chance a forged unit would have been seen",
    )
    add_again_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed verify`."""
    if options.noise_only:
        from ..provenance.verify import verify_noise_of_file

        verification = verify_noise_of_file(options.clip)
    else:
        image = open_image(options.image)

        from ..reproduce import verify

        quiet_loading()

        verification = verify(
            options.clip,
            sample=options.sample,
            image=image,
            processes=processes,
            **again_options(options),
        )
    for step in verification.steps:
        say_step(step)
    difference = verification.difference
    if difference is None:
        if verification.sample is not None:
            say("sample", verification.sample)
        print(f"MATCH{_extent(options)}")
        return 0
    print(printable(f"DIFFERS first in {difference.stage}: {difference.note}"))
    for field in verification.environment:
        say("environment", f"{field.field}: {field.a!r} then, {field.b!r} now")
    return 1


def _extent(options: argparse.Namespace) -> str:
    """How much of the clip was made again, if not all of it."""
    if options.noise_only:
        return ", as far as the noise goes"
    return "" if options.sample is None else ", as far as the sample goes"
