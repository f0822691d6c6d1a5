"""Weights in a pickle: converted once, bit for bit, and no code of the pickle is run."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyramid_seed import generate
from pyramid_seed.checkpoints import pickles
from pyramid_seed.checkpoints.load import load_components
from pyramid_seed.checkpoints.pickles import converted, kept_conversions
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.families.pyramid_flow import VAE_PART
from pyramid_seed.files import file_digest
from pyramid_seed.loading import load_pipeline
from tests.cases import check_cases
from tests.conftest import REFERENCE

MINIFLUX = REFERENCE / "miniflux-tiny"
WEIGHTS = "diffusion_pytorch_model.safetensors"
STATE = load_file(MINIFLUX / VAE_PART / WEIGHTS)
FIRST, SECOND = "decoder.conv_in.conv.bias", "decoder.conv_in.conv.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pyramid_seed" / "converted"


@pytest.fixture(scope="module")
def vae():
    model = read_source(MINIFLUX).empty(VAE_PART)
    return lambda _: model


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder in the original's layout whose VAE is a pickle."""
    folder = Path(shutil.copytree(MINIFLUX, tmp_path / "published"))
    torch.save(STATE, folder / VAE_PART / "diffusion_pytorch_model.bin")
    (folder / VAE_PART / WEIGHTS).unlink()
    return folder


