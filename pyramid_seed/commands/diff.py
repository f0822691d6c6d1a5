"""`pyramid-seed diff`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .options import Commands, say, say_step

if TYPE_CHECKING:
    from ..provenance.diff import ManifestDiff


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "diff",
        help="compare two clips by their manifests",
        description="What differs between two clips: settings, weights, environment, and where the runs "
        "part. Nothing is made again, and no pixels are read: `compare` does that.",
        epilog="exit status: 0 the same clip, 1 they differ, 2 there is no manifest",
    )
    parser.set_defaults(run=run)
    parser.add_argument("a", type=Path, metavar="A", help="a clip, or a manifest")
    parser.add_argument("b", type=Path, metavar="B", help="another one")


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed diff`."""
    from ..provenance.diff import diff_manifests
    from ..provenance.manifest import read_manifest

    difference = diff_manifests(read_manifest(options.a), read_manifest(options.b))
    tell_difference(difference)
    return 0 if difference.is_same_clip else 1


def tell_difference(difference: ManifestDiff) -> None:
    """Print how two manifests differ."""
    from ..texts import printable

    for kind in ("settings", "weights", "environment"):
        for field in getattr(difference, kind):
            say(kind, printable(f"{field.field}: {field.a!r} | {field.b!r}"))
    for step in difference.steps:
        say_step(step)
    units = difference.num_units
    if difference.parting is not None:
        print(f"DIFFERENT: the runs diverge in {difference.parting.stage}: {difference.parting.note}")
    elif units[0] != units[1]:
        shorter, longer = ("A", "B") if units[0] < units[1] else ("B", "A")
        print(f"DIFFERENT: {shorter} is the beginning of {longer} ({min(units)} of {max(units)} units)")
    else:
        print("SAME CLIP")
