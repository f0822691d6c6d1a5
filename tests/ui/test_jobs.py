"""One job at a time, in order, watched and stopped from other threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyramid_seed.ui.jobs import Job, JobQueue, Outcome, State, Stopped

SECONDS = 30


class Gate:
    """Work that waits until it is let go, or its job is stopped."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.opened = threading.Event()

    def __call__(self, job: Job) -> Outcome:
        self.started.set()
        while not self.opened.wait(0.01):
            if job.is_stopping:
                raise Stopped
        return Outcome("a.mp4", "done")


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    queue = JobQueue(max_waiting=2)
    yield queue
    queue.close()


def last(job: Job):
    return list(job.views())[-1]


def test_jobs_run_one_at_a_time_in_order(queue):
    order, running = [], []

    def work(number):
        def do(job):
            running.append(number)
            assert len(running) == 1
            order.append(number)
            running.remove(number)
            return Outcome(f"{number}.mp4", "done")

        return do

    gate = Gate()
    first = queue.submit("gate", gate)
    assert gate.started.wait(SECONDS)
    others = [queue.submit(str(number), work(number)) for number in range(2)]
    assert [first.view.ahead, *(job.view.ahead for job in others)] == [0, 1, 2]
    assert queue.running is first
    assert queue.num_waiting == 2
    gate.opened.set()
    assert [last(job).outcome.clip for job in (first, *others)] == ["a.mp4", "0.mp4", "1.mp4"]
    assert order == [0, 1]
    assert last(others[1]).state is State.DONE


def test_a_full_queue_says_so(queue):
    gate = Gate()
    queue.submit("running", gate)
    assert gate.started.wait(SECONDS)
    for _ in range(2):
        queue.submit("waiting", Gate())
    with pytest.raises(ValueError, match="the queue is full: 2 jobs wait; try again later"):
        queue.submit("too many", Gate())


def test_a_waiting_job_is_stopped_without_having_run(queue):
    gate, never = Gate(), Gate()
    queue.submit("running", gate)
    assert gate.started.wait(SECONDS)
    waiting = queue.submit("waiting", never)
    behind = queue.submit("behind", Gate())
    waiting.stop()
    assert last(waiting).state is State.STOPPED
    assert behind.view.ahead == 1
    assert not never.started.is_set()


def test_a_running_job_is_stopped_and_the_next_one_runs(queue):
    gate, second = Gate(), Gate()
    job = queue.submit("running", gate)
    following = queue.submit("next", second)
    assert gate.started.wait(SECONDS)
    job.stop()
    assert last(job).state is State.STOPPED
    second.opened.set()
    assert last(following).state is State.DONE


def test_an_error_is_kept_and_the_worker_lives_on(queue):
    error = FloatingPointError("latents are not finite")

    def fail(job):
        raise error

    failed = last(queue.submit("bad", fail))
    assert failed.state is State.FAILED
    assert failed.error is error
    gate = Gate()
    gate.opened.set()
    assert last(queue.submit("good", gate)).state is State.DONE
    assert queue.num_finished == 2


def test_every_change_reaches_whoever_watches(queue):
    seen = threading.Semaphore(0)

    def work(job):
        for step in (1, 2, 3):
            job.told_step(step, 3)
            assert seen.acquire(timeout=SECONDS)
        job.told_picture(1, "late")
        assert seen.acquire(timeout=SECONDS)
        job.told_picture(0, "early")
        return Outcome("a.mp4", "done")

    steps, pictures = [], []
    for view in queue.submit("steps", work, num_units=2).views():
        if view.step and view.state is State.RUNNING:
            steps.append(view.step)
            pictures.append(view.pictures)
            seen.release()
    assert steps[:4] == [1, 2, 3, 3]
    assert pictures[2:4] == [("", ""), ("", "late")]
    assert view.pictures == ("early", "late")


def test_units_that_were_not_foreseen_are_shown_too(queue):
    def work(job):
        job.told_picture(1, "second")
        return Outcome("a.mp4", "done")

    assert last(queue.submit("unknown length", work)).pictures == ("", "second")


def test_closing_stops_everything():
    queue = JobQueue(max_waiting=2)
    gate = Gate()
    jobs = [queue.submit("running", gate)]
    assert gate.started.wait(SECONDS)
    jobs += [queue.submit("waiting", Gate()) for _ in range(2)]
    queue.close()
    assert {last(job).state for job in jobs} == {State.STOPPED}
    with pytest.raises(RuntimeError, match="the queue is closed"):
        queue.submit("late", Gate())
