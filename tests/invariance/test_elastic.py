"""A launch whose machines go and come: torchrun's elastic launches on machines that are network namespaces.

Each machine has an agent of its own and a shared folder. The first one, where they meet, stays.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.batch.makers import run as run_noise
from tests.batch.makers import slow_maker

from .launches import (
    ROOT,
    ROWS,
    SCRIPT,
    arguments,
    assert_as_alone,
    digests,
    has_units,
    kill,
    pids,
    wait_for,
    write_list,
)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "2"))
"""Of the campaign; with more it takes longer."""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Machines:
    """A network of namespaces; the last byte of an address is the machine's number."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.bridge = f"{os.getpid()}n{next(self.numbers)}"
        self.count = 0

    def start(self) -> None:
        """Make the network and the first machine."""
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")
        self.add()

    def add(self) -> str:
        """The name of a new machine."""
        self.count += 1
        name = f"{self.bridge}-{self.count}"
        inner, outer = f"{name}i", f"{name}o"
        ip("netns", "add", name)
        ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        ip("link", "set", outer, "master", self.bridge, "up")
        ip("link", "set", inner, "netns", name)
        ip("-n", name, "address", "add", f"10.213.0.{self.count}/24", "dev", inner)
        ip("-n", name, "link", "set", inner, "up")
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def lose(self, name: str) -> None:
        """A machine is gone, with all its processes at once."""
        self.unplug(name)
        for pid in ip("netns", "pids", name).split():
            kill(int(pid))

    def unplug(self, name: str) -> None:
        ip("link", "set", f"{name}o", "down")

    def close(self) -> None:
        for number in range(1, self.count + 1):
            name = f"{self.bridge}-{number}"
            with suppress(subprocess.CalledProcessError):  # one that could not be made
                for pid in ip("netns", "pids", name).split():
                    kill(int(pid))
                ip("netns", "del", name)
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", self.bridge)


@pytest.fixture
def machines() -> Iterator[Machines]:
    if shutil.which("ip") is None:
        pytest.skip("left out: there is no `ip` to make network namespaces with")
    made = Machines()
    try:
        try:
            made.start()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"left out: network namespaces cannot be made here ({error.stderr.strip()})")
        yield made
    finally:
        made.close()


def join(machine: str, log: Path, command: list[str]) -> subprocess.Popen:
    """Start the agent of a machine, which has one process, in a launch of one or two."""
    number = machine.rpartition("-")[2]
    rendezvous = "last_call_timeout=5,keep_alive_interval=2,keep_alive_max_attempt=10,"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc_per_node", "1"]
    torchrun += ["--max-restarts", "20", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.213.0.1:29500"]
    torchrun += ["--rdzv-id", "batch", "--local-addr", f"10.213.0.{number}", "--monitor-interval", "1"]
    torchrun += ["--rdzv-conf", f"{rendezvous}is_host={int(number == '1')}"]
    with log.open("a") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", machine, *torchrun, *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def works(output: Path, machine: str) -> bool:
    """Whether a process of a machine has begun with the batch."""
    return bool({str(pid) for pid in pids(output).values()} & {*ip("netns", "pids", machine).split()})


def test_a_machine_goes_and_another_one_comes(tmp_path, plain, settings, machines):
    source, output, log = write_list(tmp_path, ROWS), tmp_path / "clips", tmp_path / "log.txt"
    command = [SCRIPT, *arguments(source, output, settings)]
    first = join(f"{machines.bridge}-1", log, command)
    join(second := machines.add(), log, command)
    assert wait_for(lambda: len(pids(output)) == 2 and has_units(output), first), log.read_text()
    machines.lose(second)
    join(machines.add(), log, command)  # it may find nothing left to do; the campaign waits for each to work
    assert first.wait(600) == 0, log.read_text()
    assert digests(output) == plain


def make_slowly(folder: Path, seeds: int) -> int:
    """A batch of clips that need no model, on the processes of a launch."""
    return run_noise(folder, *range(seeds), maker=slow_maker(seeds), environment=os.environ).status


def test_agents_and_machines_lost_at_random_moments_again_and_again(tmp_path, machines):
    """In turn an agent, whose process is left alone, and a machine; each time another machine comes."""
    draw, seeds, output, log = random.Random(0), 60 * KILLS, tmp_path / "clips", tmp_path / "log.txt"
    script = tmp_path / "batch.py"
    script.write_text(
        f"import pathlib, sys\nfrom {__name__} import make_slowly\n"
        f"sys.exit(make_slowly(pathlib.Path({str(output)!r}), {seeds}))\n"
    )
    first = join(f"{machines.bridge}-1", log, [str(script)])
    machine, agent = (name := machines.add()), join(name, log, [str(script)])
    num_killed = 0
    while num_killed < KILLS and wait_for(lambda name=machine: works(output, name), first, pause=0.1):
        time.sleep(draw.uniform(0, 3))
        if num_killed % 2:
            machines.lose(machine)
        else:
            agent.kill()
        num_killed += 1
        machine, agent = (name := machines.add()), join(name, log, [str(script)])
    assert first.wait(1800) == 0, log.read_text()
    assert num_killed == KILLS, "it has ended before all were killed"
    run_noise(tmp_path / "alone", *range(seeds))
    assert_as_alone(output, tmp_path / "alone")
