"""`scripts/full_size.py`: the whole of it at tiny size, what it refuses, and that weights are held once."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

import full_size
import pytest
import torch
from benchmarks.checkpoint import TEXT_ENCODERS, CheckpointSize, family_named, shapes_of, write_configs
from benchmarks.fresh import run_fresh
from benchmarks.full import LOAD_LIMIT, Checkpoint
from PIL import Image
from safetensors.torch import load_file

from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.files import check_space
from tests.conftest import REFERENCE

TINY = ["--size", "tiny", "--height", "64", "--width", "128"]


@pytest.fixture(autouse=True)
def one_thread():
    """Two would wait for each other where others are at work; fresh processes have as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the script on tmp_path / "made"; (status, what it printed, what it said on standard error)."""

    def run_script(*arguments):
        command = ["full_size.py", "--folder", str(tmp_path / "made"), *TINY, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "path", [*sys.path])
        return (full_size.main(), *capsys.readouterr())

    return run_script


def options(**changes):
    values = {"size": "tiny", "text_encoders": False, "stored": "float32", "seed": 0}
    return Namespace(**values | changes)


@pytest.mark.slow
def test_units_of_a_family(run, tmp_path):
    status, told, _ = run("--family", "sd3", "--units", 2, "--json", tmp_path / "told.json")
    assert status == 0
    units, needs = json.loads((tmp_path / "told.json").read_text())
    assert [row[0] for row in units["table"]] == ["phase", "load", "steps", "decode", "save"]
    assert [bar["name"] for bar in units["bars"]] == ["sd3: peak while loading / weights"]
    frames = sorted((tmp_path / "made" / "sd3-frames").iterdir())
    assert [Image.open(frame).size for frame in frames] == [(128, 64)] * 9
    assert needs["what"] == "sd3, size tiny: what a clip needs"
    assert "| in all, in tiles |" in told

    folder = tmp_path / "made" / "sd3"
    assert Checkpoint.of(options(), "sd3", folder).is_made()  # and is used again
    status, _, told = run("--family", "sd3", "--seed", 1)
    assert status == 2
    assert told == (
        f"full_size.py: {folder} must be a checkpoint that this script made with the same options, it has "
        "another seed; use another --folder\n"
    )


def test_what_there_is_no_room_for_is_refused_before_anything_is_written(run, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.full.psutil.virtual_memory", lambda: Namespace(available=2**20))
    status, _, told = run("--family", "miniflux")
    assert status == 2
    assert "miniflux needs about 0.0" in told
    assert "of memory, 0.00 GiB are free" in told
    monkeypatch.setattr(
        "benchmarks.full.check_space", lambda path, size, *rest: check_space(path, 2**60, *rest)
    )
    status, _, told = run("--family", "miniflux")
    assert status == 2
    assert "the checkpoint needs 1,152,921,504,607 MB" in told
    assert not (tmp_path / "made").exists()


def test_a_clip_that_no_model_makes_is_refused_before_anything_is_written(run, tmp_path):
    for option, value, message in (("--height", 100, "use 64 or 128"), ("--units", 0, "at least 1, got 0")):
        status, _, told = run(option, value)
        assert status == 2
        assert message in told
    assert not (tmp_path / "made").exists()


def test_the_published_sizes_are_those_of_the_published_files(tmp_path):
    published = json.loads((REFERENCE / "state_dict_keys.json").read_text())
    for name in ("miniflux", "sd3"):
        write_configs(tmp_path / name, family_named(name), CheckpointSize(text=TEXT_ENCODERS[name]))
        source = read_source(tmp_path / name)
        for part, known in ((source.transformer, f"{name}_transformer"), ("causal_video_vae",) * 2):
            wanted = {key: tuple(shape) for key, shape in published[known].items()}
            assert shapes_of(source, part) == wanted
        t5 = list(TEXT_ENCODERS[name])[-1]
        count = sum(torch.Size(shape).numel() for shape in shapes_of(source, t5).values())
        assert count == 4_762_310_656  # of T5 1.1 XXL's encoder


def test_a_checkpoint_depends_on_its_seed_alone(tmp_path):
    states = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        Checkpoint.of(options(seed=seed), "miniflux", tmp_path / place).make()
        (file,) = (tmp_path / place / "diffusion_transformer_384p").glob("*.safetensors")
        states.append(load_file(file))
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["proj_out.weight"], other["proj_out.weight"])
    assert first["proj_out.weight"].std() > 0


@pytest.mark.slow
def test_weights_are_held_once_while_they_are_loaded(tmp_path):
    """Stored as float32, loaded as 248 MiB of bfloat16, in a fresh process; 24 MiB more for what is none.

    Of a mapped file, what was read would be there besides: 2.7 times the weights.
    """
    checkpoint = Checkpoint.of(options(size="mid"), "miniflux", tmp_path / "miniflux")
    checkpoint.make()
    place = [str(checkpoint.folder), "miniflux"]
    told = run_fresh("benchmarks.unit", "load_only", [*place, False])["value"]
    weights = sum(told["weights"].values())
    assert weights > 200 * 2**20
    assert told["phases"]["load"]["peak"] <= LOAD_LIMIT * weights + 24 * 2**20
