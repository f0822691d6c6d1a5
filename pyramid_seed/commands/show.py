"""`pyramid-seed show`."""

from __future__ import annotations

import argparse
import json

from .options import Commands, add_clip, add_trust, say


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "show", help="say how a clip was made", description="Say how a clip was made: print its manifest."
    )
    parser.set_defaults(run=run)
    add_clip(parser)
    add_trust(parser)
    parser.add_argument("--json", action="store_true", help="the whole manifest, for programs")


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed show`."""
    from ..keying.manifest import describe_keyed, is_keyed, read_any_manifest
    from ..provenance.show import describe
    from ..provenance.signature import signature_step

    manifest = read_any_manifest(options.clip)
    step = signature_step(options.clip, options.trust) if options.trust or options.clip.is_file() else None
    if options.json:
        signature = {} if step is None else {"signature": f"{step.status}: {step.note}"}
        print(json.dumps(manifest | signature, indent=2, sort_keys=True))
    else:
        for name, text in describe_keyed(manifest) if is_keyed(manifest) else describe(manifest):
            say(name, text)
        if step is not None:
            say(step.stage, step.note)
    return 1 if step is not None and step.status == "differs" else 0
