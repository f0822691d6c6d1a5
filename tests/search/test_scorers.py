"""Who judges: measures by name, a tiny random CLIP, a function of the user's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyramid_seed.explore.measures import measure_clip
from pyramid_seed.files import file_digest
from pyramid_seed.geometry import PyramidGeometry
from pyramid_seed.search.scorers import ClipScorer, MeasureScorer, score_of, scorer_of

GEOMETRY = PyramidGeometry(8, 4, 2, 3)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)


def test_measures_are_summed_with_signs_and_weights(frames):
    values = measure_clip(frames, GEOMETRY)
    for text, expected in (
        ("sharpness", values["sharpness"]),
        ("-flicker+0.5*motion", 0.5 * values["motion"] - values["flicker"]),
        (" - 2 * ti + si ", values["si"] - 2 * values["ti"]),
    ):
        scorer = scorer_of(text, GEOMETRY)
        assert scorer.score(frames, "") == pytest.approx(expected, rel=1e-15)
        assert (scorer.name, scorer.digest) == (text, None)
    assert "opencv" in MeasureScorer("si", GEOMETRY).version


def test_a_measure_that_is_not_defined_ends_the_candidate(frames):
    score, error = score_of(scorer_of("motion", GEOMETRY), frames[:1], "")
    assert (score, error) == (None, "ValueError: motion is not defined for this clip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sharpnes", "got 'sharpnes'; did you mean 'sharpness'"),
        ("si+si", "got 'si' twice"),
        ("si ti", "must be a sum of measures such as"),
        ("", "must be a sum of measures such as"),
        ("2*", "must be a sum of measures such as"),
        ("nowhere_at_all:f", "cannot be imported"),
        ("json:nothing", "cannot be imported"),
        ("json:__name__", "must be a function, got str"),
        ("clip:/nowhere/at/all", "must be a CLIP of transformers"),
    ],
)
def test_what_is_no_scorer_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        scorer_of(text, GEOMETRY)


def test_a_function_says_where_it_comes_from(frames, tmp_path, monkeypatch):
    module = tmp_path / "scorer_of_a_test.py"
    module.write_text(
        "import numpy\n__version__ = '3'\n"
        "def bright(frames, prompt): return numpy.float32(frames.mean() + len(prompt))\n"
        "def nothing(frames, prompt): return float('nan')\n"
        "def text(frames, prompt): return 'high'\n"
        "def broken(frames, prompt): raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scorer = scorer_of("scorer_of_a_test:bright", GEOMETRY)
    assert (scorer.name, scorer.version) == ("scorer_of_a_test:bright", "3")
    assert scorer.digest == file_digest(module)
    assert score_of(scorer, frames, "abc") == (float(np.float32(frames.mean() + 3)), None)
    for name, reason in (("nothing", "finite"), ("text", "must be a number"), ("broken", "KeyError")):
        score, error = score_of(scorer_of(f"scorer_of_a_test:{name}", GEOMETRY), frames, "")
        assert score is None
        assert reason in error


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights that reads single letters."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes["projection_dim"] = 8
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    text = {**sizes, **ends, "vocab_size": len(tokens), "max_position_embeddings": 16}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    paths = str(folder / "vocab.json"), str(folder / "merges.txt")
    CLIPTokenizer(*paths, model_max_length=16).save_pretrained(folder)
    crop = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=crop).save_pretrained(folder)
    return folder


def test_clip_is_the_mean_of_the_frames_cosines(clip_folder, frames):
    scorer = scorer_of(f"clip:{clip_folder}", GEOMETRY)
    assert scorer.name == "clip:tiny-clip"
    assert len(scorer.digest) == 64
    each = [scorer.score(frames[n : n + 1], "a boat") for n in range(len(frames))]
    assert len(set(each)) == len(each)
    assert max(map(abs, each)) <= 1
    assert scorer.score(frames, "a boat") == pytest.approx(np.mean(each), abs=1e-12)
    assert scorer.score(frames, "a boat") != scorer.score(frames, "x")
    assert scorer.score(frames, "long " * 50) == ClipScorer(str(clip_folder)).score(frames, "long " * 50)
