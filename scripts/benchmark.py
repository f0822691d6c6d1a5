"""Measure what something costs, against a stated baseline, in turn, in one process.

    python scripts/benchmark.py determinism

`determinism` makes the same clip at the levels strict and relaxed. Times on a shared machine drift, so the
ratio of two neighbouring runs is what counts; medians and the spread are shown beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pyramid_seed import generate, load_preset
from pyramid_seed.api import default_device
from pyramid_seed.determinism import DETERMINISM_LEVELS, DeterminismLevel
from pyramid_seed.environment import environment_fingerprint

PROMPT = "a red circle moves to the right on a white background"


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, with everything that it queued on the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started


def in_turn(works: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[list[float]]:
    """Times of each work, one list a work: a warm-up of each, then A B A B ..."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, own in zip(works, times, strict=True):
            own.append(seconds_of(work, device))
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(times), "median": statistics.median(times), "max": max(times)}


def measure_determinism(options: argparse.Namespace) -> dict[str, Any]:
    """The same clip at both levels; the ratio is strict over relaxed, pair by pair."""
    device = torch.device(options.device or default_device())
    preset = load_preset(options.preset)

    def make(level: DeterminismLevel) -> Callable[[], object]:
        return lambda: generate(
            PROMPT, seed=0, preset=preset, device=str(device), determinism=level, progress=False
        )

    times = in_turn([make(level) for level in DETERMINISM_LEVELS], options.repeats, device)
    strict, relaxed = times
    return {
        "what": f"preset {preset.name}: {preset.num_frames} frames of {preset.height}x{preset.width}",
        "seconds": dict(zip(DETERMINISM_LEVELS, map(summary, times), strict=True)),
        "strict / relaxed": summary([a / b for a, b in zip(strict, relaxed, strict=True)]),
        "environment": environment_fingerprint(device),
    }


def show(result: dict[str, Any]) -> None:
    """Print a result as a table."""
    machine = result["environment"]
    threads, version = machine["threads"]["intraop"], machine["packages"]["torch"]
    print(result["what"])
    print(f"{machine['device']['name']} ({machine['device']['type']}), {threads} threads, torch {version}")
    print(f"{'':20} {'min':>8} {'median':>8} {'max':>8}")
    rows = {f"{level}, seconds": values for level, values in result["seconds"].items()}
    rows["strict / relaxed"] = result["strict / relaxed"]
    for name, values in rows.items():
        print(f"{name:20} " + " ".join(f"{values[column]:8.3f}" for column in ("min", "median", "max")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    determinism = commands.add_parser("determinism", help="what the level strict costs against relaxed")
    determinism.set_defaults(measure=measure_determinism)
    determinism.add_argument("--preset", default="tiny")
    determinism.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    determinism.add_argument("--repeats", type=int, default=5)
    determinism.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    options = parser.parse_args()
    result = options.measure(options)
    show(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
