"""What is to be made, told to other processes."""

from __future__ import annotations

from dataclasses import replace

from pyramid_seed.batch.launch import Launch, join_launch
from pyramid_seed.batch.work import publish_work, published_work
from tests.batch.makers import jobs_of, raiser


def launches():
    first = replace(join_launch(environment={}), world_size=2)
    return first, replace(first, rank=1)


def test_other_processes_read_the_jobs_that_they_take(monkeypatch):
    first, second = launches()
    jobs, shown = jobs_of(*range(100)), frozenset({"a" * 16})
    told = publish_work(first, jobs, shown)
    assert [told.job(place) for place in (0, 99)] == [jobs[0], jobs[99]]
    read = []
    get = Launch.get
    monkeypatch.setattr(Launch, "get", lambda launch, name: read.append(name) or get(launch, name))
    work = published_work(second, lambda: False)
    assert (work.number, work.shown, read) == (100, shown, ["plan"])
    read.clear()
    assert [work.job(place) for place in (0, 1, 99, 40)] == [jobs[place] for place in (0, 1, 99, 40)]
    assert read == ["jobs/0", "jobs/3", "jobs/1"]


def test_one_process_tells_nobody_what_it_makes(monkeypatch):
    launch = join_launch(environment={})
    monkeypatch.setattr("pyramid_seed.batch.work.jobs_to_json", raiser(AssertionError))
    assert publish_work(launch, jobs_of(1), frozenset()).number == 1


def test_a_plan_that_was_refused_has_no_work():
    first, second = launches()
    first.publish('{"refused": true}')
    assert published_work(second, lambda: False) is None
