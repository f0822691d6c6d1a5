"""`pyramid-seed monitor`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .options import Commands, add_many_options, say, say_start, tell_clips, tell_how_to_go_on
from .sweep import add_sweep_arguments, sweep_arguments

if TYPE_CHECKING:
    from ..explore.monitor import MonitorSummary


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "monitor",
        usage="%(prog)s MODEL PROMPT [PROMPT ...] -o FOLDER [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="watch a model while it is trained: the same sweep for every checkpoint",
        description="Sweep a checkpoint with the same prompts, seeds and settings as the ones before it,\n"
        "add its measures to FOLDER/history.csv, and draw their curves. Needs the extra `report`.",
        epilog="exit status: 0 every measure is where earlier checkpoints were, or there are too few of\n"
        "these; 1 a measure left its band; 2 an error, such as clips that could not be made\n\n"
        "example:\n  pyramid-seed monitor runs/step-3000 prompts.txt --seeds 0-3 --lossless -o nightly",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="the checkpoint: a folder, a hub id, or embedded:tiny")
    add_sweep_arguments(parser, "0-3")
    parser.add_argument(
        "--label", metavar="TEXT", help="what the history calls the checkpoint (default: after MODEL)"
    )
    add_many_options(parser, "LoRAs, as part of the checkpoint", without=("model",))


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed monitor`, on each process of a launch."""
    arguments = sweep_arguments(options)
    say_start(options)

    from ..explore.monitor import run_monitor

    summary = run_monitor(label=options.label, **arguments)
    if summary.sweep.batch.is_main:
        tell_clips(summary.sweep.batch, options)
        _tell(summary)
        tell_how_to_go_on(summary.sweep.batch)
    return summary.status


def _tell(summary: MonitorSummary) -> None:
    from ..explore.bands import MIN_EARLIER

    if summary.checkpoint is None:
        print("NOT JUDGED: clips are missing, so the history has no line for this checkpoint")
        return
    say("checkpoint", f"{summary.checkpoint.label} ({summary.checkpoint.weights[:12]})")
    say("history", summary.page)
    for name, value in summary.departures.items():
        band = summary.bands[name]
        say(name, f"{value:.4g}, expected {band.low:.4g} to {band.high:.4g}")
    if summary.departures:
        print(f"LEFT ITS BAND: {', '.join(summary.departures)}")
    elif summary.bands:
        print(f"WITHIN: {len(summary.bands)} measures")
    else:
        print(f"NOT JUDGED: there are fewer than {MIN_EARLIER} earlier checkpoints")
