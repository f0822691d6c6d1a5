"""Ray shares a batch out: a pool of actors, each with its model; nothing else here imports Ray.

The process that runs the batch plans, gathers and reports as without Ray, and hands out the jobs. Ray starts
an actor again when its process or machine is lost, and gives it the same job, which goes on after its last
finished unit.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import ray
import torch.distributed
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from ..devices import usable_device
from ..loading import default_device
from ..pieces.workers import usable_cores
from .engine import RayOptions
from .identity import Job
from .journal import Journal
from .launch import Launch, LaunchError
from .log import log_file
from .maker import Maker
from .work import Work
from .worker import COUNTERS, Worker

logger = logging.getLogger(__name__)

_MAX_TASK_RETRIES = 9
"""How often an item is begun again after its process was lost; then it counts as failed, as others would be
lost by it, too."""
_OF_ITS_OWN = "local"  # an address that starts a cluster on this machine, which ends with the batch
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 0.5
_ROOM_SECONDS = 5.0
_WARN_SECONDS = 60.0
_HEAR_SECONDS = 10.0
"""Who has not heard within that time that it is to stop is not there, or hangs."""


def work_on_actors(
    worker: Worker,
    work: Work,
    on_progress: Callable[[], None],
    *,
    maker_on: Callable[[str], Maker],
    options: RayOptions,
) -> None:
    """Let actors make what is to be made, in place of `Worker.work`, whose arguments and errors these are.

    Args:
        maker_on: the maker of an actor, by its device; it is sent to all of them.
        options: see `RayOptions`.

    Raises:
        ValueError: the cluster has no room for an actor and will not grow.
        ConnectionError: there is no cluster at the address, or actors cannot be started.
    """
    if work.number == 0:
        return
    # Ray tells of lost processes on the standard output, which is for results.
    with redirect_stdout(sys.stderr), _cluster(options) as needs:
        pool = _Pool(worker, work, maker_on, options, needs)
        try:
            pool.run(on_progress)
        finally:
            pool.close()


@contextmanager
def _cluster(options: RayOptions) -> Iterator[dict[str, float]]:
    """Connect to Ray, unless that was done; yields what an actor needs."""
    if ray.is_initialized():
        yield _needs(options)
        return
    address = _address(options)
    said = Path(os.environ.get("RAY_USAGE_STATS_CONFIG_PATH", "~/.ray/config.json")).expanduser()
    if not said.exists():  # else somebody has told Ray whether to report its usage
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        address,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({"num_cpus": usable_cores()} if address == _OF_ITS_OWN else {}),
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray would end the process at once
    try:
        needs = _needs(options)
        if address == _OF_ITS_OWN and not _room(needs):
            raise ValueError(
                f"this machine has no room for {_text(needs)}, Ray finds {_text(ray.cluster_resources())}; "
                "use fewer workers, --device cpu, or the --address of a cluster"
            )
        yield needs
    finally:
        ray.shutdown()


def _address(options: RayOptions) -> str:
    return options.address or _OF_ITS_OWN


def _needs(options: RayOptions) -> dict[str, float]:
    device = options.device
    if device is None and options.num_gpus is None:
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    return {"CPU": options.num_cpus} if device == "cpu" else {"CPU": 1, "GPU": options.num_gpus or 1}


def _room(needs: dict[str, float]) -> int:
    """How many actors the cluster has room for, busy or not."""
    there = ray.cluster_resources()
    return min(math.floor(there.get(name, 0) / amount) for name, amount in needs.items())


def _text(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if name in resources)


class _Actor:
    """A process that makes one clip at a time, and meanwhile can be looked at and told to stop."""

    def __init__(
        self,
        number: int,
        folder: Path,
        here: Path,
        device: str | None,
        lossless: bool,
        folders: bool,
    ) -> None:
        self._number = number
        self._journal = Journal(folder)
        self._here = here
        self._device = device
        self._lossless = lossless
        self._folders = folders
        self._maker: Maker | None = None
        self._warnings: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._job: str | None = None
        self._launch = _launch_of(number)

    def make(self, job: Job, is_shown: bool, maker_on: Sequence[Any]) -> _Outcome:
        """Make the clip of a job, which ends in the journal; where `maker_on` lies is in a list of one."""
        self._launch, self._job = _launch_of(self._number), job.id
        with log_file(self._journal.folder, f"process-{self._number}"), self._warnings_kept():
            worker = Worker(
                self._journal,
                self._launch,
                self._its_maker(*maker_on),
                self._stopped.is_set,
                lossless=self._lossless,
                folders=self._folders,
            )
            worker.make(job, lambda: None, is_shown=is_shown)
        return self.look()

    @ray.method(concurrency_group="talk", max_task_retries=-1)
    def look(self) -> _Outcome:
        """How far it is."""
        warnings = []
        while not self._warnings.empty():
            warnings.append(self._warnings.get())
        return _Outcome(self._job, _counts(self._launch), warnings)

    @ray.method(concurrency_group="talk", max_task_retries=-1)
    def stop(self) -> None:
        """Let it stop after the running step."""
        self._stopped.set()

    def _its_maker(self, maker_on: Any) -> Maker:
        if self._maker is None:
            try:
                os.chdir(self._here)  # so that paths mean here what they mean there
            except OSError as error:
                raise LaunchError(
                    f"the machine of actor {self._number} has no folder {self._here}, in which the batch was "
                    f"begun: {error}; begin it in a folder that all machines have"
                ) from error
            self._maker = ray.get(maker_on)(str(usable_device(self._device or default_device())))
        return self._maker

    @contextmanager
    def _warnings_kept(self) -> Iterator[None]:
        handler = QueueHandler(self._warnings)
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: record.levelno == logging.WARNING)
        package = logging.getLogger("pyramid_seed")
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)


@dataclass(frozen=True)
class _Outcome:
    """How far an actor is: its job, what it has counted for that, and new warnings."""

    job: str | None
    counts: Counter[str]
    warnings: list[logging.LogRecord]


@dataclass
class _Member:
    """An actor as the pool sees it.

    Attributes:
        actor: Ray's handle.
        look: the answer to come of `_Actor.look`, asked for at `looked_at`.
        is_here: whether it ever answered.
        job, call: what it makes, and the answer to come.
        counts: what is shown of the job.
    """

    actor: Any
    look: Any = None
    looked_at: float = 0.0
    is_here: bool = False
    job: Job | None = None
    call: Any = None
    counts: Counter[str] = field(default_factory=Counter)


class _Pool:
    """Actors, as many as there is room for; where a cluster can grow, as many again are asked for."""

    def __init__(
        self,
        worker: Worker,
        work: Work,
        maker_on: Callable[[str], Maker],
        options: RayOptions,
        needs: dict[str, float],
    ) -> None:
        self._worker = worker
        self._work = work
        self._maker_on = ray.put(maker_on)
        self._needs = needs
        self._can_grow = _address(options) != _OF_ITS_OWN
        device = options.device if "GPU" in needs else "cpu"
        there = worker.journal.folder.absolute(), Path.cwd(), device, worker.lossless, worker.folders
        kind = ray.remote(concurrency_groups={"talk": 1})(_Actor).options(
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU", 0),
            max_restarts=-1,
            max_task_retries=_MAX_TASK_RETRIES,
        )
        self._start: Callable[[int], Any] = lambda number: kind.remote(number, *there)
        self._members: list[_Member] = []
        self._num_started = 0
        self._again: list[Job] = []
        self._num_taken = 0
        self._room, self._looked_at = 0, -math.inf

    def run(self, on_progress: Callable[[], None]) -> None:
        """Make everything, or stop when somebody wants it."""
        warn_at = time.monotonic() + _WARN_SECONDS
        while (self._num_left or self._busy) and not self._worker.is_stopped():
            self._fill()
            for member in self._members:
                self._hand_out(member)
            self._hear()
            on_progress()
            if warn_at < time.monotonic() and not any(member.is_here for member in self._members):
                warn_at = math.inf
                logger.warning(
                    "no actor is there yet: each waits for a machine with %s to be free", _text(self._needs)
                )
        while self._busy:
            self._stop()
            on_progress()

    def close(self) -> None:
        """End the actors."""
        while self._members:
            ray.kill(self._members.pop().actor)

    @property
    def _num_left(self) -> int:
        """How many jobs nobody has."""
        return self._work.number - self._num_taken + len(self._again)

    @property
    def _busy(self) -> list[_Member]:
        return [member for member in self._members if member.call is not None]

    def _fill(self) -> None:
        """Start actors; when there is nothing more to begin, end those that are idle, which makes room for
        those that have lost theirs."""
        if not self._num_left:
            for member in [member for member in self._members if member.call is None]:
                self._members.remove(member)
                ray.kill(member.actor)
            return
        if self._looked_at < (now := time.monotonic()) - _ROOM_SECONDS:
            self._room, self._looked_at = max(1, _room(self._needs)), now
        wanted = min(self._room * (2 if self._can_grow else 1), self._num_left + len(self._busy))
        while len(self._members) < wanted:
            self._num_started += 1
            member = _Member(self._start(self._num_started))
            member.look = member.actor.look.remote()
            self._members.append(member)

    def _hand_out(self, member: _Member) -> None:
        """Give the next job to an actor that is free."""
        if not member.is_here or member.call is not None or not self._num_left:
            return
        if self._again:
            member.job = self._again.pop()
        else:
            member.job = self._work.job(self._num_taken)
            self._num_taken += 1
        is_shown = member.job.id in self._work.shown
        member.call = member.actor.make.remote(member.job, is_shown, [self._maker_on])

    def _hear(self) -> None:
        """Wait a moment for answers, and look at what came."""
        now = time.monotonic()
        for member in self._members:
            if member.look is None and member.looked_at < now - _LOOK_SECONDS:
                member.look = member.actor.look.remote()
        waiting = [ref for member in self._members for ref in (member.look, member.call) if ref is not None]
        ray.wait(waiting, timeout=_POLL_SECONDS)
        come = set(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
        for member in list(self._members):
            if member.look in come:
                self._have_looked(member)
            if member.call in come:
                self._end_call(member)

    def _have_looked(self, member: _Member) -> None:
        answer, member.look, member.looked_at = member.look, None, time.monotonic()
        try:
            outcome = ray.get(answer)
        except RayError as error:
            if not member.is_here:
                raise LaunchError(f"Ray cannot start an actor: {error}") from error
        else:
            member.is_here = True
            self._note(member, outcome)

    def _end_call(self, member: _Member) -> None:
        """A job has ended, in whatever way."""
        job, call = member.job, member.call
        assert job is not None
        try:
            self._note(member, ray.get(call))
        except RayTaskError as error:  # it is so for every clip
            raise error.cause from error
        except ActorDiedError:  # for good: somebody has ended it
            self._show(member, Counter())
            self._members.remove(member)
            self._again.append(job)
        except RayError as error:
            self._show(member, Counter())
            reason, _, _ = str(error).partition("\n")
            self._worker.fail(job, f"its process was lost {_MAX_TASK_RETRIES + 1} times: {reason}")
        member.job = member.call = None
        member.counts = Counter()

    def _note(self, member: _Member, outcome: _Outcome) -> None:
        for record in outcome.warnings:
            logging.getLogger(record.name).handle(record)
        if member.job is not None and outcome.job in (None, member.job.id):  # not of an earlier job
            self._show(member, outcome.counts)

    def _show(self, member: _Member, counts: Counter[str]) -> None:
        """Count what an actor has done; an attempt that was lost counts no more."""
        for name in COUNTERS:
            self._worker.launch.count(name, counts[name] - member.counts[name])
        member.counts = counts

    def _stop(self) -> None:
        """Let the running clips stop after their step; who does not hear of it is left."""
        busy = self._busy
        told = {member.actor.stop.remote(): member for member in busy}
        heard, _ = ray.wait(list(told), num_returns=len(told), timeout=_HEAR_SECONDS)
        for member in [told[answer] for answer in told if answer not in set(heard)]:
            logger.warning("an actor does not answer: what it makes is left at its last finished unit")
            self._members.remove(member)
            ray.kill(member.actor)
        calls = [member.call for member in self._busy]
        ended = set(ray.wait(calls, num_returns=len(calls), timeout=_LOOK_SECONDS)[0]) if calls else set()
        for member in [member for member in busy if member.call in ended]:
            self._end_call(member)


def _launch_of(number: int) -> Launch:
    """An actor among all, with counters of its own."""
    return Launch(number, 0, 1, torch.distributed.HashStore())  # type: ignore[attr-defined]


def _counts(launch: Launch) -> Counter[str]:
    return Counter({name: launch.count(name, 0) for name in COUNTERS})
