"""`pyramid-seed encode`, and the commands that take what it writes."""

from __future__ import annotations

import shutil

import pytest

from pyramid_seed import shared_pipeline as shared_pipeline_module
from pyramid_seed.cli import main
from pyramid_seed.pipelines.encoded_texts import ENCODER_PARTS
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.conftest import REFERENCE

SETTINGS = ["--variant", "384p", "--height", "64", "--width", "64", "--num-frames", "9", "--fps", "8"]
SETTINGS += ["--num-inference-steps", "1", "--guidance-scale", "3", "--max-sequence-length", "32"]


@pytest.fixture
def prompts(tmp_path):
    (path := tmp_path / "prompts.txt").write_text("a boat\na cat\n")
    return path


@pytest.mark.slow
def test_every_command_makes_the_same_clip_of_what_it_writes(prompts, tmp_path, capsys):
    """With a folder that has no text encoders."""
    whole = str(REFERENCE / "miniflux-tiny")
    texts = tmp_path / "texts.safetensors"
    assert main(["encode", str(prompts), "-o", str(texts), "--model", whole, *SETTINGS, "--quiet"]) == 0
    assert "texts       3, of 32 tokens in float32" in capsys.readouterr().out
    rest = shutil.copytree(whole, tmp_path / "rest")
    for part in ENCODER_PARTS[:2]:
        shutil.rmtree(rest / part)
    given = ["--prompt-embeds", str(texts), "--quiet"]
    batch = ["batch", str(prompts), "--seed", "1", *SETTINGS]
    assert main([*batch, "-o", str(tmp_path / "clips"), "--model", str(rest), *given]) == 0
    (clip,) = (tmp_path / "clips").glob("a-boat*.mp4")
    # The same folder of clips, gone on with by somebody who has the encoders.
    assert main([*batch, "-o", str(tmp_path / "clips"), "--model", whole, "--quiet"]) == 0
    assert "2 there already" in capsys.readouterr().out
    one = tmp_path / "one.mp4"
    command = ["generate", "a boat", "--seed", "1", "-o", str(one), *SETTINGS]
    assert main([*command, "--model", whole, "--low-memory", "--quiet"]) == 0
    assert read_manifest(one)["digests"] == read_manifest(clip)["digests"]
    for path, model, how in ((clip, rest, given), (clip, whole, ["--low-memory", "--quiet"])):
        assert main(["verify", str(path), "--model", str(model), *how]) == 0
    longer = tmp_path / "longer.mp4"
    extend = ["extend", str(one), "--num-frames", "17", "-o", str(longer)]
    assert main([*extend, "--model", str(rest), *given]) == 0
    assert read_manifest(longer)["digests"]["units"][:2] == read_manifest(one)["digests"]["units"]


def test_what_cannot_be_written_or_read_is_refused_before_anything_is_loaded(
    prompts, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(shared_pipeline_module, "load_source", lambda *_: pytest.fail("something was loaded"))
    shared_pipeline.clear()
    (tmp_path / "there.safetensors").touch()
    (two := tmp_path / "two.jsonl").write_text(
        '{"prompt": "a"}\n{"prompt": "b", "max_sequence_length": 48}\n'
    )
    before = sorted(tmp_path.rglob("*"))

    def refused(message, *arguments):
        assert main(list(map(str, arguments))) == 2
        assert message in capsys.readouterr().err

    texts = tmp_path / "texts.safetensors"
    refused("are written as .safetensors", "encode", prompts, "-o", tmp_path / "texts.pt")
    refused("already exists", "encode", prompts, "-o", tmp_path / "there.safetensors")
    refused("does not exist", "encode", tmp_path / "no.txt", "-o", texts)
    refused("must have the same max_sequence_length, got 32 and 48", "encode", two, "-o", texts)
    refused("num_frames must be", "encode", prompts, "-o", texts, "--num-frames", "3")
    refused("holds no embeddings", "generate", "a", "--prompt-embeds", tmp_path / "there.safetensors")
    refused("does not exist", "batch", prompts, "-o", tmp_path / "clips", "--prompt-embeds", texts)
    assert sorted(tmp_path.rglob("*")) == before
