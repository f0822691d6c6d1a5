"""The processes of one launch, and what they share: a list of work and a few counters.

They meet in the torch.distributed store that torchrun and accelerate provide; a process takes the next item
by adding one to a counter. There are no collectives: a slow or dead process blocks no other while there is
work. At the end all wait for each other, and a process whose sign of life stops changing is lost: the launch
then fails, or its launcher restarts it, which makes what that process had taken.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")

_POLL_SECONDS = 0.1
_CONNECT = timedelta(minutes=5)
_SIGN_SECONDS = 5.0
_LOST_SECONDS = 60.0
_LEAVE_SECONDS = 10.0
_LEFT = "left"
_ERRORS = (torch.distributed.DistError, RuntimeError)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>

WORKING_COMMANDS = """\
  accelerate launch --config_file configs/accelerate/cpu-2.yaml scripts/generate_batch.py ...
  accelerate launch --multi_gpu --num_processes 2 scripts/generate_batch.py ...
  torchrun --nproc_per_node 2 scripts/generate_batch.py ..."""


class LaunchError(ConnectionError):
    """The processes of a launch have lost each other."""


@dataclass(frozen=True)
class Launch:
    """This process and its launch.

    Attributes:
        rank: 0 is the main process.
        local_rank: the rank on this machine.
        world_size: how many processes there are.
        store: shared by all processes.
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
        """Give all processes the plan; called by the main process."""
        self.put("plan", plan)

    def plan(self, is_stopped: Callable[[], bool]) -> str | None:
        """Wait for the plan; None if stopped meanwhile."""
        while not self._ask(lambda: self.store.check(["plan"])):
            if is_stopped():
                return None
            time.sleep(_POLL_SECONDS)
        return self.get("plan")

    def put(self, name: str, text: str) -> None:
        """Publish a text under a name."""
        self._ask(lambda: self.store.set(name, text))

    def get(self, name: str) -> str:
        """The text published under a name."""
        return self._ask(lambda: self.store.get(name)).decode()

    def count(self, name: str, amount: int = 1) -> int:
        """Add to a shared counter; returns its new value."""
        return self._ask(lambda: self.store.add(name, amount))

    def take(self) -> int:
        """The place of the next item in the plan; each is given out once."""
        return self.count("taken") - 1

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Show the others that this process is alive while the body runs, and then that it has left."""
        if self.world_size == 1:
            yield
            return
        own = self.store.clone()  # waiting occupies the process's own connection
        has_left = threading.Event()

        def show() -> None:
            with suppress(*_ERRORS):  # the worker notices it
                for number in count():
                    own.set(f"alive/{self.rank}", str(number))
                    if has_left.wait(_SIGN_SECONDS):
                        break
                own.set(f"alive/{self.rank}", _LEFT)

        thread = threading.Thread(target=show, name="sign of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            has_left.set()
            thread.join(_LEAVE_SECONDS)

    def wait_for_others(self, is_stopped: Callable[[], bool], meanwhile: Callable[[], None]) -> bool:
        """Wait until every process has counted itself as "left", or until stopped; returns whether all have.

        Raises:
            LaunchError: a process has been lost.
        """
        return self.wait_for("left", self.world_size, is_stopped, meanwhile, needed=range(1, self.world_size))

    def end(self, is_stopped: Callable[[], bool]) -> None:
        """Let the others go; called by the main process at the end.

        It may be serving the store, so it waits until they have left, but only for a moment.
        """
        self.count("over")
        others, until = range(1, self.world_size), time.monotonic() + _LEAVE_SECONDS
        while time.monotonic() < until and not is_stopped():
            if all(self._sign(other) == _LEFT for other in others):
                return
            time.sleep(_POLL_SECONDS)

    def wait_for_end(self, is_stopped: Callable[[], bool]) -> None:
        """Wait for the main process, or until stopped.

        Raises:
            LaunchError: the main process has been lost.
        """
        self.wait_for("over", 1, is_stopped, needed=(0,))

    def wait_for(
        self,
        name: str,
        number: int,
        is_stopped: Callable[[], bool],
        meanwhile: Callable[[], None] = lambda: None,
        needed: Iterable[int] = (),
    ) -> bool:
        """Wait until a counter reaches a number, or until stopped; returns whether it has.

        Raises:
            LaunchError: a needed process has been lost.
        """
        began = looked_at = time.monotonic()
        signs: dict[int, tuple[float, str | None]] = dict.fromkeys(needed, (began, None))
        while not (has_come := self.count(name, 0) >= number) and not is_stopped():
            meanwhile()
            time.sleep(_POLL_SECONDS)
            if (now := time.monotonic()) > looked_at + _SIGN_SECONDS:
                self._look_for_lost(signs, now)
                looked_at = now
        return has_come

    def _look_for_lost(self, signs: dict[int, tuple[float, str | None]], now: float) -> None:
        """Check the signs of life of some processes, and raise if one has not changed for long.

        Args:
            signs: each process's latest sign, and since when; updated in place.
            now: the time in seconds of a monotonic clock.
        """
        for rank, (since, sign) in signs.items():
            if sign != (latest := self._sign(rank)):
                signs[rank] = now, latest
            elif now > since + _LOST_SECONDS and (sign != _LEFT or rank == 0):  # rank 0 stays to the end
                raise LaunchError(
                    f"process {rank} was lost: no sign of life for {_LOST_SECONDS:.0f} s. Finished "
                    "work is kept; start the launch again to make the rest, or let torchrun do so "
                    "(--max-restarts)"
                )

    def _sign(self, rank: int) -> str | None:
        name = f"alive/{rank}"
        return self.get(name) if self._ask(lambda: self.store.check([name])) else None

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except _ERRORS as error:
            raise LaunchError(f"process {self.rank} lost contact with the others: {error}") from error


def join_launch(requested: int | None = None, environment: Mapping[str, str] = os.environ) -> Launch:
    """Find out which process of which launch this is.

    All processes call this for every run of a launch, and it waits for them. Each run has its own keys in the
    store, and so has each attempt of a launcher that restarts processes or changes their number: otherwise
    the second run would take what the first has used up.

    Args:
        requested: how many processes were asked for; None if no number was given.
        environment: variables that torchrun, accelerate or a scheduler set.

    Raises:
        ValueError: there are more or fewer processes than asked for; the message names commands that work.
        LaunchError: the other processes cannot be reached.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    if requested is not None and requested != world_size:
        raise ValueError(
            f"asked for {requested} processes, {world_size} running; these commands start two:\n"
            f"{WORKING_COMMANDS}"
        )
    # accelerate sets the address if several processes meet, then starts only one, e.g. with --cpu.
    is_accelerate = any(name.startswith("ACCELERATE_") for name in environment)
    if is_accelerate and "WORLD_SIZE" not in environment and "MASTER_ADDR" in environment:
        raise ValueError(
            "accelerate was asked for several processes and started one (it does so with --cpu and with "
            f"configs that say distributed_type: MULTI_CPU or NO); these commands start two:\n"
            f"{WORKING_COMMANDS}"
        )
    if world_size == 1:
        return Launch(0, 0, 1, torch.distributed.HashStore())  # type: ignore[attr-defined]
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise ValueError(f"WORLD_SIZE is {world_size} but {', '.join(missing)} is not set; use torchrun")
    try:
        store, rank = _meet()
        name = _name_of_run(store, rank, world_size)
    except _ERRORS as error:
        raise LaunchError(f"the other processes cannot be reached: {error}") from error
    if "TORCHELASTIC_RUN_ID" in environment:
        _stop_with_parent()
    own = torch.distributed.PrefixStore(name, store)  # type: ignore[attr-defined]
    return Launch(rank, int(environment.get("LOCAL_RANK", rank)), world_size, own)


