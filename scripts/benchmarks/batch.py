"""`batch`: what a row of a list costs, by how long the list is; one process, on the CPU, from the shell."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

from .fresh import environment, peak_memory, run_fresh
from .measure import Bar, Result

TINY, EMBEDDED = "tiny files", "embedded model"
FILL = "fill"
"""A maker that records all but a hundredth of the clips as done, without making them."""
_STEPS = ("--num-frames", "1", "--num-inference-steps", "1")  # one per stage


def measure(options: argparse.Namespace) -> Result:
    """Seconds to the first clip and per clip, and peak memory, of a fresh start and of going on."""
    counts = sorted(options.rows)
    table: list[tuple[str, ...]] = [
        ("rows", "maker", "first clip, s", "CPU, s", "per clip, ms", "CPU, ms", "peak, GB")
    ]
    fresh: dict[int, dict[str, float]] = {}
    later: dict[int, dict[str, float]] = {}
    for place, count in enumerate(counts):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            prompts = _write_list(Path(folder) / "list.txt", count)
            told = fresh[count] = launch(prompts, Path(folder) / "fresh", TINY, options.seconds)
            table.append(_cells(count, TINY, told))
            if count == counts[-1]:  # times on a shared machine drift, so neighbours are compared
                shortest = _write_list(Path(folder) / "shortest.txt", counts[0])
                neighbour = launch(shortest, Path(folder) / "neighbour", TINY, options.seconds)
                table.append(_cells(counts[0], f"{TINY}, again", neighbour))
            if place < 2:
                told = launch(prompts, Path(folder) / "embedded", EMBEDDED, options.seconds)
                table.append(_cells(count, EMBEDDED, told))
            launch(prompts, Path(folder) / "later", FILL, 0)
            told = later[count] = launch(prompts, Path(folder) / "later", TINY, options.seconds)
            table.append(_cells(count, f"{TINY}, 99 % of them there", told))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        prompts = _write_list(Path(folder) / "list.txt", counts[-1])
        told = launch(prompts, Path(folder) / "part", TINY, options.seconds, part="0/100")
        table.append(_cells(counts[-1], f"{TINY}, part 0/100", told))
        launch(prompts, Path(folder) / "gathered", FILL, 0, part="0/1")
        gathered = run_fresh("benchmarks.batch", "gather", [str(Path(folder) / "gathered")])
    least, most = counts[0], counts[-1]
    growth = fresh[most]["clip_cpu_seconds"] / neighbour["clip_cpu_seconds"]
    waits = later[most]["first_seconds"] - fresh[most]["first_seconds"]
    peak = max(told["peak"] for told in (fresh[most], later[most])) / 1e9
    bars = [
        Bar(f"first clip of {most:,}, seconds", fresh[most]["first_seconds"], 60),
        Bar(f"going on with 99 % of {most:,} there, seconds more", waits, 60),
        Bar(f"peak of {most:,}, GB", peak, 1.5),
        Bar(f"CPU time per clip, {most:,} rows / {least:,} rows", growth, 1.1),
    ]
    return Result(
        command="batch",
        what=f"prompts of one preset; `{TINY}` is a maker that computes nothing and writes 4 bytes per clip",
        bars=[Bar(bar.name, bar.got, bar.limit, is_lower_limit=False) for bar in bars],
        facts={f"peak bytes, {count:,} rows": told["peak"] for count, told in fresh.items()}
        | {f"--gather of {most:,}, {name}": value for name, value in gathered["value"].items()}
        | {f"--gather of {most:,}, peak, GB": gathered["peak"] / 1e9},
        table=table,
    )


def _write_list(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"a red circle, number {n}, moves to the right\n" for n in range(count))
    return path


def launch(prompts: Path, output: Path, maker: str, seconds: float, *, part: str = "") -> dict[str, float]:
    """What a batch measures that is stopped so many seconds after its first clip.

    Raises:
        RuntimeError: it failed; the end of what it said is told.
    """
    command = [sys.executable, "-m", "benchmarks.batch", str(prompts), str(output), maker, str(seconds)]
    command += [part, repr(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise RuntimeError(f"the batch of {prompts} failed: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _cells(count: int, maker: str, told: dict[str, float]) -> tuple[str, ...]:
    names = ("first_seconds", "first_cpu_seconds", "clip_seconds", "clip_cpu_seconds")
    first, first_cpu, clip, clip_cpu = (told[name] for name in names)
    figures = (f"{first:.1f}", f"{first_cpu:.1f}", f"{1e3 * clip:.1f}", f"{1e3 * clip_cpu:.1f}")
    return (f"{count:,}", maker, *figures, f"{told['peak'] / 1e9:.2f}")


def run_batch(
    prompts: str, output: str, maker: str, seconds: float, part: str, started: float
) -> dict[str, float]:
    """What a fresh process does, which was started at that time: a batch, and the times of its clips."""
    from pyramid_seed.batch import run
    from pyramid_seed.batch.journal import Journal
    from pyramid_seed.batch.worker import Worker
    from pyramid_seed.cli import main

    if maker == TINY:
        run._ClipMaker.make = _make_tiny_file  # type: ignore[method-assign, assignment]
    if maker == FILL:
        Worker.work = _fill  # type: ignore[method-assign, assignment]
    ends: list[tuple[float, float]] = []
    record = Journal.record

    def noted_record(journal: Journal, entry: Any) -> None:
        record(journal, entry)
        ends.append((time.time(), time.process_time()))
        if ends[-1][0] > ends[0][0] + seconds:
            os.kill(os.getpid(), signal.SIGTERM)

    Journal.record = noted_record  # type: ignore[method-assign, assignment]
    with redirect_stdout(sys.stderr):
        parts = ["--part", part] if part else []
        status = main(["batch", prompts, "-o", output, "--quiet", "--device", "cpu", *_STEPS, *parts])
    if maker == FILL:
        return {}
    if status not in (0, 143) or len(ends) < 2:
        raise RuntimeError(f"the batch ended with status {status} after {len(ends)} clips")
    told = {"first_seconds": ends[0][0] - started, "first_cpu_seconds": ends[0][1], "peak": peak_memory()}
    for place, name in enumerate(("clip_seconds", "clip_cpu_seconds")):
        times = [end[place] for end in ends]
        told[name] = statistics.median(b - a for a, b in pairwise(times))
    return told


def gather(output: str) -> dict[str, float]:
    """Seconds of `--gather` where the clips of one part are in its folder, and what it wrote and read."""
    from pyramid_seed import gather_parts

    folder = Path(output)
    started = time.perf_counter()
    found = gather_parts(folder).found
    seconds = time.perf_counter() - started
    plan = folder / ".work" / "parts" / "part-0-of-1.json"
    return {
        "seconds": seconds,
        "index, bytes per clip": (folder / "index.jsonl").stat().st_size / found,
        "plan, bytes per clip": plan.stat().st_size / found,
    }


class _TinyFile:
    digest, notes, seconds = "0" * 64, (), 0.1

    def save(self, path: Path, *, lossless: bool, overwrite: bool) -> Path:  # noqa: ARG002
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"tiny")
        return path


def _make_tiny_file(_: Any, order: Any, on_step: Any, __: Any, sink: Any) -> _TinyFile:
    """In place of `_ClipMaker.make`."""
    import numpy as np

    for _step in range(sum(order.job.steps)):
        on_step()
    sink.num_frames = 1
    if sink.strip is not None:
        sink.strip.add(np.zeros((8, 8, 3), np.uint8))
    return _TinyFile()


def _fill(worker: Any, work: Any, _: Any) -> None:
    """In place of `Worker.work`."""
    from pyramid_seed.batch.entries import entry_line
    from pyramid_seed.batch.journal import file_state
    from pyramid_seed.files import file_digest

    clip = _TinyFile()
    with (worker.journal.folder / "index.jsonl").open("ab") as index:
        for place in range(work.number - max(10, work.number // 100)):
            job = work.job(place)
            path = clip.save(worker.journal.folder / job.file, lossless=False, overwrite=True)
            outcome = {"digest": clip.digest, "file_sha256": file_digest(path), **file_state(path.stat())}
            outcome |= {"num_frames": 1, "seconds": clip.seconds, "resumed_units": 0}
            index.write(entry_line(worker._entry(job, "done") | outcome))


if __name__ == "__main__":
    _, listed, folder, chosen, duration, own_part, began = sys.argv
    print(json.dumps(run_batch(listed, folder, chosen, float(duration), own_part, float(began))))
