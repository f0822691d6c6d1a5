"""A queue with one worker: one job at a time, watched from other threads, stopped by any holder of it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

logger = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - not an error: it was asked for
    """Raised by work that was stopped and has no result to show."""


class State(StrEnum):
    """The state of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.DONE, State.STOPPED, State.FAILED)


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        clip: file name of the clip that was made or examined.
        headline: one line for the user.
        is_good: whether it is what the user hopes for.
        details: rows of (what, how it ended).
    """

    clip: str
    headline: str
    is_good: bool = True
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class View:
    """A job at one moment.

    Attributes:
        state: the job's state.
        ahead: how many jobs come before it.
        step, num_steps: transformer steps, done and in total; 0 of 0 before the first.
        seconds_left: about how long the steps to come take; None while that is unknown.
        images: one per unit as a data URL, "" if the unit is not finished.
        outcome: the result, once the job is done.
        error: why it failed, if it did.
    """

    state: State = State.WAITING
    ahead: int = 0
    step: int = 0
    num_steps: int = 0
    seconds_left: float | None = None
    images: tuple[str, ...] = ()
    outcome: Outcome | None = None
    error: BaseException | None = None


class Job:
    """One piece of work in a `JobQueue`.

    Attributes:
        id: names the job; not guessable.
        title: one line for the user.
        view: the job at this moment.
    """

    def __init__(self, title: str, num_units: int, changed: threading.Condition) -> None:
        self.id = uuid.uuid4().hex
        self.title = title
        self.view = View(images=("",) * num_units)
        self._changed = changed
        self._stop = threading.Event()
        self._future: Future[Outcome] | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was requested; the work checks this after every step."""
        return self._stop.is_set()

    def views(self) -> Iterator[View]:
        """The job now and at every change, up to a final state. Quick changes may be merged."""
        seen: View | None = None
        while seen is None or not seen.state.is_final:
            with self._changed:
                self._changed.wait_for(lambda: self.view != seen)  # noqa: B023 - used at once
                seen = self.view
            yield seen

    def stop(self) -> None:
        """Request a stop: a waiting job ends at once, a running one after its step."""
        self._stop.set()
        if self._future is not None:
            self._future.cancel()

    def report_step(self, step: int, num_steps: int, seconds_left: float | None = None) -> None:
        """Record how many steps are done, and how long the others may take; called by the work."""
        self._change(step=step, num_steps=num_steps, seconds_left=seconds_left)

    def report_image(self, unit: int, image: str) -> None:
        """Record that a unit is finished, with its image; called by the work."""
        images = self.view.images + ("",) * (unit + 1 - len(self.view.images))
        self._change(images=(*images[:unit], image, *images[unit + 1 :]))

    def _change(self, **changes: object) -> None:
        with self._changed:
            self.view = replace(self.view, **changes)  # type: ignore[arg-type]
            self._changed.notify_all()


class JobQueue:
    """Jobs in the order of their submission, one at a time, on its own thread.

    Args:
        max_waiting: how many jobs may wait behind the running one.

    Attributes:
        num_finished: how many jobs have ended, whatever their outcome.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._changed = threading.Condition()
        self._jobs: list[Job] = []  # not ended: the running one, then those waiting
        self.num_finished = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pyramid-seed jobs")

    @property
    def running(self) -> Job | None:
        """The running job."""
        with self._changed:
            return next((job for job in self._jobs if job.view.state is State.RUNNING), None)

    @property
    def num_waiting(self) -> int:
        """Jobs behind the running one."""
        with self._changed:
            return sum(job.view.state is State.WAITING for job in self._jobs)

    def submit(self, title: str, work: Callable[[Job], Outcome], num_units: int = 0) -> Job:
        """Add a job at the end.

        Args:
            title: one line for the user.
            work: does the job; it gets the job, reports to it and asks it whether to stop.
            num_units: how many units its clip has, for the preview; 0 if it makes none.

        Raises:
            ValueError: the queue is full.
            RuntimeError: the queue is closed.
        """
        with self._changed:
            if len(self._jobs) > self.max_waiting:
                raise ValueError(f"the queue is full: {self.max_waiting} jobs wait; try again later")
            job = Job(title, num_units, self._changed)
            try:
                job._future = self._executor.submit(_run, job, work)
            except RuntimeError as error:
                raise RuntimeError("the queue is closed") from error
            self._jobs.append(job)
            self._number()
            job._future.add_done_callback(partial(self._end, job))
        return job

    def close(self) -> None:
        """Stop all jobs and wait for the worker."""
        self._executor.shutdown(wait=False)
        with self._changed:
            jobs = list(self._jobs)
        for job in reversed(jobs):  # the running one last, so that none takes its place
            job.stop()
        self._executor.shutdown(wait=True)

    def _end(self, job: Job, future: Future[Outcome]) -> None:
        with self._changed:
            self._jobs.remove(job)
            self.num_finished += 1
            self._number()
            job._change(ahead=0, **_ending(job, future))

    def _number(self) -> None:
        for place, job in enumerate(self._jobs):
            job._change(ahead=place)


def _run(job: Job, work: Callable[[Job], Outcome]) -> Outcome:
    job._change(state=State.RUNNING)
    try:
        return work(job)
    except RuntimeError:  # as the pipeline raises if stopped before any result
        if job.is_stopping:
            raise Stopped from None
        raise


def _ending(job: Job, future: Future[Outcome]) -> dict[str, object]:
    """The last changes of a job."""
    if future.cancelled() or isinstance(error := future.exception(), Stopped):
        return {"state": State.STOPPED}
    if error is None:
        return {"state": State.DONE, "outcome": future.result()}
    logger.info("%s failed", job.title, exc_info=error)  # the page shows the error
    return {"state": State.FAILED, "error": error}
