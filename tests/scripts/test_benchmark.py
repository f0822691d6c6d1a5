"""`scripts/benchmark.py`."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from scripts import benchmark


def test_works_take_turns_after_a_warm_up():
    calls = []
    times = benchmark.in_turn([lambda: calls.append("a"), lambda: calls.append("b")], 3, torch.device("cpu"))
    assert calls == ["a", "b"] * 4
    assert [len(own) for own in times] == [3, 3]
    assert min(map(min, times)) >= 0


def test_summary():
    assert benchmark.summary([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_determinism_measures_both_levels(monkeypatch, tmp_path, capsys):
    preset = tmp_path / "short.yaml"
    preset.write_text(
        "model: embedded:tiny\ndtype: float32\nheight: 64\nwidth: 64\nnum_frames: 1\nfps: 8\n"
        "num_inference_steps: [1, 1, 1]\nguidance_scale: 1.0\nmax_sequence_length: 16\n"
    )
    result = tmp_path / "result.json"
    options = ["--preset", str(preset), "--repeats", "1", "--json", str(result)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "determinism", *options])
    benchmark.main()
    measured = json.loads(result.read_text())
    strict, relaxed = (measured["seconds"][level]["median"] for level in ("strict", "relaxed"))
    assert measured["strict / relaxed"]["median"] == pytest.approx(strict / relaxed)
    assert "strict / relaxed" in capsys.readouterr().out
