"""`pyramid-seed compare`: what it writes and what it prints."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid_seed.cli import main
from pyramid_seed.explore import compare_report
from pyramid_seed.explore.stored import read_clip
from pyramid_seed.media.video import read_video, write_image, write_video
from pyramid_seed.provenance.manifest import manifest_json
from tests.disks import small_disk_at
from tests.explore.clips import changed_in, golden_record, random_frames, write_golden


@pytest.fixture
def frames() -> np.ndarray:
    return random_frames()


@pytest.fixture
def golden(tmp_path):
    """Writes a golden clip with its manifest."""

    def write(name: str, file: str, *, lossless: bool = False) -> Path:
        return write_golden(tmp_path / file, name, lossless=lossless)

    return write


def test_finds_the_changed_frame(frames, tmp_path, capsys):
    a, b, folder = tmp_path / "a.mp4", tmp_path / "b $x$.mp4", tmp_path / "report"
    write_video(a, frames, 8, lossless=True)
    write_video(b, changed_in(frames, 3, by=20), 8, lossless=True)
    assert main(["compare", str(a), str(b), "-o", str(folder)]) == 1
    output = capsys.readouterr().out
    assert "largest     20 of 255 levels, in frame 3\n" in output
    assert "PIXELS DIFFER in 1 of 6 frames, first in frame 3\n" in output
    assert "the difference 12 times as strong" in output
    assert output.count("none to compare") == 2

    assert {file.name for file in folder.iterdir()} == set(compare_report.FILES)
    numbers = json.loads((folder / compare_report.NUMBERS).read_text(encoding="utf-8"))
    assert (numbers["is_equal"], numbers["first_differing_frame"], numbers["gain"]) == (False, 3, 12)
    assert [row["largest"] for row in numbers["frames"]] == [0, 0, 0, 20, 0, 0]
    assert [row["psnr"] is None for row in numbers["frames"]] == [True, True, True, False, True, True]

    difference, fps = read_video(folder / compare_report.DIFFERENCE)
    assert (difference.shape, fps) == ((6, 160, 240, 3), 8)  # five times as large
    assert difference[2].max() < 8  # as far as the codec allows
    assert difference[3, 5 * 5 + 2, 7 * 5 + 2].argmax() == 1
    both, _ = read_video(folder / compare_report.SIDE_BY_SIDE)
    assert both.shape == (6, 24 + 160, 3 * 240 + 2 * 4, 3)
    with Image.open(folder / compare_report.CURVE) as curve:
        assert curve.size == (1050, 975)
        assert len(curve.convert("RGB").getcolors(curve.width * curve.height)) > 20


def test_has_the_gain_that_is_asked_for(frames, tmp_path, capsys):
    a, b, folder = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "report"
    write_video(a, frames, 8, lossless=True)
    write_video(b, changed_in(frames, 3, by=20), 8, lossless=True)
    for gain in ("0", "256", "-1", "2.5", "two"):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", str(a), str(b), "-o", str(folder), f"--gain={gain}"])
        assert stopped.value.code == 2
        assert f"gain must be a whole number in 1 .. 255, got {gain!r}" in capsys.readouterr().err
    assert not folder.exists()
    assert main(["compare", str(a), str(b), "-o", str(folder), "--gain", "3"]) == 1
    assert "the difference 3 times as strong" in capsys.readouterr().out
    numbers = json.loads((folder / compare_report.NUMBERS).read_text(encoding="utf-8"))
    assert numbers["gain"] == 3
    difference, _ = read_video(folder / compare_report.DIFFERENCE)
    levels = difference[3].max(axis=(0, 1))
    assert levels[1] == pytest.approx(3 * 20, abs=15)  # of one pixel, whose colour the codec spreads


def test_names_the_unit_and_the_manifests_difference(golden, tmp_path, capsys):
    a, b = golden("default", "a.mp4"), golden("unguided", "b.mp4")
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "report")]) == 1
    output = capsys.readouterr().out
    assert "only the first 5 frames: A has 17, B has 5" in output
    assert "first       frame 0 (unit 0)" in output
    assert output.count("is a lossy file") == 2
    assert "settings    seed: '42' | '0'" in output
    assert "DIFFERENT: the runs diverge in text" in output
    numbers = json.loads((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert [row["unit"] for row in numbers["frames"]] == [0, 1, 1, 1, 1]
    assert not numbers["manifests"]["is_same_clip"]


@pytest.mark.slow
def test_a_branch_is_distinguished_from_what_the_codec_lost(golden, tmp_path, capsys):
    a, b = golden("default", "a.mp4"), tmp_path / "b.mp4"
    clip, manifest = read_clip(a), json.loads(manifest_json(golden_record("default").manifest))
    clip.frames[9:] = 255 - clip.frames[9:]
    manifest["digests"]["chunks"][3:] = ["other", "other"]  # frames 9 to 12 and 13 to 16
    write_video(b, clip.frames, 8, comment=manifest_json(manifest))
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "report")]) == 1
    output = capsys.readouterr().out
    assert "first in frame 0 (unit 0)\nBy the manifests, frames before unit 3 are equal" in output
    numbers = json.loads((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert (numbers["first_differing_frame"], numbers["first_unit_made_otherwise"]) == (0, 3)


def test_of_equal_and_of_differently_stored_clips(golden, tmp_path, capsys):
    a, exact = golden("short", "a.mp4"), golden("short", "exact.mp4", lossless=True)
    folder = str(tmp_path / "report")
    assert main(["compare", str(a), str(a), "-o", folder]) == 0
    output = capsys.readouterr().out
    assert "PIXELS EQUAL in all 9 frames\n" in output
    assert output.endswith("SAME CLIP\n")
    assert main(["compare", str(a), str(exact), "-o", folder, "--overwrite"]) == 1
    output = capsys.readouterr().out
    assert "shows the frames of its manifest, bit for bit" in output
    assert output.endswith("The frames were equal when they were made: the files show them differently.\n")


def test_refuses_and_leaves_nothing(frames, tmp_path, capsys, monkeypatch):
    a, small, gone = tmp_path / "a.mp4", tmp_path / "small.mp4", tmp_path / "gone.mp4"
    write_video(a, frames, 8)
    write_video(small, frames[:, :16, :16], 8)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    report = tmp_path / "report"

    def refused(*arguments) -> str:
        assert main(["compare", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "A has 32x48, B has 16x16" in refused(a, small, "-o", report)
    assert "gone.mp4 does not exist" in refused(a, gone, "-o", report)
    assert "already exists" in refused(a, a, "-o", tmp_path / "mine")
    assert "is not a folder of a comparison" in refused(a, a, "-o", tmp_path / "mine", "--overwrite")
    (tmp_path / "a.json").write_text("{}")
    assert "use `pyramid-seed diff`" in refused(a, tmp_path / "a.json", "-o", report)
    (tmp_path / "text.mp4").write_text("not a video")
    assert "text.mp4 is not a video, or a damaged one" in refused(a, tmp_path / "text.mp4", "-o", report)
    (tmp_path / "empty").mkdir()
    assert "empty holds no .png images" in refused(a, tmp_path / "empty", "-o", report)
    for name, side in (("0000.png", 32), ("0001.png", 16)):
        write_image(tmp_path / "two sizes" / name, frames[0, :side, :side])
    assert "two sizes: 0000.png is 32x32, 0001.png is 16x16" in refused(
        a, tmp_path / "two sizes", "-o", report
    )
    monkeypatch.setattr("pyramid_seed.extras.find_spec", lambda module: None)
    assert 'pip install "pyramid-seed[report]"' in refused(a, a, "-o", report)
    assert not report.exists()
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.fixture
def small_disk(tmp_path):
    with small_disk_at(tmp_path / "disk", "100k") as folder:
        yield folder


@pytest.mark.slow
def test_a_full_disk_is_said_and_nothing_left(frames, tmp_path, small_disk, capsys):
    """An error, and no Bus error as of a memory map without space."""
    write_video(tmp_path / "a.mp4", frames, 8, lossless=True)
    write_video(tmp_path / "b.mp4", changed_in(frames, 3, by=20), 8, lossless=True)
    report = small_disk / "report"
    assert main(["compare", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), "-o", str(report)]) == 2
    assert f"No space left, nothing was written: '{report}'" in capsys.readouterr().err
    assert list(small_disk.iterdir()) == []
    for ending in (".gif", ".webp", ".png"):
        with pytest.raises(OSError, match="No space left"):
            write_video(small_disk / f"a{ending}", np.concatenate([frames] * 20), 8)
        gc.collect()
        assert capsys.readouterr().err == ""
    assert list(small_disk.iterdir()) == []
