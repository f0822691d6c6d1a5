"""Evaluation: rendered clips score 100 %, mistakes are counted where they belong, bars decide the exit."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import world
from evaluate import BARS, below_bars, call_settings, main, mean_psnr, measure, rendered
from export import export
from recognise import ATTRIBUTES, recognise
from scoring import NAMES, confusion, confusion_text, labelled_sheet, shares

from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.presets import load_preset

EXAMPLES = world.held_out_examples(36)
CLIPS = [world.render(example.scene) for example in EXAMPLES]
SEEN = [recognise(clip) for clip in CLIPS]


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    return exit_info.value.code


def test_rendered_clips_score_all():
    measured = measure(rendered(17), world.held_out_examples(100))
    assert measured.shares == dict.fromkeys((*ATTRIBUTES, "all"), 1.0)
    assert mean_psnr(measured) == 10 * np.log10(255**2 / 1e-12)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_confusion_of_rendered_clips_is_diagonal(attribute):
    counts = confusion(EXAMPLES, SEEN, attribute)
    size = len(NAMES[attribute])
    assert counts.shape == (size, size + 1)
    assert np.array_equal(counts[:, :size], np.eye(size) * (36 // size))
    assert not counts[:, size].any()


def test_mistakes_are_counted_where_they_belong():
    """The first clip is a red circle; call it blue and of no known shape."""
    assert (EXAMPLES[0].scene.colour, EXAMPLES[0].scene.shape) == ("red", "circle")
    seen = [replace(SEEN[0], colour="blue", shape=None), *SEEN[1:]]
    found = shares(EXAMPLES, seen)
    assert found == {"background": 1, "motion": 1, "colour": 35 / 36, "shape": 35 / 36, "all": 35 / 36}
    colours = confusion(EXAMPLES, seen, "colour")
    assert colours[NAMES["colour"].index("red"), NAMES["colour"].index("blue")] == 1
    assert confusion(EXAMPLES, seen, "shape")[NAMES["shape"].index("circle"), -1] == 1
    assert colours.sum() == 36
    red = confusion_text(colours, "colour").splitlines()[1].split()
    assert red == ["red", "5", ".", "1", ".", ".", ".", "."]


def test_bars_are_least_shares():
    bars = BARS["generated"]
    assert below_bars(dict(bars), bars) == []
    assert below_bars({**bars, "shape": bars["shape"] - 0.01}, bars) == ["shape"]


def test_sheet_says_mistakes_in_red():
    """The strips of red objects are left out: below labels, red may be paint."""
    index = next(i for i, example in enumerate(EXAMPLES) if example.scene.colour == "blue")
    example, clip, right = EXAMPLES[index], CLIPS[index], SEEN[index]

    def reds(seen):
        sheet = labelled_sheet([example], [seen], [clip]).astype(int)
        return ((sheet[..., 0] > 180) & (sheet[..., 1:].max(-1) < 60)).sum()

    assert reds(right) == 0
    assert reds(replace(right, motion="down" if right.motion != "down" else "up")) > 10
    assert reds(replace(right, shape=None)) > 10
    assert labelled_sheet(EXAMPLES[:4], SEEN[:4], CLIPS[:4]).shape[2] == 3


def test_settings_of_the_preset_are_arguments_of_the_pipeline():
    settings = call_settings(load_preset("tiny"))
    assert set(settings) <= set(inspect.signature(PyramidFlowPipeline.__call__).parameters)
    assert settings["num_inference_steps"] == list(load_preset("tiny").num_inference_steps)


def test_command_line_on_rendered_clips(monkeypatch, tmp_path, capsys):
    assert _run(monkeypatch, "--rendered", "--bars", "--count", 12, "--out", tmp_path) == 0
    assert "PASS" in capsys.readouterr().out
    result = json.loads((tmp_path / "rendered.json").read_text())
    assert result["shares"]["all"] == 1.0
    assert [clip["seed"] for clip in result["clips"]] == [example.seed for example in EXAMPLES[:12]]
    assert iio.imread(tmp_path / "rendered.png").ndim == 3


def test_command_line_on_an_untrained_model(untrained_pipeline, monkeypatch, tmp_path, capsys):
    """It draws noise: every bar is missed, measuring alone succeeds, and a grid gets a line each."""
    export(untrained_pipeline, tmp_path / "model")
    model = ("--model", tmp_path / "model", "--out", tmp_path, "--count", 2, "--num-frames", 5)
    assert _run(monkeypatch, *model, "--reconstructed", "--bars") == 1
    output = capsys.readouterr().out
    assert "PSNR" in output
    assert "FAIL: below the bar in all" in output

    assert _run(monkeypatch, *model, "--guidance-scale", 1, 2, "--num-inference-steps", "1") == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["1", "1,1,1"],
        ["2", "1,1,1"],
    ]
    assert {path.name for path in tmp_path.glob("generated*.png")} == {
        "generated-g1-s1.1.1.png",
        "generated-g2-s1.1.1.png",
    }


def test_count_must_be_positive(monkeypatch, capsys):
    assert _run(monkeypatch, "--count", "0") == 2
    assert "--count must be at least 1, got 0" in capsys.readouterr().err