def _name_of_run(store: Any, rank: int, world_size: int) -> str:
    """The main process's name for this run, never an earlier attempt's, whose keys may be in the store.

    Launchers do not tell attempts apart: torchrun counts the failures of each machine, but not changes of
    their number. So every process asks with a random name of its own until it gets an answer.
    """
    own, until = secrets.token_hex(8), time.monotonic() + _CONNECT.total_seconds()
    if rank:
        store.set(f"asks/{rank}", own)
    answered: set[str] = set()
    while time.monotonic() < until:
        if rank and store.check([f"named/{own}"]):
            name = str(store.get(f"named/{own}").decode())
            store.add(f"{name}/here", 1)
            return name
        if not rank and store.add(f"{own}/here", 0) == world_size - 1:
            return own
        for other in () if rank else range(1, world_size):
            if (
                store.check([f"asks/{other}"])
                and (asks := store.get(f"asks/{other}").decode()) not in answered
            ):
                store.set(f"named/{asks}", own)
                answered.add(asks)
        time.sleep(_POLL_SECONDS)
    raise LaunchError(
        f"the other processes cannot be reached: process {rank} of {world_size} waited for "
        f"{_CONNECT.total_seconds():.0f} s. Where machines come and go, torchrun needs "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
    )


def _stop_with_parent() -> None:
    """Ask to be stopped if the launcher's process on this machine is killed: others then do our work."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


@cache
def _meet() -> tuple[Any, int]:
    """The store of all processes and the rank of this one.

    Once per process: the main one may be serving the store, which must stay while others use it.
    """
    store, rank, _ = next(torch.distributed.rendezvous("env://", timeout=_CONNECT))  # type: ignore[attr-defined]
    return store, rank
