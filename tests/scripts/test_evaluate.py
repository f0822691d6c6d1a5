"""Evaluation: rendered clips score 100 %, mistakes are counted where they belong, bars decide the exit."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import world
from evaluate import BARS, below_bars, call_settings, continued, main, measure, rendered
from recognise import ATTRIBUTES, FINER_ATTRIBUTES, recognise
from scoring import (
    NAMES,
    confusion,
    confusion_text,
    has,
    kept_in_place,
    kept_to_the_end,
    labelled_sheet,
    shares,
)

from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.presets import load_preset
from tests.cases import check_cases

pytestmark = pytest.mark.slow  # of the world that the embedded model was trained on

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = world.held_out_examples(36)


@pytest.fixture(scope="module")
def clips():
    """The rendered examples."""
    return [world.render(example.scene) for example in EXAMPLES]


@pytest.fixture(scope="module")
def seen(clips):
    """What is recognised in them."""
    return [recognise(clip) for clip in clips]


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    return exit_info.value.code


def test_rendered_clips_score_all():
    scores = measure(rendered(17), EXAMPLES).scores
    sure = (*ATTRIBUTES, *FINER_ATTRIBUTES, "all", "last_frame", "place")
    assert {name: scores[name] for name in sure} == dict.fromkeys(sure, 1.0)
    assert scores["psnr"] == 10 * np.log10(255**2 / 1e-12)


def test_what_is_lost_at_the_end_or_out_of_place_is_counted(clips):
    example, clip = EXAMPLES[0], clips[0].copy()
    assert kept_to_the_end(example, clip)
    assert kept_in_place(example, clip)
    assert kept_in_place(example, np.roll(clip, 2, axis=1))
    assert not kept_in_place(example, np.roll(clip, 4, axis=1))
    assert not kept_in_place(example, np.roll(clip, (3, 3), axis=(1, 2)))
    clip[-1] = 255
    assert not kept_to_the_end(example, clip)
    clip[1] = 255
    assert not kept_in_place(example, clip)


def test_confusion_of_rendered_clips_is_diagonal(seen):
    def rule(attribute):
        counts = confusion(EXAMPLES, seen, attribute)
        size = len(NAMES[attribute])
        assert counts.shape == (size, size + 1)
        assert np.array_equal(counts[:, :size], np.diag(counts.diagonal()))
        assert counts.sum() == sum(has(example.scene, attribute) for example in EXAMPLES)
        assert not counts[:, size].any()

    check_cases(list(NAMES), rule)


def test_what_grows_has_no_size_to_be_right_in(seen):
    grows = next(i for i, example in enumerate(EXAMPLES) if example.scene.motion == "grow")
    moves = next(i for i, example in enumerate(EXAMPLES) if example.scene.motion == "left")
    pair = [EXAMPLES[grows], EXAMPLES[moves]]
    assert shares(pair, [seen[grows], replace(seen[moves], size=None)])["size"] == 0
    assert confusion(pair, [seen[grows], seen[moves]], "size").sum() == 1


def test_mistakes_are_counted_where_they_belong(seen):
    """The first clip is a red circle; call it blue and of no known shape."""
    assert (EXAMPLES[0].scene.colour, EXAMPLES[0].scene.shape) == ("red", "circle")
    seen = [replace(seen[0], colour="blue", shape=None), *seen[1:]]
    found = shares(EXAMPLES, seen)
    wrong = dict.fromkeys(("colour", "shape", "all"), 35 / 36)
    assert found == dict.fromkeys((*ATTRIBUTES, *FINER_ATTRIBUTES), 1) | wrong
    colours = confusion(EXAMPLES, seen, "colour")
    assert colours[NAMES["colour"].index("red"), NAMES["colour"].index("blue")] == 1
    assert confusion(EXAMPLES, seen, "shape")[NAMES["shape"].index("circle"), -1] == 1
    assert colours.sum() == 36
    red = confusion_text(colours, "colour").splitlines()[1].split()
    reds = str(sum(example.scene.colour == "red" for example in EXAMPLES) - 1)
    assert red == ["red", reds, ".", "1", ".", ".", ".", "."]


def test_bars_are_least_shares():
    bars = BARS["generated"]
    assert below_bars(dict(bars), bars) == []
    assert below_bars({**bars, "shape": bars["shape"] - 0.01}, bars) == ["shape"]


def test_sheet_says_mistakes_in_red(clips, seen):
    """The strips of red objects are left out: below labels, red may be paint."""
    index = next(i for i, example in enumerate(EXAMPLES) if example.scene.colour == "blue")
    example, clip, right = EXAMPLES[index], clips[index], seen[index]

    def reds(seen):
        sheet = labelled_sheet([example], [seen], [clip]).astype(int)
        return ((sheet[..., 0] > 180) & (sheet[..., 1:].max(-1) < 60)).sum()

    assert reds(right) == 0
    assert reds(replace(right, motion="down" if right.motion != "down" else "up")) > 10
    assert reds(replace(right, shape=None)) > 10
    assert reds(replace(right, speed="slow" if right.speed != "slow" else "quick")) > 10
    assert labelled_sheet(EXAMPLES[:4], seen[:4], clips[:4]).shape[2] == 3


def test_settings_of_the_preset_are_arguments_of_the_pipeline():
    settings = call_settings(load_preset("tiny"))
    assert set(settings) <= set(inspect.signature(PyramidFlowPipeline.__call__).parameters)
    assert settings["num_inference_steps"] == list(load_preset("tiny").num_inference_steps)


def test_command_line_on_rendered_clips(monkeypatch, tmp_path, capsys):
    assert _run(monkeypatch, "--rendered", "--bars", "--count", 12, "--out", tmp_path) == 0
    assert "PASS" in capsys.readouterr().out
    result = json.loads((tmp_path / "rendered-17.json").read_text())
    assert result["scores"]["all"] == 1.0
    assert [clip["seed"] for clip in result["clips"]] == [example.seed for example in EXAMPLES[:12]]
    assert iio.imread(tmp_path / "rendered-17.png").ndim == 3


def test_other_pairs_than_the_first_ones(monkeypatch, tmp_path):
    assert _run(monkeypatch, "--rendered", "--first", 5, "--count", 2, "--out", tmp_path) == 0
    result = json.loads((tmp_path / "rendered-17.json").read_text())
    assert [clip["seed"] for clip in result["clips"]] == [example.seed for example in EXAMPLES[5:7]]


def test_command_line_on_an_untrained_model(exported, monkeypatch, tmp_path, capsys):
    """It draws noise: bars are missed, measuring alone succeeds, a grid gets a line each and a picture."""
    model = ("--model", exported, "--out", tmp_path, "--count", 1, "--num-frames", 5)
    steps = ("--num-inference-steps", "1")
    assert _run(monkeypatch, *model, "--reconstructed", "--bars") == 1
    output = capsys.readouterr().out
    assert "FAIL: below the bar in all, psnr" in output
    assert _run(monkeypatch, *model, *steps, "--continued", "--bars") == 1
    assert "FAIL: below the bar in" in capsys.readouterr().out

    assert _run(monkeypatch, *model, *steps, "--guidance-scale", 1, 2) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["1/1", "1,1,1"],
        ["2/2", "1,1,1"],
    ]
    assert {path.name for path in tmp_path.glob("g*.png")} == {
        "generated-5-g1-v1-s1.1.1.png",
        "generated-5-g2-v2-s1.1.1.png",
        "grid.png",
    }


def test_a_continued_clip_begins_with_the_rendered_picture():
    """Of the embedded model, within what its autoencoder loses."""
    settings = call_settings(load_preset("tiny")) | {"num_frames": 5, "num_inference_steps": [1, 1, 1]}
    settings |= {"video_num_inference_steps": [1, 1, 1]}
    pipeline = PyramidFlowPipeline.from_pretrained(ROOT / "assets" / "tiny")
    pipeline.set_progress_bar_config(disable=True)
    for example in EXAMPLES[:2]:
        first = continued(pipeline, settings)(example)[0].astype(float)
        error = np.mean((first - world.render(example.scene, 1)[0]) ** 2)
        assert 10 * np.log10(255**2 / error) > 30


def test_guidance_of_the_later_units_has_its_own_row_of_a_grid(exported, monkeypatch, tmp_path):
    model = ("--model", exported, "--out", tmp_path, "--count", 1, "--num-frames", 5)
    grid = ("--guidance-scale", 2, "--video-guidance-scale", 1, 3, "--num-inference-steps", "1,1,2")
    assert _run(monkeypatch, *model, *grid) == 0
    for later in (1, 3):
        result = json.loads((tmp_path / f"generated-5-g2-v{later}-s1.1.2.json").read_text())
        assert result["settings"]["guidance_scale"] == 2
        assert result["settings"]["video_guidance_scale"] == later
        assert result["settings"]["video_num_inference_steps"] == [1, 1, 2]


def test_count_must_be_positive(monkeypatch, capsys):
    assert _run(monkeypatch, "--count", "0") == 2
    assert "--count must be at least 1, got 0" in capsys.readouterr().err
    assert _run(monkeypatch, "--first", "-1") == 2
    assert "--first must be at least 0, got -1" in capsys.readouterr().err
