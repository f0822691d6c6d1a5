"""A clip does not depend on Ray's actors, and none is lost with an actor, a machine or the driver.

The clusters are of this machine: a node is a raylet of its own, with one core.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyramid_seed import run_batch
from tests.batch.makers import run as run_noise
from tests.batch.makers import slow_maker

from .launches import (
    ROOT,
    ROWS,
    SCRIPT,
    arguments,
    assert_as_alone,
    digests,
    finish,
    has_units,
    index,
    kill,
    outcomes,
    pids,
    wait_for,
    write_list,
)

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "4"))
"""Of the campaign; with more it takes longer."""
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Ray's files lie in a folder of their own, with a short name for its sockets; its processes end."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
        assert wait_until(lambda: not processes_of(folder), 30), processes_of(folder)


def processes_of(folder: str) -> list[str]:
    """Processes that Ray has started with its files in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder and process.pid != os.getpid():
                found.append(" ".join(process.cmdline())[:100])
        except psutil.Error:
            pass
    return found


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def start(source: Path, output: Path, settings: dict, *options: str) -> subprocess.Popen:
    """The command, in a process group of its own, as on a terminal."""
    command = [sys.executable, SCRIPT, *arguments(source, output, settings), "--engine", "ray", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def actors(output: Path) -> dict[int, int]:
    """Process ids of actors at work, by their numbers."""
    return {number: pid for number, pid in pids(output).items() if number and psutil.pid_exists(pid)}


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(nodes - 1):
            started.add_node(**NODE)
        yield started
    finally:
        started.shutdown()


def test_a_killed_actor_is_started_again_and_goes_on(tmp_path, plain, settings):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    process = start(source, output, settings)
    assert wait_for(lambda: has_units(output) and actors(output), process), process.communicate()[0]
    kill(random.Random(0).choice(list(actors(output).values())))
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert "5 made" in text
    assert f"{len(ROWS)}/{len(ROWS)} clips" in text
    assert digests(output) == plain
    finish(source, tmp_path / "alone", settings)
    assert outcomes(output) == outcomes(tmp_path / "alone")
    assert 0 not in {entry["process"] for entry in index(output)}


def test_two_machines_of_which_one_is_lost(tmp_path, plain, settings):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    with cluster(2) as started:
        process = start(source, output, settings, "--address", started.address)
        assert wait_for(lambda: len(actors(output)) == 2 and has_units(output), process), (
            process.communicate()
        )
        (lost,) = started.worker_nodes
        started.remove_node(lost, allow_graceful=False)
        text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert digests(output) == plain


def test_a_machine_that_comes_takes_its_part(tmp_path, settings):
    rows = [{"prompt": "a tree", "num_frames": 17, "seed": seed} for seed in range(40)]
    source, output = write_list(tmp_path, rows), tmp_path / "clips"
    with cluster(1) as started:
        process = start(source, output, settings, "--address", started.address)
        assert wait_for(lambda: list(output.glob("*.mp4")), process), process.communicate()
        started.add_node(**NODE)
        text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert len({entry["process"] for entry in index(output)}) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(tmp_path, plain, settings, number):
    """Of a terminal, Ctrl+C goes to all processes in front of it."""
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    process = start(source, output, settings)
    assert wait_for(lambda: has_units(output), process), process.communicate()[0]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, text
    assert "run the same command again" in text
    assert "Traceback" not in text
    finish(source, output, settings)
    assert digests(output) == plain


def test_a_killed_driver_leaves_nothing_behind(tmp_path, plain, settings):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    process = start(source, output, settings)
    assert wait_for(lambda: has_units(output), process), process.communicate()[0]
    process.kill()
    process.communicate()
    assert wait_until(lambda: not processes_of(os.environ["RAY_TMPDIR"]), 60)
    finish(source, output, settings)
    assert digests(output) == plain


def test_a_failing_item_among_others(tmp_path, settings, capfd):
    rows = [{"prompt": "a"}, {"prompt": "b", "guidance_scale": 1e38, "num_inference_steps": 4}]
    source, output = write_list(tmp_path, rows), tmp_path / "clips"
    options = settings | {"num_frames": 9, "engine": "ray", "progress": False}
    summary = run_batch(source, output, **options)
    assert (summary.status, summary.made) == (1, 1)
    (reason,) = summary.failed.values()
    assert reason.startswith("FloatingPointError: latents are not finite")
    assert capfd.readouterr().out == ""
    assert not ray.is_initialized()


def make_slowly(folder: Path, address: str, seeds: int) -> int:
    """A batch of clips that need no model, on the actors of a cluster."""
    from pyramid_seed.batch.engine import RayOptions
    from pyramid_seed.batch.ray_engine import work_on_actors

    on_actors = partial(
        work_on_actors,
        maker_on=lambda _: slow_maker(seeds),
        options=RayOptions(address, device="cpu"),
    )
    return run_noise(folder, *range(seeds), work_on=on_actors).status


@pytest.mark.parametrize("nodes", [1, 2])
def test_killed_at_random_moments_again_and_again(tmp_path, nodes):
    """Actors of one machine; of two, in turn an actor and the second machine, for which another one comes."""
    draw, seeds = random.Random(nodes), 40 * KILLS
    output = tmp_path / "clips"
    killed: set[int] = set()
    with cluster(nodes) as started:
        code = (
            f"import sys, pathlib; from {__name__} import make_slowly; "
            f"sys.exit(make_slowly(pathlib.Path({str(output)!r}), {started.address!r}, {seeds}))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def fresh() -> list[int]:
            return sorted(set(actors(output).values()) - killed)

        for number in range(KILLS):
            if not wait_for(fresh, process):
                break
            time.sleep(draw.uniform(0, 3))
            if nodes > 1 and number % 2:
                (lost,) = started.worker_nodes
                started.remove_node(lost, allow_graceful=False)
                started.add_node(**NODE)
                killed.add(-number)
            elif victims := fresh():
                kill(victim := draw.choice(victims))
                killed.add(victim)
        text, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, text
    assert len(killed) == KILLS, "it has ended before all were killed"
    run_noise(tmp_path / "alone", *range(seeds))
    assert_as_alone(output, tmp_path / "alone")
