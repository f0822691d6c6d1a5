"""The figures of docs/monitor.md."""

from __future__ import annotations

from pyramid_seed.batch.summary import BatchSummary
from pyramid_seed.explore.bands import Band
from pyramid_seed.explore.history import Checkpoint
from pyramid_seed.explore.monitor import MonitorSummary
from pyramid_seed.explore.sweep import SweepSummary
from scripts.monitor_figures import BEGIN, END, PAGE, band_rows, checkpoint_rows, figures


def test_figures():
    checkpoint = Checkpoint("last", "0" * 64, {"motion": 3.0, "si": 1.5}, {})
    expected = {"motion": Band(1, 2), "si": Band(1, 2)}
    last = MonitorSummary(SweepSummary(BatchSummary()), checkpoint, expected)
    text = figures(band_rows(10), [0, last.status], checkpoint_rows(last), "A machine.")
    assert "| 5 | 9.2 s |" in text
    assert "2 checkpoints of the embedded model ended in 0, 1; this is the last one:" in text
    assert "| `motion` | 1 to 2 | 3 | **left** |" in text
    assert "| `si` | 1 to 2 | 1.5 |  |" in text
    assert text.endswith("A machine.")


def test_the_page_has_their_place():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
