"""What version 0.1.0 wrote is shown, verified, extended and gone on with: see tests/fixtures/README.md.

Whatever is compared bit for bit holds where the kernels are those of the machine that wrote the files;
elsewhere the rest of a test still holds, and then it is skipped with the reason.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from pyramid_seed import run_batch
from pyramid_seed.cli import main
from pyramid_seed.environment import (
    Difference,
    environment_fingerprint,
    fingerprint_differences,
    kernel_differences,
)
from pyramid_seed.files import file_digest
from pyramid_seed.media.video import read_video
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.reproduce import verify

WRITTEN = Path(__file__).parent / "fixtures" / "version-0.1.0"
CLIPS = ("circle.mp4", "branched.mp4", "from_image.mp4", "pictures.png")
# A number of threads that a launcher sets changes no bit at level strict; it is not part of a unit's origin.
LAUNCHER_VARIABLES = {"KMP_AFFINITY", "OMP_NUM_THREADS", "PYTHONHASHSEED"}


@pytest.fixture(autouse=True)
def no_workspace_variable(monkeypatch):
    """The command line sets it for CUDA in this process; the files were written without it."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


@pytest.fixture
def written(tmp_path) -> Path:
    """A copy of what the version wrote."""
    return shutil.copytree(WRITTEN, tmp_path / "written")


def differences_here(recorded: Mapping[str, Any]) -> list[Difference]:
    """Fields of a recorded environment that have other values here."""
    here = environment_fingerprint("cpu", torch.float32, recorded["attention_backend"], "strict")
    for name in LAUNCHER_VARIABLES:
        here["variables"].pop(name, None)
    recorded = {name: value for name, value in recorded.items() if name in here}
    return fingerprint_differences(recorded, here)


def skip_if_other_kernels(recorded: Mapping[str, Any]) -> None:
    if kernels := [each.field for each in kernel_differences(differences_here(recorded))]:
        pytest.skip(f"other kernels than when the files were written, because of {', '.join(kernels)}")


def image_options(name: str) -> list[str]:
    return ["--image", str(WRITTEN / "clips" / "first_frame.png")] if name == "from_image.mp4" else []


# ---- batches


@pytest.mark.parametrize(
    ("name", "made", "there"), [pytest.param("batch", 2, 1, marks=pytest.mark.slow), ("image-batch", 1, 0)]
)
def test_an_interrupted_batch_is_gone_on_with(written, name, made, there):
    folder = written / name
    (units,) = [path for path in (folder / ".work").iterdir() if list(path.glob("unit-*"))]
    with safe_open(units / "unit-0000.safetensors", framework="pt") as file:
        origin = json.loads(file.metadata()["origin"])
    num_units = len(list(units.iterdir()))
    clips = {path.name: (path.stat().st_mtime_ns, file_digest(path)) for path in folder.glob("*.mp4")}
    expected = json.loads((written / f"{name}-digests.json").read_text())

    options = {"preset": "tiny-fast", "num_frames": 9, "device": "cpu", "progress": False}
    summary = run_batch(written / f"{name}.jsonl", folder, **options)
    assert (summary.status, summary.made, summary.found) == (0, made, there)
    assert summary.digests.keys() == expected.keys()
    # Nothing that is done is made again.
    for file, state in clips.items():
        assert summary.digests[file] == expected[file]
        assert ((folder / file).stat().st_mtime_ns, file_digest(folder / file)) == state
    # Units are gone on from where nothing differs that could have changed them, else they are made anew.
    entries = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    resumed = {entry["id"]: entry["resumed_units"] for entry in entries if entry["file"] not in clips}
    is_same = not differences_here(origin)
    assert resumed.pop(units.name) == (num_units if is_same else 0)
    assert set(resumed.values()) <= {0}
    log = (folder / "logs" / "process-0.log").read_text()
    assert (f"resumed after unit {num_units - 1}" in log) == is_same
    assert ("it was made on another machine, device or with other versions" in log) != is_same
    assert not units.exists()

    second = run_batch(written / f"{name}.jsonl", folder, **options)
    assert (second.status, second.made, second.found) == (0, 0, made + there)
    assert second.digests == summary.digests
    for file, digest in summary.digests.items():
        assert read_manifest(folder / file)["digests"]["frames"] == digest
        assert verify(folder / file, noise_only=True).difference is None
    if summary.digests != expected:
        skip_if_other_kernels(origin)
    assert summary.digests == expected


