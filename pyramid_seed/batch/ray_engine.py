"""Ray divides a batch: a pool of actors, each with its own model; no other module here imports Ray.

The process that runs the batch plans, gathers and reports as it does without Ray, and hands out the jobs. If
an actor's process or machine is lost, Ray restarts the actor with the same job, which continues after its
last finished unit.
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
"""How often an item is begun again after its process was lost; then it counts as failed, since it would take
other processes with it, too."""
_OF_ITS_OWN = "local"  # as an address: a cluster on this machine, which ends with the batch
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 0.5
_ROOM_SECONDS = 5.0
_WARN_SECONDS = 60.0
_HEAR_SECONDS = 10.0
"""An actor that does not confirm a stop within that time is gone, or hangs."""


def work_on_actors(
    worker: Worker,
    work: Work,
    on_progress: Callable[[], None],
    *,
    maker_on: Callable[[str], Maker],
    options: RayOptions,
) -> None:
    """Let actors make the clips, in place of `Worker.work`, which has the same arguments and errors.

    Args:
        maker_on: the maker of an actor, given its device; it is sent to all actors.
        options: see `RayOptions`.

    Raises:
        ValueError: the cluster has no room for an actor and will not grow.
        ConnectionError: there is no cluster at the address, or actors cannot be started.
    """
    if work.number == 0:
        return
    # Ray reports lost processes on standard output, which is for results.
    with redirect_stdout(sys.stderr), _cluster(options) as needs:
        pool = _Pool(worker, work, maker_on, options, needs)
        try:
            pool.run(on_progress)
        finally:
            pool.close()


@contextmanager
def _cluster(options: RayOptions) -> Iterator[dict[str, float]]:
    """Connect to Ray, unless connected already; yields the resources that an actor needs."""
    if ray.is_initialized():
        yield _needs(options)
        return
    address = _address(options)
    said = Path(os.environ.get("RAY_USAGE_STATS_CONFIG_PATH", "~/.ray/config.json")).expanduser()
    if not said.exists():  # else the user has told Ray whether to report its usage
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
        signal.signal(signal.SIGTERM, handler)  # Ray's own handler would end the process at once
    try:
        needs = _needs(options)
        if address == _OF_ITS_OWN and not _room(needs):
            raise ValueError(
                f"this machine does not have {_text(needs)}, Ray finds {_text(ray.cluster_resources())}; "
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
    """How many actors the cluster has room for, counting those that are busy."""
    there = ray.cluster_resources()
    return min(math.floor(there.get(name, 0) / amount) for name, amount in needs.items())


def _text(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if name in resources)


class _Actor:
    """A process that makes one clip at a time, and meanwhile reports progress or stops on request."""

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
        """Make a job's clip, recorded in the journal; a list of one holds the reference to `maker_on`."""
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
        """Report its progress."""
        warnings = []
        while not self._warnings.empty():
            warnings.append(self._warnings.get())
        return _Outcome(self._job, _counts(self._launch), warnings)

    @ray.method(concurrency_group="talk", max_task_retries=-1)
    def stop(self) -> None:
        """Make it stop after the running step."""
        self._stopped.set()

    def _its_maker(self, maker_on: Any) -> Maker:
        if self._maker is None:
            try:
                os.chdir(self._here)  # so that paths mean the same here
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
    """An actor's progress: its job, its counts for that job, and new warnings."""

    job: str | None
    counts: Counter[str]
    warnings: list[logging.LogRecord]


@dataclass
class _Member:
    """An actor as the pool sees it.

    Attributes:
        actor: Ray's handle.
        look: the pending answer of `_Actor.look`; the last one came at `looked_at`.
        is_here: whether it has ever answered.
        job, call: the job it makes, and the pending answer.
        counts: the job's counts shown so far.
    """

    actor: Any
    look: Any = None
    looked_at: float = 0.0
    is_here: bool = False
    job: Job | None = None
    call: Any = None
    counts: Counter[str] = field(default_factory=Counter)


class _Pool:
    """Actors, as many as there is room for; a cluster that can grow is asked for as many again."""

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
        """Make everything, or stop when asked to."""
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
                    "no actor has started yet: each needs a machine with %s free", _text(self._needs)
                )
        while self._busy:
            self._stop()
            on_progress()

    def close(self) -> None:
        """End all actors."""
        while self._members:
            ray.kill(self._members.pop().actor)

    @property
    def _num_left(self) -> int:
        """How many jobs are not handed out."""
        return self._work.number - self._num_taken + len(self._again)

    @property
    def _busy(self) -> list[_Member]:
        return [member for member in self._members if member.call is not None]

    def _fill(self) -> None:
        """Start actors; if no jobs are left to begin, end idle actors, which makes room for actors that have
        lost theirs."""
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
        """Give the next job to a free actor."""
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
        """Wait a moment for answers, and handle those that came."""
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
        """Handle the end of a job, whatever its outcome."""
        job, call = member.job, member.call
        assert job is not None
        try:
            self._note(member, ray.get(call))
        except RayTaskError as error:  # it would happen to every clip
            raise error.cause from error
        except ActorDiedError:  # for good: it was ended from outside
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
        if member.job is not None and outcome.job in (None, member.job.id):  # not about an earlier job
            self._show(member, outcome.counts)

    def _show(self, member: _Member, counts: Counter[str]) -> None:
        """Count what an actor has done; a lost attempt no longer counts."""
        for name in COUNTERS:
            self._worker.launch.count(name, counts[name] - member.counts[name])
        member.counts = counts

    def _stop(self) -> None:
        """Stop running clips after their current step; leave actors that do not answer."""
        busy = self._busy
        told = {member.actor.stop.remote(): member for member in busy}
        heard, _ = ray.wait(list(told), num_returns=len(told), timeout=_HEAR_SECONDS)
        for member in [told[answer] for answer in told if answer not in set(heard)]:
            logger.warning("an actor does not answer: its clip is left at the last finished unit")
            self._members.remove(member)
            ray.kill(member.actor)
        calls = [member.call for member in self._busy]
        ended = set(ray.wait(calls, num_returns=len(calls), timeout=_LOOK_SECONDS)[0]) if calls else set()
        for member in [member for member in busy if member.call in ended]:
            self._end_call(member)


def _launch_of(number: int) -> Launch:
    """A launch for one of the actors, with its own counters."""
    return Launch(number, 0, 1, torch.distributed.HashStore())  # type: ignore[attr-defined]


def _counts(launch: Launch) -> Counter[str]:
    return Counter({name: launch.count(name, 0) for name in COUNTERS})
