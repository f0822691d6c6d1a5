"""`pyramid-seed sign`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Commands, named_path, say


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sign",
        usage="%(prog)s CLIP --cert FILE --key FILE [options]",
        help="sign a clip (C2PA): who made it, and that it was generated",
        description="Add a C2PA manifest to a clip, signed with your certificate: created by a trained "
        "model, with the digest of the clip's manifest. Needs the extra `sign`; see docs/labels.md.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("clip", type=named_path, metavar="CLIP", help="an .mp4 with its manifest inside")
    parser.add_argument(
        "--cert",
        type=named_path,
        metavar="FILE",
        required=True,
        help="your certificate and those that vouch for it, in PEM form",
    )
    parser.add_argument(
        "--key", type=named_path, metavar="FILE", required=True, help="its private key, in PEM form"
    )
    parser.add_argument(
        "--time-stamp",
        metavar="URL",
        help="a time stamp service (RFC 3161), so that the signature holds when the certificate has expired",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the signed file (default: in the place of CLIP)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed sign`."""
    from ..provenance.signature import signature_step
    from ..signing import sign

    path = sign(
        options.clip,
        cert=options.cert,
        key=options.key,
        output=options.output,
        overwrite=options.overwrite,
        time_stamp=options.time_stamp,
    )
    if (step := signature_step(path)) is not None:
        say(step.stage, step.note)
    say("file", path)
    return 0
