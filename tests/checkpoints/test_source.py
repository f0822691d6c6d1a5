"""Which model it is, read once."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pyramid_seed import generate
from pyramid_seed.checkpoints import source as source_module
from pyramid_seed.checkpoints.source import ModelSource, read_source
from pyramid_seed.loading import load_pipeline
from pyramid_seed.resources import embedded_model_path
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.conftest import REFERENCE

MINIFLUX = REFERENCE / "miniflux-tiny"


@pytest.fixture
def copied(tmp_path) -> Path:
    return Path(shutil.copytree(MINIFLUX, tmp_path / "model"))


@contextmanager
def counted(monkeypatch):
    """What this package asks the file system about a model, while in the block."""
    counts = Counter()

    def counting(name, function):
        def wrapped(*arguments, **options):
            counts[name, *(str(each) for each in arguments[:1] if isinstance(each, Path))] += 1
            return function(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("list_files", "read_config", "_state"):
            patch.setattr(source_module, name, counting(name, getattr(source_module, name)))
        yield counts


def test_one_listing_per_load_one_pass_of_stats_per_later_clip_and_no_config_read_twice(
    quick, copied, monkeypatch
):
    settings = quick | {"model": str(copied)}
    shared_pipeline.clear()
    with counted(monkeypatch) as counts:
        clip = generate("a boat", seed=1, **settings)
    assert counts["list_files", str(copied)] == 1
    configs = {key: count for key, count in counts.items() if key[0] == "read_config"}
    assert len(configs) == 3
    assert set(configs.values()) == {1}
    with counted(monkeypatch) as counts:
        again = generate("a boat", seed=1, **settings)
    assert again.digest == clip.digest
    assert {key[0] for key in counts} == {"_state"}
    assert set(counts.values()) == {1}


def test_the_digests_are_computed_once(quick, copied, monkeypatch):
    pipeline = load_pipeline(copied, variant="384p", device="cpu")
    first = pipeline.source.weights
    monkeypatch.setattr(source_module, "weight_digests", lambda *_: pytest.fail("computed again"))
    assert pipeline.source.weights is first
    assert {row["file"] for row in first} == {
        path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()
    }


def test_files_that_were_written_removed_or_added_are_named(copied):
    source = read_source(copied)
    assert source.changed_files() == []
    (copied / "README.md").touch()
    (copied / "text_encoder" / "notes.md").touch()
    assert source.changed_files() == [], "nothing that loading reads"
    (copied / "tokenizer" / "tokenizer.json").write_text("{}")
    assert source.changed_files() == ["tokenizer/tokenizer.json"]
    (copied / "tokenizer" / "tokenizer.json").unlink()
    file = copied / "causal_video_vae" / "config.json"
    os.utime(file, ns=(0, 0))
    assert source.changed_files() == ["causal_video_vae/config.json"]
    file.unlink()
    assert "causal_video_vae/config.json" in source.changed_files()
    with pytest.raises(ValueError, match=r"has changed since the model was loaded \(causal_video_vae/config"):
        source.check_unchanged()


def at(folder: Path) -> ModelSource:
    """A source of which only the folder counts."""
    source = read_source(MINIFLUX)
    return ModelSource(folder, None, source.layout, source.family, source.transformer, (), {}, {})


def test_models_are_named_without_private_paths(tmp_path):
    cases = {
        embedded_model_path("tiny"): ("embedded", "embedded:tiny", None, "embedded:tiny"),
        tmp_path / "models--owner--name" / "snapshots" / "01ab": ("hub", "owner/name", "01ab", "owner/name"),
        tmp_path / "assets" / "tiny": ("folder", "tiny", None, str(tmp_path / "assets" / "tiny")),
        tmp_path / "secret" / "mine": ("folder", "mine", None, str(tmp_path / "secret" / "mine")),
    }
    for folder, (kind, name, revision, in_settings) in cases.items():
        assert at(folder).reference == {"kind": kind, "name": name, "revision": revision}
        assert at(folder).name == in_settings


@pytest.mark.parametrize("family", ["miniflux-tiny", "sd3-tiny"])
def test_geometry_is_known_before_the_model_is_loaded(family, tmp_path):
    pipeline = load_pipeline(REFERENCE / family, variant="384p")
    assert read_source(REFERENCE / family).geometry == pipeline.geometry
    pipeline.save_pretrained(tmp_path / "saved")
    assert read_source(tmp_path / "saved").geometry == pipeline.geometry
    with pytest.raises(ValueError, match="no weights of the variant '384p', it has none; leave variant out"):
        read_source(tmp_path / "saved", variant="384p")
    for part, name in (("scheduler/scheduler_config", "stages"), ("transformer/config", "patch_size")):
        shutil.copytree(tmp_path / "saved", tmp_path / name)
        path = tmp_path / name / f"{part}.json"
        config = json.loads(path.read_text())
        del config[name]
        path.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"{part}\.json must have {name}$"):
            _ = read_source(tmp_path / name).geometry


def test_weights_are_known_by_content_not_by_folder(copied, tmp_path):
    assert read_source(copied, variant="384p").weights_key == read_source(MINIFLUX).weights_key
    path = copied / "causal_video_vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert read_source(copied).weights_key != read_source(MINIFLUX).weights_key


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../../outside.safetensors", "without folders, got '../../outside.safetensors'"),
        ("model-00001-of-00001.bin", "must name .safetensors files beside it"),
        ("/tmp/x.safetensors", "must name .safetensors files beside it"),
        ("absent.safetensors", "text_encoder lacks absent.safetensors"),
    ],
)
def test_an_index_names_nothing_but_files_beside_it(copied, shard, message):
    part = copied / "text_encoder"
    (part / "model.safetensors").rename(part / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"text_model.embeddings.token_embedding.weight": shard}}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        read_source(copied)


def test_every_file_that_an_index_names_is_part_of_the_model(copied):
    part = copied / "text_encoder"
    (part / "model.safetensors").rename(part / "mine.safetensors")
    index = {"metadata": {}, "weight_map": {"text_model.final_layer_norm.weight": "mine.safetensors"}}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "text_encoder/mine.safetensors" in read_source(copied).files


def test_a_pointer_of_git_lfs_is_named(copied):
    file = copied / "text_encoder_2" / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=r"text_encoder_2/model\.safetensors is a pointer of Git LFS"):
        read_source(copied)


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
def test_a_pipeline_that_was_saved_with_a_variant(copied, tmp_path, shard_size):
    original, saved = load_pipeline(copied, device="cpu"), tmp_path / "saved"
    original.save_pretrained(saved, variant="ours", max_shard_size=shard_size)
    with pytest.raises(
        ValueError, match=r"was saved with variant=, and it has ours; load it with variant='ours'"
    ):
        load_pipeline(saved)
    with pytest.raises(
        ValueError, match=r"has no weights of the variant '384p', it has ours; leave variant out, or"
    ):
        load_pipeline(saved, variant="384p")
    if shard_size == "10GB":  # what is there without a variant is not read
        for part in ("transformer", "vae"):
            (saved / part / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    loaded = load_pipeline(saved, variant="ours", device="cpu")
    for name, part in original.components.items():
        if isinstance(part, torch.nn.Module):
            state = getattr(loaded, name).state_dict()
            assert all(torch.equal(state[key], value) for key, value in part.state_dict().items()), name
    weights = [name for name in loaded.source.files if ".safetensors" in name]
    assert weights
    assert all("ours" in name for name in weights)
    assert any(".index." in name for name in weights) == (shard_size == "20KB")
    assert "variant ours" in loaded.source.description


def test_a_saved_pipeline_in_shards(copied, tmp_path):
    original = load_pipeline(copied, device="cpu")
    original.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    loaded = load_pipeline(tmp_path / "saved", device="cpu")
    for name in ("transformer", "vae", "text_encoder_2"):
        assert len(list((tmp_path / "saved" / name).glob("*-00002-of-*.safetensors"))) == 1
        state = getattr(loaded, name).state_dict()
        for key, value in getattr(original, name).state_dict().items():
            assert torch.equal(state[key], value)


def test_configs_of_odd_types_are_named(copied, tmp_path):
    saved = tmp_path / "saved"
    load_pipeline(copied, device="cpu").save_pretrained(saved)
    cases = [
        (copied, "causal_video_vae/config.json", "encoder_spatial_down_sample", 3),
        (copied, "diffusion_transformer_384p/config.json", "num_layers", "two"),
        (copied, "diffusion_transformer_384p/config.json", "in_channels", [64]),
        (saved, "vae/config.json", "spatial_down_sample", 3),
        (saved, "transformer/config.json", "patch_size", None),
        (saved, "transformer/config.json", "num_layers", "two"),
        (saved, "scheduler/scheduler_config.json", "stages", "three"),
        (saved, "tokenizer/tokenizer_config.json", "added_tokens_decoder", 7),
        (saved, "model_index.json", "transformer", 7),
    ]
    offenders = []
    for folder, file, key, value in cases:
        path = folder / file
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), key: value}))
        try:
            generate("a boat", model=str(folder), height=64, width=64, num_frames=1, progress=False)
        except (ValueError, TypeError) as error:
            if str(folder) not in str(error):
                offenders.append(f"{file}, {key}: {error!r} does not name it")
        except Exception as error:
            offenders.append(f"{file}, {key}: {error!r}")
        else:
            offenders.append(f"{file}, {key}: nothing was raised")
        path.write_text(before)
    assert not offenders, "\n".join(offenders)
