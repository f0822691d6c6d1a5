"""One job at a time, in order, watched and stopped from other threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest

from pyramid_seed.ui.jobs import Job, JobQueue, Outcome, State, Stopped
from pyramid_seed.ui.work import step_reporter

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


def test_a_queue_is_full_from_the_moment_of_the_last_submission(queue):
    """Not only once its worker has taken the first job."""
    for _ in range(3):
        queue.submit("one runs, two wait", Gate())
    with pytest.raises(ValueError, match="the queue is full"):
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
    assert last(queue.submit("exits", lambda job: sys.exit(1))).state is State.FAILED
    gate = Gate()
    gate.opened.set()
    assert last(queue.submit("good", gate)).state is State.DONE
    assert queue.num_finished == 3


def test_every_change_reaches_whoever_watches(queue):
    seen = threading.Semaphore(0)

    def work(job):
        for step in (1, 2, 3):
            job.report_step(step, 3)
            assert seen.acquire(timeout=SECONDS)
        job.report_image(1, "late")
        assert seen.acquire(timeout=SECONDS)
        job.report_image(0, "early")
        return Outcome("a.mp4", "done")

    steps, images = [], []
    for view in queue.submit("steps", work, num_units=2).views():
        if view.step and view.state is State.RUNNING:
            steps.append(view.step)
            images.append(view.images)
            seen.release()
    assert steps[:4] == [1, 2, 3, 3]
    assert images[2:4] == [("", ""), ("", "late")]
    assert view.images == ("early", "late")


def test_units_that_were_not_foreseen_are_shown_too(queue):
    def work(job):
        job.report_image(1, "second")
        return Outcome("a.mp4", "done")

    assert last(queue.submit("unknown length", work)).images == ("", "second")


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


def test_closing_meets_submissions_of_other_threads():
    """Neither waits for the other; whatever came in time has ended."""
    for _ in range(20):
        queue = JobQueue(max_waiting=1000)
        jobs, begun = [], threading.Event()

        def submit(queue=queue, jobs=jobs, begun=begun):
            with suppress(RuntimeError, ValueError):  # closed, or full
                while True:
                    jobs.append(queue.submit("job", Gate()))
                    begun.set()

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert begun.wait(SECONDS)
        closing = threading.Thread(target=queue.close)
        closing.start()
        for thread in (closing, *threads):
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert {job.view.state for job in jobs} == {State.STOPPED}


def test_the_time_left_does_not_jump_with_the_cost_of_stages(short, monkeypatch):
    """Steps of 1, 2 and 3 seconds in every unit: 2 seconds a step are left, from the second unit on."""
    job = Job("a boat", 0, threading.Condition())
    report = step_reporter(job, short)
    assert short.num_inference_steps == (1, 1, 1)
    left, now = [], 0.0
    for step in range(9):
        now += 1 + step % 3
        monkeypatch.setattr("pyramid_seed.ui.work.time", SimpleNamespace(monotonic=lambda now=now: now))
        report(SimpleNamespace(num_timesteps=9), step, None, {})
        left.append(job.view.seconds_left)
    assert left == [None, None, None, 10, 8, 6, 4, 2, 0]
