"""A monitored model: lines, bands and exit statuses, with the sweep that other tests made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed import run_monitor
from pyramid_seed.batch.summary import BatchSummary
from pyramid_seed.cli import main
from pyramid_seed.explore.history import Checkpoint, read_history, write_history
from pyramid_seed.explore.monitor import MonitorSummary
from pyramid_seed.explore.sweep import SweepSummary

from .sweeps import FEW, OPTIONS, PROMPTS, SEEDS, Page


@pytest.fixture(scope="module")
def monitored(swept, tmp_path_factory) -> tuple[Path, MonitorSummary]:
    """The embedded model, whose clips are there already."""
    folder = tmp_path_factory.mktemp("monitor") / "history"
    shutil.copytree(swept[0], folder)
    return folder, run_monitor(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)


def line_of(folder: Path) -> Checkpoint:
    (checkpoint,) = read_history(folder)
    return checkpoint


def test_a_line_has_the_means_and_shares_of_the_sweep(monitored, swept):
    folder, summary = monitored
    assert (summary.status, summary.bands, summary.departures) == (0, {}, {})
    assert summary.sweep.batch.made == 0
    checkpoint = line_of(folder)
    assert checkpoint == summary.checkpoint
    assert checkpoint.label == "embedded:tiny"
    findings = swept[1].findings
    motions = [clip.values["motion"] for prompt in findings.prompts for clip in prompt.clips]
    assert checkpoint.values["motion"] == pytest.approx(np.mean(motions))
    assert checkpoint.shares == findings.shares
    page = Page(summary.page)
    assert "1 checkpoint, each swept with 2 prompts" in page.text
    assert page.all("b") == []  # a prompt of this sweep has tags, which are text here


def earlier(checkpoint: Checkpoint, count: int, off: float) -> list[Checkpoint]:
    """Other checkpoints, `off` away from one, and with a hundredth of that between them."""
    return [
        replace(
            checkpoint,
            label=f"step-{place}",
            weights=f"{place:064x}",
            values={
                name: value + off * (1 + place % 3 / 100) if name == "motion" else value
                for name, value in checkpoint.values.items()
            },
        )
        for place in range(count)
    ]


def test_again_is_the_same_line_and_judged_by_the_ones_before(monitored, tmp_path, capsys, monkeypatch):
    """Then one measure that is elsewhere ends in 1; the sweep itself is not repeated."""
    source, summary = monitored
    folder = Path(shutil.copytree(source, tmp_path / "history"))
    sweep = json.loads((folder / "history.json").read_text())["sweep"]
    monkeypatch.setattr("pyramid_seed.explore.monitor.run_sweep", lambda *_, **__: summary.sweep)
    monkeypatch.chdir(tmp_path)
    command = ["monitor", "embedded:tiny", *PROMPTS, "--seeds", "0,1,7", "-o", "history", *OPTIONS]
    checkpoint = line_of(folder)
    told = {
        0.0: (0, "WITHIN: 9 measures"),
        0.5: (1, "LEFT ITS BAND: motion"),
    }
    for off, (status, last) in told.items():
        before = earlier(checkpoint, 6, off)
        write_history(folder, sweep, [*before, checkpoint, *earlier(checkpoint, 9, 7)[6:]])
        assert main(command) == status
        assert last in capsys.readouterr().out
        assert read_history(folder)[:7] == (*before, checkpoint)
    page = Page(folder / "history.html")
    assert "embedded:tiny" in page.text
    assert [each for row in page.rows for each in row if each.get("class") == "mark"]


def test_another_sweep_is_refused_before_any_work(monitored, monkeypatch):
    folder, _ = monitored
    monkeypatch.setattr("pyramid_seed.explore.monitor.run_sweep", None)
    with pytest.raises(ValueError, match=r"seeds was \['0', '1', '7'\] and is now \['0'\]"):
        run_monitor(PROMPTS, folder, seeds=(0,), **FEW)
    with pytest.raises(ValueError, match=r"settings\.num_frames was 5 and is now 9"):
        run_monitor(PROMPTS, folder, seeds=SEEDS, **{**FEW, "num_frames": 9})
    with pytest.raises(ValueError, match="lossless was False and is now True"):
        run_monitor(PROMPTS, folder, seeds=SEEDS, lossless=True, **FEW)


def test_without_all_clips_there_is_no_line(monitored, tmp_path, monkeypatch):
    sweep = monitored[1].sweep
    outcomes = {
        2: BatchSummary(failed={"a.mp4": "not finite"}),
        130: BatchSummary(signal=2),
        0: BatchSummary(is_main=False),
    }
    for status, batch in outcomes.items():
        incomplete = SweepSummary(batch) if status != 2 else replace(sweep, batch=batch)
        monkeypatch.setattr("pyramid_seed.explore.monitor.run_sweep", lambda *_, _s=incomplete, **__: _s)
        summary = run_monitor(PROMPTS, tmp_path, seeds=SEEDS, **FEW)
        assert (summary.status, summary.checkpoint, list(tmp_path.iterdir())) == (status, None, [])
