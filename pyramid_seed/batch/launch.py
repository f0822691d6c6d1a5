"""The processes of one launch, and what they share: a list of work and a few counters.

They meet in the store of torch.distributed that torchrun and accelerate provide; a process takes the next
item by adding one to a counter. There are no collectives: a process that is slow or dead blocks no other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")

_POLL_SECONDS = 0.1
_CONNECT = timedelta(minutes=5)
_joined = count()

WORKING_COMMANDS = """\
  accelerate launch --config_file configs/accelerate/cpu-2.yaml scripts/generate_batch.py ...
  accelerate launch --multi_gpu --num_processes 2 scripts/generate_batch.py ...
  torchrun --nproc_per_node 2 scripts/generate_batch.py ..."""


class LaunchError(ConnectionError):
    """The processes of a launch have lost each other."""


@dataclass(frozen=True)
class Launch:
    """This process among those of its launch.

    Attributes:
        rank: 0 is the main process.
        local_rank: the same, on this machine.
        world_size: how many there are.
        store: shared by all.
    """

    rank: int
    local_rank: int
    world_size: int
    store: torch.distributed.Store  # type: ignore[name-defined]

    @property
    def is_main(self) -> bool:
        """Whether this process plans, gathers and reports."""
        return self.rank == 0

    def publish(self, plan: str) -> None:
        """Give all processes the plan; the main one does."""
        self.put("plan", plan)

    def plan(self, is_stopped: Callable[[], bool]) -> str | None:
        """Wait for the plan; None if stopped meanwhile."""
        while not self._ask(lambda: self.store.check(["plan"])):
            if is_stopped():
                return None
            time.sleep(_POLL_SECONDS)
        return self.get("plan")

    def put(self, name: str, text: str) -> None:
        """Let all processes read a text."""
        self._ask(lambda: self.store.set(name, text))

    def get(self, name: str) -> str:
        """The text that was put under a name."""
        return self._ask(lambda: self.store.get(name)).decode()

    def count(self, name: str, amount: int = 1) -> int:
        """Add to a counter of all processes, and read it."""
        return self._ask(lambda: self.store.add(name, amount))

    def take(self) -> int:
        """The place of the next item in the plan; each is given out once."""
        return self.count("taken") - 1

    def wait_for_others(self, is_stopped: Callable[[], bool], meanwhile: Callable[[], None]) -> bool:
        """Wait until every process has counted itself as "left", or until stopped; whether all have."""
        return self.wait_for("left", self.world_size, is_stopped, meanwhile)

    def wait_for(
        self,
        name: str,
        number: int,
        is_stopped: Callable[[], bool],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> bool:
        """Wait until a counter has come so far, or until stopped; whether it has."""
        while not (has_come := self.count(name, 0) >= number) and not is_stopped():
            meanwhile()
            time.sleep(_POLL_SECONDS)
        return has_come

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (torch.distributed.DistError, RuntimeError) as error:
            raise LaunchError(f"process {self.rank} has lost the others: {error}") from error


def join_launch(requested: int | None = None, environment: Mapping[str, str] = os.environ) -> Launch:
    """Find out which process of which launch this is.

    Called for every run of a launch, in the same order by all processes: each run, and each attempt of a
    launcher that starts processes again, has keys of its own in the store, else the second would take what
    the first has used up.

    Args:
        requested: how many processes were asked for, None if that was not said.
        environment: variables that torchrun, accelerate or a scheduler set.

    Raises:
        ValueError: there are more or fewer processes than were asked for; commands that work are named.
        LaunchError: the other processes cannot be reached.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    if requested is not None and requested != world_size:
        raise ValueError(
            f"asked for {requested} processes, {world_size} running; these start two:\n{WORKING_COMMANDS}"
        )
    # accelerate sets the address where several processes meet, then starts one, e.g. with --cpu.
    is_accelerate = any(name.startswith("ACCELERATE_") for name in environment)
    if is_accelerate and "WORLD_SIZE" not in environment and "MASTER_ADDR" in environment:
        raise ValueError(
            "accelerate was asked for several processes and started one (it does so with --cpu and with "
            f"configs that say distributed_type: MULTI_CPU or NO); these start two:\n{WORKING_COMMANDS}"
        )
    if world_size == 1:
        return Launch(0, 0, 1, torch.distributed.HashStore())  # type: ignore[attr-defined]
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise ValueError(f"WORLD_SIZE is {world_size} but {', '.join(missing)} is not set; use torchrun")
    try:
        store, rank = _meet()
    except (torch.distributed.DistError, RuntimeError) as error:
        raise LaunchError(f"the other processes cannot be reached: {error}") from error
    # torchrun starts processes again with the store of those that failed, and all of its counters.
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"attempt-{attempt}/run-{next(_joined)}"
    own = torch.distributed.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    return Launch(rank, int(environment.get("LOCAL_RANK", rank)), world_size, own)


@cache
def _meet() -> tuple[Any, int]:
    """The store of all processes and the rank of this one.

    Once a process: the main one may be serving the store, which must not go while others still use it.
    """
    store, rank, _ = next(torch.distributed.rendezvous("env://", timeout=_CONNECT))  # type: ignore[attr-defined]
    return store, rank
