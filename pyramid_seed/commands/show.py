"""`pyramid-seed show`."""

from __future__ import annotations

import argparse
import json

from .options import Commands, add_clip, say


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "show", help="say how a clip was made", description="Say how a clip was made: print its manifest."
    )
    parser.set_defaults(run=run)
    add_clip(parser)
    parser.add_argument("--json", action="store_true", help="the whole manifest, for programs")


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed show`."""
    from ..keying.manifest import describe_keyed, is_keyed, read_any_manifest
    from ..provenance.show import describe

    manifest = read_any_manifest(options.clip)
    if options.json:
        print(json.dumps(manifest, indent=2, sort_keys=True))
        return 0
    for name, text in describe_keyed(manifest) if is_keyed(manifest) else describe(manifest):
        say(name, text)
    return 0