# ---- clips


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_is_shown(name, capsys):
    path = WRITTEN / "clips" / name
    manifest = read_manifest(path)
    assert (manifest["schema_version"], "root" in manifest["digests"]) == (1, False)
    assert main(["show", str(path)]) == 0
    text = capsys.readouterr().out
    for fact in (manifest["prompt"], manifest["seed"], manifest["digests"]["frames"], "pyramid-seed 0.1.0"):
        assert fact in text
    assert ("seed 7 from frame 5" in text) == (name == "branched.mp4")
    assert ("given, SHA-256" in text) == (name == "from_image.mp4")


@pytest.mark.parametrize("name", CLIPS)
def test_the_noise_of_a_clip_is_the_same_everywhere(name, capsys):
    assert main(["verify", "--noise-only", str(WRITTEN / "clips" / name)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "MATCH, as far as the noise goes"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name != "circle.mp4" else ()) for name in CLIPS],
)
def test_a_clip_is_made_again(name, capsys):
    path = WRITTEN / "clips" / name
    status = main(["verify", "--quiet", "--device", "cpu", *image_options(name), str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["weights", "equal:"]
    if status != 0:
        assert any(line.startswith("DIFFERS first in ") for line in lines)
        assert any(line.startswith("environment ") for line in lines)
        skip_if_other_kernels(read_manifest(path)["environment"])
    assert (status, lines[-1]) == (0, "MATCH")


# To be extended they are made again.
WITHOUT_LATENTS = ("branched.mp4", "pictures.png")


@pytest.mark.parametrize(
    "name", ["from_image.mp4", *(pytest.param(name, marks=pytest.mark.slow) for name in WITHOUT_LATENTS)]
)
def test_a_clip_is_extended(written, name):
    path, longer = written / "clips" / name, written / "longer.mp4"
    manifest = read_manifest(path)
    num_frames = manifest["settings"]["num_frames"] + 4
    if name != "from_image.mp4":  # no latents: its beginning is made again, and refused if it is another one
        skip_if_other_kernels(manifest["environment"])
    command = ["extend", str(path), "--num-frames", str(num_frames), "-o", str(longer), "--lossless"]
    assert main([*command, "--quiet", "--device", "cpu", *image_options(name)]) == 0
    extended = read_manifest(longer)
    frames, _ = read_video(longer)
    assert len(frames) == extended["settings"]["num_frames"] == num_frames
    for field in ("seed", "branches", "image_sha256", "prompt", "weights"):
        assert extended[field] == manifest[field]
    assert verify(longer, noise_only=True).difference is None
    assert begins_with(extended["ledger"], manifest["ledger"])
    for field in ("units", "stages"):
        assert begins_with(extended["digests"][field], manifest["digests"][field])
    if not begins_with(extended["digests"]["chunks"], manifest["digests"]["chunks"]):
        skip_if_other_kernels(manifest["environment"])
    assert begins_with(extended["digests"]["chunks"], manifest["digests"]["chunks"])
    if name == "pictures.png":  # circle.mp4 is the same clip, made in one go
        whole = read_manifest(written / "clips" / "circle.mp4")
        assert without_root(extended) == without_root(whole)


def without_root(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Digests as schema version 1 had them."""
    return {name: value for name, value in manifest["digests"].items() if name != "root"}


def begins_with(longer: list[Any], shorter: list[Any]) -> bool:
    return longer[: len(shorter)] == shorter


@pytest.mark.slow
def test_a_clip_goes_on_in_another_way(written):
    """As branched.mp4 was made from circle.mp4."""
    clips = written / "clips"
    command = ["extend", str(clips / "circle.mp4"), "--num-frames", "13", "--branch-seed", "7"]
    branched = written / "branched.mp4"
    assert main([*command, "--from-frame", "5", "-o", str(branched), "--quiet", "--device", "cpu"]) == 0
    expected, made = read_manifest(clips / "branched.mp4"), read_manifest(branched)
    assert made["ledger"] == expected["ledger"]
    if without_root(made) != without_root(expected):
        skip_if_other_kernels(expected["environment"])
    assert without_root(made) == without_root(expected)
