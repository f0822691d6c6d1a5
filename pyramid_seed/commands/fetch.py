"""`pyramid-seed fetch`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..choices import VARIANTS
from ..texts import size_text
from .options import Commands, say


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "fetch",
        usage="%(prog)s MODEL [--variant VARIANT] [-o FOLDER]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="download and check a model ahead of use",
        description="Download what one variant of a model needs, check it, and convert what is a pickle.\n"
        "Run it again to continue a download. Other commands do the same when they need a model.",
        epilog="example:\n  pyramid-seed fetch rain1011/pyramid-flow-miniflux --variant 384p",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="owner/name on the hub, or a folder to check")
    parser.add_argument("--variant", choices=VARIANTS, help="needed where the model has several")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="put the files there, for use as --model FOLDER (default: the hub's cache)",
    )


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed fetch`."""
    from ..checkpoints.source import read_source

    source = read_source(options.model, variant=options.variant, local_dir=options.output)
    source.check_weights()
    say("model", source.description)
    if (revision := source.reference["revision"]) is not None:
        say("revision", revision)
    sizes = [state.size for name, state in source.states.items() if name in source.files]
    say("files", f"{len(sizes)}, {size_text(sum(sizes))}")
    for name, copy in source.converted.items():
        say("converted", f"{name} to {copy.path}")
    return 0
