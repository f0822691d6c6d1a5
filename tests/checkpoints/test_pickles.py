"""Weights in a pickle: converted once, bit for bit, and no code of the pickle is run."""

from __future__ import annotations

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
from pyramid_seed.checkpoints.layout import VAE_PART
from pyramid_seed.checkpoints.load import load_components
from pyramid_seed.checkpoints.pickles import converted, kept_conversions
from pyramid_seed.checkpoints.source import read_source
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
        found = load_file(converted(path, vae).path)
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
            converted(path, vae)
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
            converted(path, vae)
        assert not marker.exists()

    check_cases(cases, rule)
    cases["among the weights"]()
    with pytest.raises(
        ValueError, match=rf"it asks for {os.system.__module__}\.system, and a pickle that needs"
    ):
        converted(path, vae)
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
            converted(path, vae)

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
    with (
        pytest.warns(UserWarning, match="the cache of weight digests"),
        pytest.raises(OSError, match=r"cannot be written: .*; set XDG_CACHE_HOME to"),
    ):
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


def test_one_of_several_pickles_must_have_the_usual_name(published):
    part = published / VAE_PART
    shutil.copy(part / "diffusion_pytorch_model.bin", part / "ema.pt")
    assert f"{VAE_PART}/diffusion_pytorch_model.bin" in read_source(published).files
    (part / "diffusion_pytorch_model.bin").rename(part / "other.pth")
    with pytest.raises(ValueError, match=r"must hold its weights in one pickle, .* got ema\.pt, other\.pth"):
        read_source(published)
