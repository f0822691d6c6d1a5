"""`pyramid-seed encode`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..run_options import RUN_OPTIONS, RunOptions
from ..texts import size_text
from .options import (
    Commands,
    add_field,
    add_list,
    add_quiet,
    add_setting_options,
    say,
    say_start,
    settings_from,
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "encode",
        usage="%(prog)s LIST -o FILE [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="encode the texts of a list ahead of its clips",
        description="Encode the prompts and negative prompts of a list with the text encoders alone, and "
        "write the embeddings to FILE. generate, batch, sweep, extend and verify take FILE as "
        "--prompt-embeds; they then neither load nor download the text encoders.",
        epilog="example:\n  pyramid-seed encode prompts.txt -o texts.safetensors\n"
        "  pyramid-seed batch prompts.txt -o clips --prompt-embeds texts.safetensors",
    )
    parser.set_defaults(run=run)
    add_list(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the .safetensors to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")
    add_setting_options(parser)
    group = parser.add_argument_group("running")
    for name in ("device", "determinism"):
        add_field(group, RUN_OPTIONS[name])
    add_quiet(group)


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed encode`."""
    say_start(options)

    from ..files import check_free, check_reachable
    from ..pipelines.encoded_texts import check_ending

    check_ending(options.output)
    check_free(options.output, overwrite=options.overwrite)
    check_reachable(options.output)

    from ..batch.encode import encode_list

    encoded = encode_list(
        options.prompts,
        file_format=options.format,
        preset=options.preset,
        device=options.device,
        determinism=options.determinism or RunOptions().determinism,
        progress=not options.quiet,
        **settings_from(options),
    )
    saved = encoded.save(options.output, overwrite=options.overwrite)
    say("texts", f"{len(encoded.texts)}, of {encoded.max_sequence_length} tokens in {encoded.dtype}")
    say("file", f"{saved}, {size_text(saved.stat().st_size)}")
    return 0
