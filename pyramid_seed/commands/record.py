"""`pyramid-seed record`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_clip
from .options import (
    Commands,
    add_again_options,
    add_clip,
    again_options,
    given_from,
    named_path,
    say,
    say_start,
)
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "record",
        help="keep a small record of a clip, for `check`",
        description="Make a clip again from its manifest and keep a record: the manifest, with all digests, "
        "and a lossless picture of some frames. `check` tells later whether the same is still made.",
        epilog="exit status: 0 recorded, 2 an error",
    )
    parser.set_defaults(run=run)
    add_clip(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        type=named_path,
        metavar="FILE",
        help=".json; the picture lies beside it, as .png (default: the clip's name with -record)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what exists")
    add_again_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed record`."""
    check_clip(options.clip)
    say_start(options)

    from ..record import check_record_path, diff_records, record_of, write_record

    path = options.output or Path(f"{options.clip.stem}-record.json")
    check_record_path(path, overwrite=options.overwrite)
    given = given_from(options)

    from ..keying.manifest import read_any_manifest
    from ..reproduce import regenerate_either

    manifest = read_any_manifest(options.clip)
    clip = regenerate_either(manifest, **given, processes=processes, **again_options(options))
    if processes is not None and not processes.is_first:
        return 0
    record = record_of(clip)
    write_record(path, record, overwrite=options.overwrite)
    parting = diff_records(manifest, record.manifest).parting
    if parting is not None:
        say(
            "recorded",
            f"what is made here; {options.clip} differs from it in {parting.stage}: {parting.note}",
        )
    say("file", path)
    return 0