class Hostile:
    """Runs a command when it is unpickled by anything that runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


# What is read


def test_pickles_of_all_shapes_are_the_same_weights(vae, tmp_path):
    names = list(STATE)
    flat = torch.cat([tensor.flatten() for tensor in STATE.values()])
    views, place = {}, 0
    for name, tensor in STATE.items():  # all of them in one piece of memory
        views[name] = flat[place : place + tensor.numel()].view(tensor.shape)
        place += tensor.numel()
    turned = {
        name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in STATE.items()
    }
    assert any(not tensor.is_contiguous() for tensor in turned.values())
    cases = {
        "plain": STATE,
        "in another order": {name: STATE[name] for name in reversed(names)},
        "under a key": {"state_dict": STATE, "epoch": 3, "optimizer": {"step": torch.ones(1)}},
        "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()},
        "shared memory": views,
        "memory in another order": turned,
        "bfloat16": {name: tensor.bfloat16() for name, tensor in STATE.items()},
    }

    def rule(content, **options):
        path = tmp_path / "vae.bin"
        torch.save(content, path, **options)
        found = load_file(converted([path], vae).path)
        dtype = next(iter(found.values())).dtype
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[name], tensor.to(dtype)) for name, tensor in STATE.items())
        assert dtype == (torch.bfloat16 if content is cases["bfloat16"] else torch.float32)

    check_cases(cases, rule)
    rule(STATE, _use_new_zipfile_serialization=False)


def test_what_does_not_fit_is_named(vae, tmp_path, cache):
    without = {name: tensor for name, tensor in STATE.items() if name != FIRST}
    nan, infinite = STATE[FIRST].clone(), STATE[FIRST].clone()
    nan[0], infinite[-1] = torch.nan, torch.inf
    odd = rf"must hold finite floating-point numbers .* not so in 1: {FIRST}"
    cases = {
        "missing": (without, f"exactly the 176 tensors .* 1 missing: {FIRST}$"),
        "more": (STATE | {"loss.weight": torch.ones(1)}, "1 unexpected: loss.weight$"),
        "prefixed": (
            {f"module.{name}": tensor for name, tensor in STATE.items()},
            "176 missing.*176 unexpected",
        ),
        "another shape": (STATE | {FIRST: torch.ones(3)}, rf"1 of another shape: {FIRST} \(3,\) instead of"),
        "NaN": (STATE | {FIRST: nan}, odd),
        "infinite": (STATE | {FIRST: infinite}, odd),
        "whole numbers": (STATE | {FIRST: STATE[FIRST].int()}, odd),
        "sparse": (STATE | {FIRST: STATE[FIRST].to_sparse()}, odd),
        "two sets": ({"state_dict": STATE, "ema": STATE}, "holds several sets of weights, state_dict, ema"),
        "no tensors": ({"a": 1}, "176 missing"),
        "a list": ([STATE], "176 missing"),
    }

    def rule(content, message):
        path = tmp_path / "vae.bin"
        torch.save(content, path)
        with pytest.raises(ValueError, match=message) as error:
            converted([path], vae)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    check_cases(cases, rule)
    assert not list(cache.glob("*"))


def test_a_hostile_pickle_runs_no_code(vae, tmp_path, cache):
    marker, path = tmp_path / "ran", tmp_path / "vae.bin"
    hostile = Hostile(marker)
    cases = {
        "instead of weights": lambda: torch.save(hostile, path),
        "among the weights": lambda: torch.save(STATE | {"x": hostile}, path),
        "in the place of a weight": lambda: torch.save(STATE | {FIRST: hostile}, path),
        "in the old format": lambda: torch.save([hostile], path, _use_new_zipfile_serialization=False),
        "without a format": lambda: path.write_bytes(pickle.dumps(hostile, protocol=2)),
        "an object": lambda: torch.save(torch.nn.Linear(2, 2), path),
        "an array": lambda: torch.save({"a": np.ones(2)}, path),
        "a page": lambda: path.write_text("<html>not found</html>"),
    }

    def rule(write):
        write()
        message = f"^{re.escape(str(path))} is refused, and none of its code was run: .*; use a copy in safe"
        with pytest.raises(ValueError, match=message):
            converted([path], vae)
        assert not marker.exists()

    check_cases(cases, rule)
    cases["among the weights"]()
    with pytest.raises(
        ValueError, match=rf"it asks for {os.system.__module__}\.system, and a pickle that needs"
    ):
        converted([path], vae)
    assert not list(cache.glob("*"))
    torch.load(path, weights_only=False)
    assert marker.exists(), "it would have"


def test_a_damaged_pickle_is_named(vae, tmp_path):
    path = tmp_path / "vae.bin"
    torch.save(STATE, path)
    whole = path.read_bytes()
    cases = {"cut": whole[: len(whole) // 2], "empty": b"", "zip": whole[:-30]}

    def rule(content):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as a pickle of tensors .* download it again$"):
            converted([path], vae)

    check_cases({name: (content,) for name, content in cases.items()}, rule)


# What is written


def test_a_pickle_is_converted_once_and_a_damaged_copy_is_replaced(published, cache, caplog):
    source = read_source(published)
    assert len(caplog.records) == 1, "one line"
    assert "diffusion_pytorch_model.bin was converted to safetensors once" in caplog.text
    (copy,) = source.converted.values()
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert read_source(published).converted == source.converted
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert kept_conversions() == [copy]
    (row,) = [row for row in source.weights if row["file"].endswith(".bin")]
    assert (row["sha256"], row["converted_sha256"]) == (copy.path.parent.name, copy.sha256)

    whole = copy.path.read_bytes()
    state = copy.path.stat()
    copy.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(copy.path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a disk that fails would
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged; delete its folder"):
        source.weights_now()
    os.utime(copy.path)
    assert read_source(published).converted == source.converted
    assert copy.path.read_bytes() == whole
    (copy.path.parent / "converted.json").write_text("{}")
    assert read_source(published).converted == source.converted


def test_a_cache_that_cannot_be_written(published, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(pickles, "read_pickle", lambda path: pytest.fail(f"{path} was read for nothing"))
    message = r"^no safetensors copy of .*\.bin can be made: .* cannot be written: .*; set XDG_CACHE_HOME to"
    with pytest.raises(OSError, match=message):
        read_source(published)


def test_a_folder_whose_vae_is_a_pickle_makes_the_same_clip(published, quick, made):
    clip = generate("a boat", seed=made.seed, **quick | {"model": str(published)})
    assert clip.digest == made.digest
    assert {row["file"]: row["sha256"] for row in clip.manifest["weights"]} != {
        row["file"]: row["sha256"] for row in made.manifest["weights"]
    }


def test_every_part_may_be_a_pickle(tmp_path):
    folder = Path(shutil.copytree(MINIFLUX, tmp_path / "model"))
    for path in folder.glob("*/*.safetensors"):
        is_text = path.name.startswith("model")
        torch.save(load_file(path), path.with_name("pytorch_model.bin" if is_text else "weights.pt"))
        path.unlink()
    pickled, plain = load_components(read_source(folder)), load_components(read_source(MINIFLUX))
    for name in ("vae", "transformer", "text_encoder", "text_encoder_2"):
        expected, state = plain[name].state_dict(), pickled[name].state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())


# Shards


def sharded(part: Path, *shards, weight_map=None, stem="diffusion_pytorch_model") -> list[Path]:
    """Write shards of a pickle, and the index that names them, in place of a part's weights."""
    for path in part.glob("*.safetensors"):
        path.unlink()
    names = [f"{stem}-{place:05}-of-{len(shards):05}.bin" for place, _ in enumerate(shards, start=1)]
    for name, content in zip(names, shards, strict=True):
        torch.save(content, part / name)
    if weight_map is None:
        weight_map = {str(key): name for name, shard in zip(names, shards, strict=True) for key in shard}
    (part / f"{stem}.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [part / name for name in names]


HALVES = [dict(list(STATE.items())[:80]), dict(list(STATE.items())[80:])]


@pytest.fixture
def in_shards(tmp_path) -> Path:
    """A folder in the original's layout whose VAE is a pickle in two shards."""
    folder = Path(shutil.copytree(MINIFLUX, tmp_path / "model"))
    sharded(folder / VAE_PART, *HALVES)
    return folder


def test_shards_of_a_pickle_are_the_same_weights_and_all_digests_are_recorded(in_shards, cache, caplog):
    source = read_source(in_shards)
    assert len(caplog.records) == 1, "one line"
    (copy,) = set(source.converted.values())
    found = load_file(copy.path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    rows = {row["file"]: row for row in source.weights if row["file"].startswith(VAE_PART)}
    stem = f"{VAE_PART}/diffusion_pytorch_model"
    shards = [f"{stem}-00001-of-00002.bin", f"{stem}-00002-of-00002.bin"]
    assert sorted(rows) == sorted([f"{VAE_PART}/config.json", f"{stem}.bin.index.json", *shards])
    for name in shards:
        assert rows[name]["sha256"] == file_digest(in_shards / name)
        assert rows[name]["converted_sha256"] == file_digest(copy.path)
    assert source.weights_now() == list(source.weights)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert read_source(in_shards).converted == source.converted
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_a_text_encoder_in_shards_makes_the_same_clip(tmp_path, quick, made):
    folder = Path(shutil.copytree(MINIFLUX, tmp_path / "model"))
    state = load_file(folder / "text_encoder_2" / "model.safetensors")
    first = dict(list(state.items())[:5])
    rest = {name: tensor for name, tensor in state.items() if name not in first}
    sharded(folder / "text_encoder_2", first, rest, stem="pytorch_model")
    clip = generate("a boat", seed=made.seed, **quick | {"model": str(folder)})
    assert clip.digest == made.digest


def test_shards_that_do_not_fit_are_named(vae, tmp_path, cache):
    marker = tmp_path / "ran"
    first, second = HALVES
    nan = torch.full_like(second[last := list(second)[-1]], torch.nan)
    cases = {
        "missing": ([first, dict(list(second.items())[1:])], f"1 missing: {next(iter(second))}$"),
        "more": ([first, second | {"loss": torch.ones(1)}], "1 unexpected: loss$"),
        "in both": (
            [STATE, second],
            r"00002-of-00002\.bin must hold no tensor that another shard holds, got",
        ),
        "not finite": ([first, second | {last: nan}], f"finite floating-point numbers .* in 1: {last}"),
        "a list": ([first, [second]], r"00002-of-00002\.bin must hold tensors by name, got list"),
        "hostile": ([first, second | {"x": Hostile(marker)}], "00002.bin is refused, and none of its code"),
    }

    def rule(shards, message):
        with pytest.raises(ValueError, match=message) as error:
            converted(sharded(tmp_path, *shards, weight_map={}), vae)
        assert str(tmp_path / "diffusion_pytorch_model-0000") in str(error.value)

    check_cases(cases, rule)
    assert not marker.exists()
    assert not list(cache.glob("*"))


def test_an_index_of_pickles_names_nothing_but_pickles_beside_it(in_shards):
    part = in_shards / VAE_PART
    (part.parent / "outside.bin").touch()
    cases = {
        "../outside.bin": "must name .bin files beside it, without folders, got '../outside.bin'",
        "/tmp/x.bin": "must name .bin files beside it",
        "other.safetensors": "must name .bin files beside it",
        ".hidden.bin": "must name .bin files beside it",
        "absent.bin": f"{VAE_PART} lacks absent.bin, which diffusion_pytorch_model.bin.index.json names",
    }

    def rule(name, message):
        index = {"weight_map": {FIRST: name}}
        (part / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=re.escape(message)):
            read_source(in_shards)

    check_cases(list(cases.items()), rule)


def test_what_save_pretrained_wrote_has_no_shards_of_pickles(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    sharded(tmp_path / "vae", *HALVES)
    with pytest.raises(ValueError, match=r"in a pickle \(vae/.*\.bin\.index\.json\); .* only safeten"):
        read_source(tmp_path)
    saved = tmp_path / "saved"
    load_pipeline(MINIFLUX, device="cpu").save_pretrained(saved)
    (saved / "vae" / "diffusion_pytorch_model.bin.index.json").write_text("{}")  # beside safetensors, unread
    assert read_source(saved).converted == {}


def test_one_of_several_pickles_must_have_the_usual_name(published):
    part = published / VAE_PART
    shutil.copy(part / "diffusion_pytorch_model.bin", part / "ema.pt")
    assert f"{VAE_PART}/diffusion_pytorch_model.bin" in read_source(published).files
    (part / "diffusion_pytorch_model.bin").rename(part / "other.pth")
    names = r"one pickle, in shards that diffusion_pytorch_model\.bin\.index\.json names, or in safetensors"
    with pytest.raises(ValueError, match=rf"must hold its weights in {names}, got ema\.pt, other\.pth"):
        read_source(published)
