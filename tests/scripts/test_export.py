"""Exporting the embedded model: what is saved loads again and makes the same clip, and nothing gets lost."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from export import export, main, size_of

from pyramid_seed.pipelines import PyramidFlowPipeline

pytestmark = pytest.mark.slow  # for a model that has been trained a little

PARTS = {"scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae"}
SHORT = {
    "prompt": "a red circle moves to the right on a white background",
    "seed": 7,
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "max_sequence_length": 32,
    "output_type": "uint8",
}


def test_exported_folder_makes_the_same_clip(untrained_pipeline, exported):
    loaded = PyramidFlowPipeline.from_pretrained(exported)
    loaded.set_progress_bar_config(disable=True)
    frames = loaded(**SHORT).frames
    assert frames.shape == (1, 5, 64, 64, 3)
    assert np.array_equal(frames, untrained_pipeline(**SHORT).frames)


def test_folder_has_the_layout_of_diffusers_and_safetensors_only(exported):
    assert {path.name for path in exported.iterdir()} == PARTS | {"model_index.json", "pipeline.py"}
    weights = [path for path in exported.rglob("*") if path.stat().st_size > 1_000_000]
    assert weights
    assert all(path.suffix == ".safetensors" for path in weights)
    assert size_of(exported) < 40_000_000


def test_an_existing_folder_is_replaced_only_when_asked_and_keeps_its_card(untrained_pipeline, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("model_index.json", "README.md", "curves.png", "stale.bin"):
        (folder / name).write_text("old")
    with pytest.raises(FileExistsError):
        export(untrained_pipeline, folder)
    assert (folder / "model_index.json").read_text() == "old"

    export(untrained_pipeline, folder, overwrite=True)
    assert (folder / "README.md").read_text() == (folder / "curves.png").read_text() == "old"
    assert (folder / "model_index.json").read_text() != "old"
    assert not (folder / "stale.bin").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_never_replaced(untrained_pipeline, tmp_path):
    (tmp_path / "thesis.txt").write_text("work of years")
    with pytest.raises(FileExistsError, match="not a pipeline folder"):
        export(untrained_pipeline, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_command_line_puts_trained_parts_together(
    untrained_pipeline, text_folder, tmp_path, monkeypatch, capsys
):
    untrained_pipeline.vae.save_pretrained(tmp_path / "vae")
    untrained_pipeline.transformer.save_pretrained(tmp_path / "transformer")
    out = tmp_path / "assets" / "tiny"
    parts = {"--text": text_folder, "--vae": tmp_path / "vae", "--transformer": tmp_path / "transformer"}
    arguments = [str(word) for pair in parts.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["export.py", "--out", str(out), *arguments])
    main()
    assert (out / "model_index.json").exists()
    assert capsys.readouterr().out == f"{out}: {size_of(out) / 1e6:.1f} MB\n"
