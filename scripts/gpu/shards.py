"""`shards`: a clip cut into pieces, by one process and by two that share the device."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.fresh import environment, peak_memory, reset_peak_memory
from benchmarks.measure import seconds_of
from benchmarks.sizes import SIZES, Size, call_settings, make_pipeline

from pyramid_seed import PyramidFlowPipeline
from pyramid_seed.noise import noise_digest
from pyramid_seed.pieces.launched import leave_launch, processes_of_launch

from .plan import Plan
from .report import Section

SHARDS: tuple[int | None, ...] = (None, 1, 2, 3)
"""None: the guidance pair in one call. Those that do not divide the heads are left out."""
NUM_PROCESSES = 2
TIMEOUT = 120


def measure(section: Section, plan: Plan) -> None:
    """The same clip in all ways: time, peak, and which of them have the same bits."""
    size = plan.size if plan.size.name == "tiny" else replace(plan.size, height=384, width=640)
    section.how = (
        f"{size.description}, at {size.height}x{size.width}, {size.num_units} units, steps "
        f"{size.num_steps}, from embeddings to latents, guided, level strict, after a warm-up. Two processes "
        "are two hosts with one device each as far as they know; here both have the same one, so that the "
        "time says what passing data over the CPU by gloo costs, and not what a second device gains."
    )
    pipeline = section.run("make the pipeline", lambda: make_pipeline(size, plan.device, with_text=False))
    if pipeline is None:
        return
    heads = pipeline.transformer.config.num_attention_heads
    digests: dict[int | None, str] = {}
    for shards in SHARDS:
        if shards is None or heads % shards == 0:
            row = section.run(f"shards {shards}", partial(make_clip, pipeline, size, shards))
            if row is not None:
                digests[shards] = row["digest"]
                _tell(section, shards, 1, row, digests[shards] == digests.get(None))
    for shards in [shards for shards in digests if shards is not None]:
        ranks = section.run(
            f"shards {shards}, {NUM_PROCESSES} processes", partial(launch, size, plan.device, shards), 20
        )
        for row in (ranks or [])[:1]:
            _tell(section, shards, NUM_PROCESSES, row, row["digest"] == digests.get(None))
        if ranks and {row["digest"] for row in ranks} != {digests[shards]}:
            section.fail(f"shards {shards}", "promised: the bits of one process", json.dumps(ranks))
    for shards, digest in digests.items():
        again = section.run(f"shards {shards}, again", partial(make_clip, pipeline, size, shards))
        if again is not None and again["digest"] != digest:
            section.fail(f"shards {shards}, again", "promised: the same bits", f"{digest}, {again}")


def _tell(section: Section, shards: int | None, processes: int, row: Mapping[str, Any], same: bool) -> None:
    told = {"shards": "none" if shards is None else shards, "processes": processes}
    told |= {"seconds": row["seconds"], "peak, MiB": row["peak"] / 2**20}
    told |= {"latents are those of no shards": "yes" if same else "no", "latents": row["digest"][:16]}
    section.add_row("A clip in pieces", told)


def make_clip(
    pipeline: PyramidFlowPipeline, size: Size, shards: int | None, processes: Any = None
) -> dict[str, Any]:
    """Time, peak and digest of a clip, after a warm-up of one frame."""
    settings = call_settings(pipeline, size) | {"output_type": "latent", "shards": shards}
    made = []
    pipeline(**settings | {"num_frames": 1}, processes=processes)
    reset_peak_memory()
    seconds = seconds_of(
        lambda: made.append(pipeline(**settings, processes=processes).latents), pipeline.device
    )
    return {"seconds": seconds, "peak": peak_memory(), "digest": noise_digest(made[0])}


def launch(size: Size, device: torch.device, shards: int) -> list[dict[str, Any]]:
    """What each of the processes measured.

    Raises:
        RuntimeError: one failed; the end of what it said is told.
    """
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        values = [size.name, size.height, size.width, size.num_units, *size.num_steps]
        command = [sys.executable, "-m", "gpu.shards", json.dumps([*values, str(device), shards]), folder]
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(NUM_PROCESSES)}
        launched |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        logs = [Path(folder, f"{rank}.log") for rank in range(NUM_PROCESSES)]
        processes = []
        for rank, log in enumerate(logs):
            with log.open("w", encoding="utf-8") as stream:
                own_environment = {**environment(), **launched, "RANK": str(rank)}
                processes.append(
                    subprocess.Popen(command, env=own_environment, stdout=stream, stderr=subprocess.STDOUT)
                )
        try:
            statuses = [process.wait(TIMEOUT) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(statuses):
            told = [log.read_text(encoding="utf-8", errors="replace")[-600:] for log in logs]
            raise RuntimeError(f"the processes ended with {statuses}: {told}")
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))]


def main() -> None:
    """What each process does."""
    given, folder = sys.argv[1:]
    name, height, width, units, *steps, device, shards = json.loads(given)
    size = replace(
        SIZES[name], height=height, width=width, num_units=units, num_steps=(steps[0], steps[1], steps[2])
    )
    # NCCL refuses two processes on one device; what it passes on, and when, gloo passes on as well.
    dist.init_process_group("gloo")
    try:
        processes = processes_of_launch(device)
        pipeline = make_pipeline(size, torch.device(device), with_text=False)
        row = make_clip(pipeline, size, shards, processes)
        Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(row), encoding="utf-8")
    finally:
        leave_launch()


if __name__ == "__main__":
    main()
