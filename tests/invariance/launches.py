"""Launches of a batch as real processes, and what they leave in its folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pyramid_seed import run_batch
from pyramid_seed.files import file_digest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "generate_batch.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
LENGTHS = {"a boat": 25, "a red circle": 9, "a sea": 17, "a small house": 9, "a tree": 17}
ROWS = [{"prompt": prompt, "num_frames": length, "seed": 3} for prompt, length in LENGTHS.items()]


def write_list(folder: Path, rows: list[dict]) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(source: Path, output: Path, settings: dict) -> list[str]:
    """What `pyramid-seed batch` is given."""
    options = [
        text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [str(source), "-o", str(output), *options]


def start(launcher: list[str], source: Path, output: Path, settings: dict) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*launcher, SCRIPT, *arguments(source, output, settings)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def launch(launcher: list[str], source: Path, output: Path, settings: dict) -> tuple[int, str]:
    process = start(launcher, source, output, settings)
    text, _ = process.communicate(timeout=600)
    return process.returncode, text


def index(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "index.jsonl").read_text().splitlines()]


def outcomes(output: Path) -> list[dict]:
    """The index without what says who made a clip, when, and how often it was interrupted."""
    left_out = ("process", "seconds", "mtime_ns", "resumed_units")
    return [{name: value for name, value in entry.items() if name not in left_out} for entry in index(output)]


def digests(output: Path) -> dict[str, tuple[str, str]]:
    """Digests of the frames, as the index has them, and of the very bytes of the files that are there."""
    done = {
        entry["file"]: (entry["digest"], file_digest(output / entry["file"]))
        for entry in index(output)
        if entry["status"] == "done"
    }
    assert sorted(done) == sorted(path.name for path in output.glob("*.mp4"))
    return done


def assert_as_alone(output: Path, alone: Path) -> None:
    """A batch has the files and the index of one that a single process made, and nothing is left behind."""
    assert digests(output) == digests(alone)
    assert outcomes(output) == outcomes(alone)
    assert not list(output.rglob(".*.tmp*"))
    assert not [
        path for path in (output / ".work").iterdir() if path.name not in ("lock", "records", "strips")
    ]


def pids(output: Path) -> dict[int, int]:
    """Process ids by rank, from the logs; of several launches, those of the last."""
    found = {}
    for path in (output / "logs").glob("process-*.log"):
        if logged := re.findall(r"^\d\S+ \S+ (\d+) [A-Z]+ ", path.read_text(), re.MULTILINE):
            found[int(path.stem.split("-")[1])] = int(logged[-1])
    return found


def has_units(output: Path) -> list[Path]:
    """Finished units of unfinished clips."""
    return list(output.glob(".work/*/unit-*.safetensors"))


def wait_for(condition, process: subprocess.Popen, pause: float = 0.005) -> bool:
    """Wait for a condition; False if the launch ends first."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(pause)
    return True


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(process: subprocess.Popen, output: Path) -> None:
    """The launcher first, so that it can tell nobody."""
    process.kill()
    for pid in pids(output).values():
        kill(pid)
    process.communicate()


def finish(source: Path, output: Path, settings: dict) -> None:
    """A second launch makes the rest."""
    assert run_batch(source, output, progress=False, **settings).status == 0
