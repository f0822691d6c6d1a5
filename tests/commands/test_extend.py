"""`pyramid-seed extend`."""

from __future__ import annotations

from pyramid_seed import generate
from pyramid_seed.cli import main
from pyramid_seed.noise import Branch
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.reproduce import verify


def test_it_goes_on_from_a_saved_clip(quick, tmp_path, capsys):
    branched = generate("a boat", seed=5, branches=(Branch(2, 9),), **quick | {"num_frames": 17})
    path = generate("a boat", seed=5, **quick).save(tmp_path / "clip.mp4", keep_latents=True)
    arguments = ["--model", quick["model"], "--quiet"]
    extend = ["extend", str(path), "--num-frames", "17", "--branch-seed", "9", *arguments]
    assert main([*extend, "--keep-latents"]) == 0
    made = tmp_path / "clip_17frames_seed9.mp4"
    assert read_manifest(made)["digests"] == branched.manifest["digests"]
    assert read_manifest(made)["branches"] == [{"from_unit": 2, "seed": "9"}]
    assert verify(made, model=quick["model"], progress=False).difference is None
    assert main(extend) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*extend, "--from-frame", "4", "-o", str(tmp_path / "x.mp4")]) == 2
    assert "got 4; use 1 or 9" in capsys.readouterr().err
