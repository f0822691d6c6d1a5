"""Who computes when: so many at a time, the most urgent first, and nobody after the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextvars import ContextVar

import pytest
import torch

from pyramid_seed.pieces.workers import MOST_BESIDE, AbandonedError, Workers, usable_cores
from tests.cases import check_cases

PATIENCE = 20
"""Seconds after which what should have happened has not, on the busiest of machines."""

asked_by = ContextVar("asked_by", default="nobody")


def threads_left() -> list[str]:
    ours = ("pyramid-seed piece", "pyramid-seed beside")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert threads_left() == []


def until(holds) -> None:
    """Wait without giving the place up."""
    ends = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.001)


class Busy:
    """How many compute at a time; the first ones go on once `expected` of them do."""

    def __init__(self, expected: int) -> None:
        self.most, self._now, self._lock = 0, 0, threading.Lock()
        self._expected, self._all_there = expected, threading.Event()

    def __call__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self._now >= self._expected:
                self._all_there.set()
        assert self._all_there.wait(PATIENCE)
        time.sleep(0.002)  # so that one too many would be seen
        with self._lock:
            self._now -= 1


def test_so_many_compute_at_a_time_and_no_more():
    def rule(count, number, are_linked):
        busy = Busy(count)
        with Workers(count) as team:
            team.run([busy] * number, are_linked=are_linked)
        assert busy.most == count

    check_cases([(1, 4, False), (1, 4, True), (2, 7, False), (2, 7, True), (3, 9, True)], rule)


def test_what_is_made_beside_has_no_place_of_its_own():
    busy = Busy(2)
    with Workers(2) as team:
        made = [team.submit(busy, 1 + index) for index in range(5)]
        busy()
        for each in made:
            team.result(each)
    assert busy.most == 2


def test_beside_are_few_at_a_time():
    """Of pieces that wait for each other too: each holds memory."""
    begun, go = [], threading.Event()
    with Workers(8) as team:

        def piece(index):
            begun.append(index)
            team.wait_until(go.is_set)

        made = [team.submit(lambda index=index: piece(index), 1) for index in range(6)]
        until(lambda: len(begun) == MOST_BESIDE)
        time.sleep(0.02)
        assert sorted(begun) == list(range(MOST_BESIDE))
        go.set()
        team.tell()
        for each in made:
            team.result(each)
    assert sorted(begun) == list(range(6))


def test_results_are_in_the_order_of_the_pieces():
    def piece(index):
        time.sleep(0.002 * (4 - index))
        return index

    for count in (1, 3):
        with Workers(count) as team:
            assert team.run([lambda index=index: piece(index) for index in range(4)]) == [0, 1, 2, 3]
            assert team.run([]) == []


def test_the_most_urgent_is_first():
    made, order, go = [], [], threading.Event()

    def blocker():
        assert go.wait(PATIENCE)

    with Workers(4) as team:

        def piece(urgency):
            order.append(urgency)
            if len(order) == 3:
                go.set()

        def ask():
            # The blockers have the other three places.
            until(lambda: team._num_free == 0)
            for urgency in (7, 5, 6):
                made.append(team.submit(lambda urgency=urgency: piece(urgency), urgency))
            until(lambda: {5, 6, 7} <= {each.order[0] for each in team._waiting})

        team.run([blocker, blocker, blocker, ask], are_linked=True)
        for each in made:
            team.result(each)
    assert order == [5, 6, 7]


def test_the_less_urgent_gives_way():
    events, begun = [], threading.Event()
    with Workers(1) as team:

        def piece():
            begun.set()
            team.tell()
            until(lambda: team._waiting)  # the caller wants its place back
            events.append("piece")
            team.give_way()
            events.append("piece again")

        made = team.submit(piece, urgency=1)
        team.wait_until(begun.is_set)
        events.append("caller")
        team.result(made)
    assert events == ["piece", "caller", "piece again"]


def test_linked_pieces_of_one_worker_wait_for_each_other():
    come = []
    with Workers(1) as team:

        def piece(index, turn):
            team.wait_until(lambda: len(come) == turn)
            come.append(index)
            team.tell()
            return index

        turns = [2, 0, 1]
        pieces = [lambda index=index, turn=turn: piece(index, turn) for index, turn in enumerate(turns)]
        assert team.run(pieces, are_linked=True) == [0, 1, 2]
    assert come == [1, 2, 0]


def test_who_is_away_lets_others_compute():
    there = threading.Event()
    with Workers(1) as team:
        made = team.submit(there.set, urgency=9)
        time.sleep(0.01)
        assert not there.is_set()
        with team.away():
            assert there.wait(PATIENCE)
        assert team.result(made) is None


def never() -> bool:
    return False


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_piece_that_fails_ends_the_run_and_the_others(count):
    begun, ended = [], []
    with Workers(count) as team:

        def abandoned(goes_on):
            begun.append(goes_on)
            team.tell()
            try:
                while True:
                    goes_on()
            except AbandonedError:
                ended.append(goes_on)
                raise

        def waits():
            team.wait_until(never)

        def works():
            time.sleep(0.001)
            team.give_way()

        # With one worker `works` would keep the place, as it has nothing to wait for.
        others = [waits] if count == 1 else [waits, works]

        def fails():
            team.wait_until(lambda: len(begun) == len(others))
            raise KeyError("the reason")

        with pytest.raises(KeyError, match="the reason"):
            team.run([*(lambda each=each: abandoned(each) for each in others), fails], are_linked=True)
        assert set(ended) == set(others)
        # What is asked for after that is not made.
        late = team.submit(lambda: ended.append("late"), 1)
        with pytest.raises(AbandonedError):
            team.result(late)
    assert "late" not in ended


def test_pieces_in_turn_end_at_the_one_that_fails():
    made = []

    def fails():
        raise OSError("no space left")

    with Workers(1) as team, pytest.raises(OSError, match="no space left"):
        team.run([lambda: made.append(0), fails, lambda: made.append(2)])
    assert made == [0]


def test_the_reason_is_told_and_not_that_others_were_abandoned():
    """Also where an abandoned piece comes before it."""
    both = threading.Barrier(2)

    def fails(index):
        both.wait(PATIENCE)
        raise ValueError(index)

    with Workers(3) as team, pytest.raises(ValueError, match=r"^[12]$"):
        team.run([lambda: team.wait_until(never), lambda: fails(1), lambda: fails(2)], are_linked=True)


def test_what_fails_beside_is_told_to_whoever_asks():
    def fails():
        raise ZeroDivisionError("beside")

    for count in (1, 2):
        with Workers(count) as team:
            made, fine = team.submit(fails, 1), team.submit(lambda: "fine", 2)
            with pytest.raises(ZeroDivisionError, match="beside"):
                team.result(made)
            assert team.result(fine) == "fine"


def test_an_error_of_the_caller_leaves_no_thread():
    ended = []

    def fails_while_others_work():
        with Workers(3) as team:

            def waits():
                try:
                    team.wait_until(never)
                finally:
                    ended.append("waits")

            def works():
                while True:
                    time.sleep(0.001)
                    team.give_way()

            for piece in (waits, works, works, works, works):
                team.submit(piece, 1)
            until(lambda: len(threads_left()) == 3)
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        fails_while_others_work()
    assert threads_left() == []
    assert len(ended) <= 1  # it may not have begun


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupt_leaves_no_thread(count):
    """Ctrl+C while the caller waits for its pieces."""
    caller, ended = threading.main_thread().ident, []

    def interrupted():
        with Workers(count) as team:

            def waits():
                try:
                    team.wait_until(never)
                finally:
                    ended.append("waits")

            def interrupts():
                until(lambda: team._num_free == count - 1)  # all others wait
                signal.pthread_kill(caller, signal.SIGINT)
                waits()

            team.run([waits, interrupts], are_linked=True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert threads_left() == []
    assert set(ended) == {"waits"}


def seen() -> tuple[bool, bool, int, str]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        asked_by.get(),
    )


def test_torch_is_in_a_piece_as_where_it_was_asked_for():
    """In one pool of threads with different callers, one after the other."""
    before = torch.get_num_threads()
    token = asked_by.set("me")
    try:
        with Workers(2) as team:
            for grad, inference, threads in ((True, False, 2), (False, False, 1), (False, True, 3)):
                torch.set_num_threads(threads)
                with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                    expected = grad, inference, threads, "me"
                    assert seen() == expected
                    for _ in range(2):
                        assert team.run([seen] * 3) == [expected] * 3
                        assert team.run([seen] * 3, are_linked=True) == [expected] * 3
                        assert team.result(team.submit(seen, 1)) == expected
    finally:
        torch.set_num_threads(before)
        asked_by.reset(token)


def test_what_a_piece_sets_is_its_own():
    with Workers(2) as team:
        team.run([lambda: asked_by.set("a piece")] * 2)
        assert asked_by.get() == "nobody"
        assert team.run([asked_by.get] * 2) == ["nobody"] * 2


def test_pieces_may_ask_for_pieces():
    """As a step is made while chunks are decoded, whichever thread asks."""
    with Workers(2) as team:

        def outer():
            return sum(team.run([lambda: 1, lambda: 2], are_linked=True))

        assert team.run([outer, outer], are_linked=True) == [3, 3]


def test_cores_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(tmp_path) == 8  # no control group

    def rule(text, cores):
        (tmp_path / "cpu.max").write_bytes(text)
        assert usable_cores(tmp_path) == cores

    granted = {b"max 100000\n": 8, b"350000 100000\n": 3, b"150000 100000\n": 1, b"50000 100000\n": 1}
    granted |= {b"1600000 100000\n": 8, b"100000 50000\n": 2}
    unknown = [b"", b"max", b"many 100000", b"100000 of", b"100000 0", b"1 2 3", b"\xff\xfe 1"]
    check_cases([*granted.items(), *((text, 8) for text in unknown)], rule)
    for processes, share in (("3", 2), ("9", 1)):  # of a launch
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert usable_cores(tmp_path) == share


def test_cores_where_the_system_has_no_affinity(tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1
