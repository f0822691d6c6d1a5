"""Signals to stop."""

from __future__ import annotations

import os
import signal

import pytest

from tests.batch.makers import NoiseMaker, log_of, run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_running_step(tmp_path, plain, number):
    before, during = signal.getsignal(number), []

    def send():
        during.append(signal.getsignal(number))
        os.kill(os.getpid(), number)

    maker = NoiseMaker({(2, 1): send})
    summary = run(tmp_path, 1, 2, 3, maker=maker)
    assert maker.made == [(seed, unit) for seed, unit in maker.made if seed != 2 or unit == 0]
    assert summary.status == 128 + number
    assert summary.missing == 3 - len(summary.digests)
    assert during != [before]
    assert signal.getsignal(number) == before
    assert "stopped" in log_of(tmp_path)
    rest = run(tmp_path, 1, 2, 3)
    assert rest.status == 0
    assert rest.digests.items() <= plain.items()


def test_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path, 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
