"""`processes`: the steps of a guided clip by one process and by two, with equal bits."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState

from pyramid_seed.noise import noise_digest
from pyramid_seed.pieces.launched import leave_launch, processes_of_launch
from pyramid_seed.pieces.processes import Processes

from .fresh import environment, peak_memory, reset_peak_memory
from .measure import Bar, Result, Row, check_equal
from .sizes import SIZES, call_settings, device_for, make_pipeline

COUNTS = (1, 2)
LABELS = ("1 process", "2 processes")


def measure(options: argparse.Namespace) -> Result:
    """Launches of one process and of two in turn; the times are those of the steps alone, after a warm-up."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    told: dict[int, list[dict[str, Any]]] = {count: [] for count in COUNTS}
    times: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(options.repeats):
        for count in COUNTS:
            ranks = launch(count, size.name, device.type)
            told[count] += ranks
            times[count].append(max(rank["seconds"] for rank in ranks))
    check_equal(
        "one clip by another number of processes",
        [rank["digest"] for ranks in told.values() for rank in ranks],
    )
    row = Row(
        f"{size.num_units} units, steps {size.num_steps} a stage",
        {label: times[count] for label, count in zip(LABELS, COUNTS, strict=True)},
        LABELS,
    )
    bars = []
    if size.name == "mid":
        bars.append(Bar("two processes, times as fast as one", row.median_ratio, 1.7))
    return Result(
        command="processes",
        what=f"{size.description}; shards 1, one worker a process, latents, guided, determinism strict",
        baseline="one process, by the same launcher; the same clip in the same bits",
        rows=[row],
        bars=bars,
        facts={
            **_most("peak", "peak bytes of a process", told),
            # These can be compared where other programs have the cores, too.
            **_most("busy", "most CPU seconds of a process", told),
            "bytes that a process sends per step": told[2][0]["sent"],
        },
        device=device,
    )


def _most(name: str, title: str, told: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        f"{title}, {label}": max(rank[name] for rank in told[count])
        for label, count in zip(LABELS, COUNTS, strict=True)
    }


def launch(count: int, size_name: str, device: str) -> list[dict[str, Any]]:
    """What each of the processes of a launch of torchrun measured.

    Raises:
        RuntimeError: it failed; the end of what it said is told.
    """
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        work = ["-m", "benchmarks.processes", size_name, device, folder]
        command = [*launcher, "--nproc_per_node", str(count), *work]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
        if done.returncode:
            said = done.stderr.partition("failed (exitcode")[0]  # where the launcher's own report begins
            raise RuntimeError(f"{count} processes failed: {said.strip()[-800:]}")
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).iterdir())]


@torch.no_grad()
def make_steps(size_name: str, device: str) -> dict[str, Any]:
    """What each process does: a warm-up of one unit, then the clip."""
    size = SIZES[size_name]
    processes = processes_of_launch(device)
    pipeline = make_pipeline(size, PartialState().device, with_text=False)
    settings = call_settings(pipeline, size) | {"output_type": "latent", "shards": 1, "workers": 1}
    pipeline(**settings | {"num_frames": 1}, processes=processes)
    reset_peak_memory()
    with counted_swaps() as sent:
        started, busy = time.perf_counter(), time.process_time()
        latents = pipeline(**settings, processes=processes).latents
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    leave_launch()
    return {
        "seconds": seconds,
        "busy": busy,
        "peak": peak_memory(),
        "sent": round(sent() / (size.num_units * sum(size.num_steps))),
        "digest": noise_digest(latents),
    }


@contextmanager
def counted_swaps() -> Iterator[Callable[[], int]]:
    """Counts the bytes that this process sends in the body, but for what compares digests."""
    total = 0
    swap = Processes.swap

    def counted(
        self: Processes, sends: Mapping[int, Sequence[torch.Tensor]], *arguments: Any, **named: Any
    ) -> dict[int, list[torch.Tensor]]:
        nonlocal total
        tensors = [tensor for own in sends.values() for tensor in own]
        total += sum(tensor.nbytes for tensor in tensors if tensor.is_floating_point())
        return swap(self, sends, *arguments, **named)

    with patch.object(Processes, "swap", counted):
        yield lambda: total


if __name__ == "__main__":
    _, given_size, given_device, results = sys.argv
    measured = json.dumps(make_steps(given_size, given_device))
    Path(results, f"{PartialState().process_index}.json").write_text(measured, encoding="utf-8")
