"""Commands that take a model, with one of Helios; elsewhere their tests have models of Pyramid Flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_seed import Branch, generate, run_monitor, run_search, run_sweep
from pyramid_seed.cli import main
from pyramid_seed.provenance.manifest import read_manifest
from tests.conftest import REFERENCE

pytestmark = pytest.mark.slow

PROMPTS = ["a boat", "a star"]
SEEDS = (1, 2)


@pytest.fixture(scope="module")
def saved(quick_helios, tmp_path_factory) -> Path:
    clip = generate(PROMPTS[0], seed=SEEDS[0], **quick_helios)
    return clip.save(tmp_path_factory.mktemp("saved") / "boat.mp4")


def test_verify_regenerate_and_compare(saved, helios_folder, tmp_path, capsys):
    model = ["--model", helios_folder("distilled"), "--quiet"]
    assert main(["verify", str(saved), *model]) == 0
    assert capsys.readouterr().out.endswith("MATCH\n")
    assert main(["verify", str(saved), "--model", helios_folder("mid"), "--quiet"]) == 1
    assert "DIFFERS first in weights: " in capsys.readouterr().out
    again = tmp_path / "again.mp4"
    assert main(["regenerate", str(saved), "-o", str(again), *model]) == 0
    assert read_manifest(again)["digests"] == read_manifest(saved)["digests"]
    assert main(["compare", str(saved), str(again), "-o", str(tmp_path / "report")]) == 0


def test_a_clip_goes_on_from_a_saved_one(saved, quick_helios, helios_folder, tmp_path, capsys):
    model, onward = ["--model", helios_folder("distilled"), "--quiet"], tmp_path / "onward.mp4"
    settings = {name: value for name, value in quick_helios.items() if name not in ("model", "progress")}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    make = ["generate", PROMPTS[1], "--seed", "3", *words, *model, "-o", str(onward)]
    assert main([*make, "--video", str(saved)]) == 0
    assert main(["verify", str(onward), "--video", str(saved), *model]) == 0
    capsys.readouterr()
    assert main(["verify", str(onward), *model]) == 2
    assert "the clip was made from a video (SHA-256" in capsys.readouterr().err
    longer = ["extend", str(onward), "--num-frames", "99", *model]
    assert main([*longer, "--video", str(onward), "-o", str(tmp_path / "a.mp4")]) == 2
    assert "this is not the video that the clip was made from" in capsys.readouterr().err
    assert main([*longer, "--video", str(saved), "-o", str(tmp_path / "a.mp4")]) == 0
    assert (
        read_manifest(tmp_path / "a.mp4")["digests"]["units"][:2] == read_manifest(onward)["digests"]["units"]
    )


def test_sweep_and_monitor(quick_helios, tmp_path):
    short = quick_helios | {"num_frames": 33, "device": "cpu"}
    swept = run_sweep(PROMPTS, tmp_path, seeds=SEEDS, **short)
    assert (swept.batch.status, swept.batch.made) == (0, 4)
    assert generate(PROMPTS[1], seed=SEEDS[1], **short).digest in swept.batch.digests.values()
    monitored = run_monitor(PROMPTS, tmp_path, seeds=SEEDS, **short)
    assert (monitored.status, monitored.sweep.batch.made) == (0, 0)
    assert monitored.checkpoint.shares == swept.findings.shares


@pytest.mark.parametrize("picture", [{}, {"image": str(REFERENCE / "i2v_input.png"), "fit": "crop"}])
def test_search(quick_helios, tmp_path, picture):
    tree = {"scorer": "sharpness", "num_candidates": 2, "keep": 1, "branching": 2, "at": (1,), "seed": 42}
    settings = {**quick_helios, **picture}
    won = run_search(PROMPTS[0], tmp_path, **tree, **settings, device="cpu").record.winner
    branches = [Branch(each.from_unit, int(each.seed)) for each in won.branches]
    clip = generate(PROMPTS[0], seed=int(won.seed), branches=branches, **settings)
    assert clip.digest == won.frames
    verify = ["verify", str(tmp_path / "winner.mp4"), "--search", str(tmp_path / "search.json")]
    image = ["--image", picture["image"]] if picture else []
    assert main([*verify, *image, "--model", quick_helios["model"], "--quiet"]) == 0
