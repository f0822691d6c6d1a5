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
    parser.add_argument(
        "--noise-only", action="store_true", help="only draw the noise again: needs no weights, takes seconds"
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
            image=image,
            processes=processes,
            **again_options(options),
        )
    for step in verification.steps:
        say_step(step)
    difference = verification.difference
    if difference is None:
        print("MATCH, as far as the noise goes" if options.noise_only else "MATCH")
        return 0
    print(printable(f"DIFFERS first in {difference.stage}: {difference.note}"))
    for field in verification.environment:
        say("environment", f"{field.field}: {field.a!r} then, {field.b!r} now")
    return 1
