"""Measure what something costs, against a stated baseline, in turn, in one process.

    python scripts/benchmark.py clip --size mid --bars

Times on a shared machine drift, so the ratio of two neighbouring runs is what counts; medians and the spread
are shown beside it. docs/performance.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "noise": ("block noise against a loop over blocks", 7),
    "attention": ("attention of one layer against a dense mask", 5),
    "transformer": ("transformer steps against the reference path", 7),
    "vae": ("decoding against overlapping tiles, and its peak memory by length", 5),
    "clip": ("a whole clip against the reference path", 3),
    "startup": ("from the shell to help and to a written clip", 5),
    "memory": ("peak memory by memory mode", None),
    "determinism": ("what the level strict costs against relaxed", 5),
    "workers": ("a clip by one worker and by two, and what shards cost one", 3),
    "processes": ("the steps of a clip by one process and by two", 3),
    "batch": ("what a row of a list costs, by how long the list is", None),
    "scale": ("what a clip of 5 seconds leaves, and what many need", None),
    "tokens": ("how the sequence grows with the clip; runs no model", None),
    "operations": ("what a step asks of a device, counted at full size without weights", None),
}
"""What a subcommand is for, and how often it repeats unless told, None if it takes no times; each is a module
of `benchmarks`. It has the options that it heeds, so that any other one is refused."""


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="WHAT")
    for name, (purpose, repeats) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
        command.add_argument("--picture", type=Path, metavar="FILE", help="draw the result there")
        command.add_argument("--bars", action="store_true", help="PASS or FAIL; exit status 1 if one fails")
        if name in ("tokens", "operations"):
            continue
        if name == "scale":
            command.add_argument("--clips", type=int, default=10_000_000, metavar="N", help="(default: 10 M)")
            command.add_argument("--gpus", type=int, default=1_000, metavar="N", help="(default: 1,000)")
            command.add_argument(
                "--clip-seconds", type=float, help="of a GPU (default: by the steps of an H200, 768p)"
            )
            continue
        if name == "batch":
            rows, seconds = [1_000, 100_000], 10.0
            command.add_argument(
                "--rows", type=int, nargs="+", default=rows, metavar="N", help=f"(default: {rows})"
            )
            command.add_argument(
                "--seconds", type=float, default=seconds, help=f"that each batch works (default: {seconds})"
            )
            command.add_argument("--folder", type=Path, help="for clips, on the disk to be measured")
            continue
        if repeats is not None:
            command.add_argument("--repeats", type=int, default=repeats, help=f"(default: {repeats})")
        if name == "startup":
            parts = ("help", "clip")
            command.add_argument("--parts", nargs="+", choices=parts, default=parts)
            continue
        sizes = ("tiny", "mid") if name == "workers" else ("tiny", "mid", "full")
        command.add_argument("--size", choices=sizes, default="tiny", help="full needs a GPU (default: tiny)")
        if name not in ("noise", "workers"):  # which are of the CPU
            command.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
        if name not in ("workers", "processes"):  # which compute at level strict, with one
            command.add_argument(
                "--threads", type=int, metavar="N", help="of torch (default: torch's choice)"
            )
    added = commands.choices
    for name in ("vae", "workers"):
        added[name].add_argument("--no-memory", action="store_true", help="times only")
    added["clip"].add_argument("--determinism", choices=("strict", "relaxed"), default="strict")
    added["transformer"].add_argument("--unit", type=int, help="(default: the last of the size's clip)")
    added["transformer"].add_argument(
        "--torch-linears",
        action="store_true",
        help="the product without oneDNN, to see what the rest is worth",
    )
    added["memory"].add_argument("--modes", nargs="+", metavar="MODE", help="(default: all)")
    return parser


def main() -> int:
    """Measure, show, write; the exit status: 0 done, 1 a bar was missed, 2 it could not be measured."""
    # Read by cuBLAS when it starts; strict determinism needs it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = build_parser()
    options = parser.parse_args()
    for name in ("repeats", "threads"):
        if (number := getattr(options, name, None)) is not None and number < 1:
            parser.error(f"--{name} must be at least 1, got {number}; use 1")

    # Here, so that help and mistakes cost nothing.
    import torch
    from benchmarks.report import draw, show, show_bars

    if getattr(options, "threads", None) is not None:
        torch.set_num_threads(options.threads)
    try:
        result = import_module(f"benchmarks.{options.command}").measure(options)
    except (ValueError, RuntimeError) as error:
        print(f"benchmark.py {options.command}: {error}", file=sys.stderr)
        return 2
    show(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    if options.picture is not None:
        draw(result, options.picture)
    if not options.bars:
        return 0
    show_bars(result)
    return 0 if all(bar.passed for bar in result.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
