"""`pyramid-seed check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_readable
from ..texts import printable_lines
from .options import Commands, add_again_options, again_options, given_from, named_path, say, say_start
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "check",
        help="check that a model still makes a recorded clip",
        description="Make the clip of a record again and compare: bit for bit where the kernels are those of "
        "the machine where it was recorded; elsewhere weights and noise bit for bit, and the recorded frames "
        "within bounds. Says which it was, or the first stage that moved, with a picture. A test of pytest "
        "does the same with the fixture clip_regression.",
        epilog="exit status: 0 the same, 1 it has moved, 2 it could not be made again",
    )
    parser.set_defaults(run=run)
    parser.add_argument("record", type=named_path, metavar="RECORD", help="a .json that `record` wrote")
    parser.add_argument(
        "--picture",
        type=named_path,
        metavar="FILE",
        help="where to show what moved: frames then, now, and their difference (default: RECORD-moved.png)",
    )
    parser.add_argument("--renew", action="store_true", help="write the record anew, and say what has moved")
    add_again_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed check`."""
    check_readable(options.record)
    say_start(options)

    from ..record import compare_with_record, read_record, renew_record, write_side_by_side

    record = read_record(options.record)
    given = given_from(options)

    from ..reproduce import regenerate_either

    clip = regenerate_either(record.manifest, **given, processes=processes, **again_options(options))
    if processes is not None and not processes.is_first:
        return 0
    if options.renew:
        say("record", renew_record(options.record, clip))
        return 0
    comparison = compare_with_record(record, clip)
    if comparison.is_same:
        print(f"SAME: {comparison}")
        return 0
    picture = options.picture or Path(f"{options.record.stem}-moved.png")
    write_side_by_side(picture, record, clip)
    print(f"MOVED: {printable_lines(str(comparison))}")
    say("picture", f"{picture}: then, now, and the difference amplified")
    return 1
