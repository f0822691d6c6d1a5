"""One line that says how far a batch is."""

from __future__ import annotations

import io
import re
import sys

import pytest

from pyramid_seed.batch import progress
from pyramid_seed.batch.progress import Counts, ProgressLine

NOTHING = Counts(clips=10, clips_done=0, clips_failed=0, steps=200, steps_done=0, steps_known=0)
MIDDLE = Counts(clips=10, clips_done=3, clips_failed=1, steps=200, steps_done=60, steps_known=20)
END = Counts(clips=10, clips_done=9, clips_failed=1, steps=200, steps_done=180, steps_known=20)


class Terminal(io.StringIO):
    def isatty(self):
        return True


# Not by a fixture: pytest sets standard error anew between a fixture and its test.
@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_the_line_has_the_facts(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0)
    monkeypatch.setattr(progress, "OTHER_SECONDS", 0)
    line = ProgressLine(NOTHING)
    line._bar.start_t -= 120  # it has run for two minutes
    line.show(MIDDLE)
    line.close(END)
    first, middle, last = (part.strip() for part in re.split(r"[\r\n]+", stream.getvalue().strip()))
    assert first == "0/10 clips, 0/200 steps, ? left"
    # 120 steps are to be made, and the 60 that were took two minutes.
    assert middle == "4/10 clips, 80/200 steps, 04:00 left, 30.0 s per clip, 1 failed"
    assert last == "10/10 clips, 200/200 steps, 00:00 left, 12.0 s per clip, 1 failed"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_a_line_now_and_then(stream, monkeypatch):
    """Unless it is a terminal, where it is written over."""
    monkeypatch.setattr(sys, "stderr", stream)
    line = ProgressLine(NOTHING)
    for _ in range(50):
        line.show(MIDDLE)
    line.close(END)
    text = stream.getvalue()
    assert text.endswith("\n")
    if stream.isatty():
        assert text.count("\n") == 1
    else:
        assert "\r" not in text
        assert [part[:4] for part in text.splitlines()] == ["0/10", "10/1"]
