"""A queue with one worker: one job at a time, watched from other threads, stopped by anybody who holds it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

logger = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """Raised by work that was stopped and has nothing to show."""


class State(StrEnum):
    """Where a job is."""

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
    """What a job has to show.

    Attributes:
        clip: file name of the clip that was made or looked at.
        headline: one line for people.
        is_good: whether that is what one hopes for.
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
        state: where it is.
        ahead: jobs that come before it.
        step, num_steps: steps of the transformer, done and in all; 0 of 0 before the first.
        pictures: one a unit as a data URL, "" where it is not finished.
        outcome: when it is done.
        error: why it failed.
    """

    state: State = State.WAITING
    ahead: int = 0
    step: int = 0
    num_steps: int = 0
    pictures: tuple[str, ...] = ()
    outcome: Outcome | None = None
    error: Exception | None = None


class Job:
    """One piece of work in a `JobQueue`.

    Attributes:
        id: names it; not to be guessed.
        title: one line for people.
    """

    def __init__(self, title: str, work: Callable[[Job], Outcome], num_units: int, queue: JobQueue) -> None:
        self.id = uuid.uuid4().hex
        self.title = title
        self._work = work
        self._queue = queue
        self._view = View(pictures=("",) * num_units)
        self._stop = threading.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked for a stop; the work looks at this after every step."""
        return self._stop.is_set()

    @property
    def view(self) -> View:
        """The job at this moment."""
        with self._queue._changed:
            return replace(self._view, ahead=self._queue._ahead_of(self))

    def views(self) -> Iterator[View]:
        """The job now and at every change; ends with a final state. Quick changes may be seen as one."""
        seen: View | None = None
        while seen is None or not seen.state.is_final:
            with self._queue._changed:
                self._queue._changed.wait_for(lambda: self.view != seen)  # noqa: B023 - used at once
                seen = self.view
            yield seen

    def stop(self) -> None:
        """Ask for a stop: a waiting job ends at once, a running one after its step."""
        self._stop.set()
        self._queue._withdraw(self)

    def told_step(self, step: int, num_steps: int) -> None:
        """Called by the work: so many steps are done."""
        self._change(step=step, num_steps=num_steps)

    def told_picture(self, unit: int, picture: str) -> None:
        """Called by the work: a unit is finished, and looks like this."""
        before = self._view.pictures
        before += ("",) * (unit + 1 - len(before))
        self._change(pictures=(*before[:unit], picture, *before[unit + 1 :]))

    def _run(self) -> dict[str, object]:
        """Do the work; returns the last changes."""
        self._change(state=State.RUNNING)
        try:
            return {"outcome": self._work(self), "state": State.DONE}
        except Stopped:
            return {"state": State.STOPPED}
        except Exception as error:  # a worker outlives its jobs; whoever watches the job is shown the error
            logger.info("%s failed", self.title, exc_info=True)
            return {"error": error, "state": State.FAILED}

    def _change(self, **changes: object) -> None:
        with self._queue._changed:
            self._view = replace(self._view, **changes)  # type: ignore[arg-type]
            self._queue._changed.notify_all()


class JobQueue:
    """Jobs in the order in which they came, one at a time, on a thread of its own.

    Args:
        max_waiting: how many may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._finished = 0
        self._is_closed = False
        self._worker = threading.Thread(target=self._work, name="pyramid-seed jobs", daemon=True)
        self._worker.start()

    @property
    def running(self) -> Job | None:
        """The job in work."""
        return self._running

    @property
    def num_waiting(self) -> int:
        """Jobs behind the running one."""
        return len(self._waiting)

    @property
    def num_finished(self) -> int:
        """Jobs that ended, in whatever way."""
        return self._finished

    def submit(self, title: str, work: Callable[[Job], Outcome], num_units: int = 0) -> Job:
        """Add a job at the end.

        Args:
            title: one line for people.
            work: does it; is given the job to report to and to ask whether it should stop.
            num_units: units of the clip that it makes, for the preview; 0 if it makes none.

        Raises:
            ValueError: the queue is full.
            RuntimeError: it is closed.
        """
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue is closed")
            if len(self._waiting) >= self.max_waiting:
                raise ValueError(f"the queue is full: {len(self._waiting)} jobs wait; try again later")
            job = Job(title, work, num_units, self)
            self._waiting.append(job)
            self._changed.notify_all()
            return job

    def close(self) -> None:
        """Stop everything and wait for the worker."""
        with self._changed:
            self._is_closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
        for job in jobs:
            job.stop()
        with self._changed:
            self._changed.notify_all()
        self._worker.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                job = self._running = self._waiting.popleft()
                self._changed.notify_all()
            ending = job._run()
            with self._changed:
                self._running = None
                self._finished += 1
                job._change(**ending)

    def _ahead_of(self, job: Job) -> int:
        if job not in self._waiting:
            return 0
        return self._waiting.index(job) + (self._running is not None)

    def _withdraw(self, job: Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._finished += 1
                job._change(state=State.STOPPED)
