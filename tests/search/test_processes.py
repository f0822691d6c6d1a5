"""One search on any number of processes, in any order of a list, and killed at any time: the same record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyramid_seed.cli import main
from tests.file_events import before_each_change
from tests.forks import fork

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROMPTS = ["a boat", "a red circle", "the sea"]
TREE = ["--scorer", "sharpness", "--width", "3", "--keep", "2", "--branching", "2", "--at", "1", "2"]
KILLS = 20


def options_of(quick):
    settings = ["--model", quick["model"], "--variant", "384p", "--preset", "tiny", "--num-frames", "17"]
    settings += ["--num-inference-steps", "1", "--video-num-inference-steps", "1", "--scale", "1"]
    return [*TREE, *settings, "--device", "cpu", "--workers", "1", "--quiet"]


def written(folder, name, prompts):
    path = folder / name
    path.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return str(path)


def results_of(folder):
    """Records and winners, by their paths."""
    paths = [*folder.rglob("search.json"), *folder.rglob("winner.mp4")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_processes_and_order_change_nothing(quick, tmp_path):
    options = options_of(quick)
    one = written(tmp_path, "one.txt", PROMPTS)
    assert main(["search", one, "-o", str(tmp_path / "one"), *options]) == 0
    wanted = results_of(tmp_path / "one")
    assert len(wanted) == 2 * len(PROMPTS)
    for number in (2, 3):
        shuffled = written(tmp_path, f"{number}.txt", PROMPTS[number - 1 :] + PROMPTS[: number - 1])
        output = tmp_path / f"of-{number}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(number), "-m", "pyramid_seed", "search", shuffled]
        command += ["-o", str(output), *options, "--num-processes", str(number)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert results_of(output) == wanted


def test_a_search_that_is_killed_twenty_times_is_the_same(quick, tmp_path):
    """A copy of this process is killed before its n-th change of a file, with a larger n each time."""
    options = options_of(quick)
    assert main(["search", "a boat", "-o", str(tmp_path / "whole"), *options]) == 0
    output = tmp_path / "killed"
    output.mkdir()

    def search(last):
        before_each_change(output, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == last else None)
        return main(["search", "a boat", "-o", str(output), *options])

    endings = [fork(lambda n=n: search(n)).wait()[0] for n in range(5, 5 + 2 * KILLS, 2)]
    assert endings.count(-signal.SIGKILL) == KILLS, "the search came to its end before the last kill"
    assert main(["search", "a boat", "-o", str(output), *options]) == 0
    assert results_of(output) == results_of(tmp_path / "whole")
