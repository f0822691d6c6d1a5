"""A sweep from prompts to report, with the embedded model and in few steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed import generate, run_sweep
from pyramid_seed.cli import main
from pyramid_seed.explore.measures import measure_clip
from pyramid_seed.explore.report import NAMES
from pyramid_seed.provenance.manifest import read_manifest

from .sweeps import FEW, OPTIONS, PROMPTS, SEEDS, Page, tree_of


def test_what_is_there(swept):
    folder, summary = swept
    assert (summary.batch.status, summary.batch.made) == (0, 6)
    assert summary.report == folder / "report" / "index.html"
    assert {path.name for path in (folder / "report").iterdir()} == set(NAMES) - {"clips"}
    assert len(list((folder / "clips").glob("*.mp4"))) == 6


def test_the_clips_are_those_of_generate(swept):
    rows = tree_of(swept[0])["clips"]
    clip = generate(PROMPTS[0], seed=7, device="cpu", progress=False, **FEW)
    (row,) = [row for row in rows if (row["prompt"], row["seed"]) == (PROMPTS[0], "7")]
    assert row["digest"] == clip.digest
    # The file is lossy; the mean of 2 x 2 pixels comes close.
    exact = measure_clip(clip.frames, clip.geometry)
    for name in ("si", "ti", "motion"):
        assert row["measures"][name] == pytest.approx(exact[name], rel=0.02)


def test_the_way_to_run_is_that_of_generate(tmp_path):
    way = {"attention": "reference", "text_encoders": "offload", "device": "cpu", "progress": False}
    summary = run_sweep(PROMPTS[:1], tmp_path, seeds=(7,), **way, **FEW)
    (name,) = summary.batch.digests
    manifest = read_manifest(tmp_path / "clips" / name)
    assert (manifest["attention"], manifest["compiled"]) == ("reference", False)
    assert manifest["digests"]["frames"] == generate(PROMPTS[0], seed=7, **way, **FEW).digest
    with pytest.raises(ValueError, match="text_encoders must be keep or offload, got 'free'"):
        run_sweep(PROMPTS[:1], tmp_path, seeds=(7,), text_encoders="free", **FEW)


def test_again_makes_only_what_is_missing(swept):
    folder, summary = swept
    # The page holds the clips, and a clip's manifest says how long it took.
    names = ["measures.json", "measures.csv", "contact_sheet.png"]
    before = [(folder / "report" / name).read_bytes() for name in names]
    (folder / "clips" / next(iter(summary.batch.digests))).unlink()
    (folder / "report" / "index.html").unlink()
    again = run_sweep(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)
    assert (again.batch.made, again.batch.found) == (1, 5)
    assert (folder / "report" / "index.html").is_file()
    assert [(folder / "report" / name).read_bytes() for name in names] == before
    fewer = run_sweep(PROMPTS[:1], folder, seeds=(7, 0), device="cpu", progress=False, **FEW)
    assert (fewer.batch.made, fewer.batch.found) == (0, 2)
    assert [row["seed"] for row in tree_of(folder)["clips"]] == ["7", "0"]
    assert set(tree_of(folder)["variance"]["shares"].values()) == {None}
    run_sweep(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)
    assert [(folder / "report" / name).read_bytes() for name in names] == before


@pytest.mark.slow
def test_settings_are_compared_seed_by_seed(swept, tmp_path, capsys):
    command = [
        "sweep",
        PROMPTS[0],
        "--seeds",
        "0-1",
        "-o",
        str(tmp_path),
        "--against",
        str(swept[0]),
        *OPTIONS,
    ]
    assert main([*command, "--guidance-scale", "5"]) == 0
    assert "2 made" in capsys.readouterr().out
    paired = tree_of(tmp_path)["paired"]
    there = [row["measures"]["si"] for row in tree_of(swept[0])["clips"][:2]]
    here = [row["measures"]["si"] for row in tree_of(tmp_path)["clips"]]
    assert paired["against"] == str(swept[0])
    assert paired["differences"]["si"]["difference"] == pytest.approx(np.mean(here) - np.mean(there))
    assert "95 % interval" in Page(tmp_path / "report" / "index.html").text


def test_another_sweep_without_these_clips_is_refused(swept, tmp_path):
    with pytest.raises(ValueError, match="no clip of these prompts and seeds"):
        run_sweep(["something else"], tmp_path, against=swept[0], progress=False)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "measures.json").write_text('{"schema": "other", "schema_version": 1}')
    with pytest.raises(ValueError, match="no measures of a sweep"):
        run_sweep(["a"], tmp_path / "b", against=tmp_path, progress=False)


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="other things"):
        run_sweep(["a"], tmp_path, progress=False)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_different_and_at_least_one(seeds, tmp_path):
    with pytest.raises(ValueError, match="different numbers, at least one"):
        run_sweep(["a"], tmp_path, seeds=seeds)


@pytest.mark.slow
def test_two_processes_write_the_report_of_one(swept, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "pyramid_seed", "sweep", *PROMPTS, "--seeds", "0,1,7", "-o", str(tmp_path / "two")]
    command += [*OPTIONS, "--num-processes", "2"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("index.html") == 1
    for name in ("measures.json", "measures.csv", "contact_sheet.png"):
        assert (tmp_path / "two" / "report" / name).read_bytes() == (swept[0] / "report" / name).read_bytes()
