"""Two clips frame by frame, against differences that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid_seed.cli import main
from pyramid_seed.explore import compare_report as comparison_report
from pyramid_seed.explore.compare import compare_frames
from pyramid_seed.explore.compare_images import amplified, gain_for, panel_scale
from pyramid_seed.explore.stored import read_clip, shows_its_frames
from pyramid_seed.media.video import read_video, write_image, write_video
from pyramid_seed.provenance.manifest import manifest_json
from scripts.renew_golden import read_frames, read_manifests

GOLDEN = {
    name: manifest | {"timings": {"load_seconds": 0, "seconds": 0}}
    for name, manifest in read_manifests().items()
}


@pytest.fixture
def frames() -> np.ndarray:
    """Six frames in which every value may go up by 20 levels."""
    return np.random.default_rng(0).integers(0, 236, (6, 32, 48, 3)).astype(np.uint8)


@pytest.fixture
def golden(tmp_path):
    """Writes a golden clip with its manifest."""

    def write(name: str, file: str, *, lossless: bool = False, scale: int = 1) -> Path:
        clip = np.ascontiguousarray(read_frames(name))
        shown = {"ending": ".mp4", "scale": scale, "lossless": lossless}
        comment = manifest_json(GOLDEN[name] | {"file": shown})
        write_video(tmp_path / file, clip, 8, comment=comment, lossless=lossless, scale=scale)
        return tmp_path / file

    return write


def changed_in(frames: np.ndarray, frame: int, by: int) -> np.ndarray:
    other = frames.copy()
    other[frame, 5, 7, 1] += by
    return other


def test_equal_clips_are_equal(frames):
    found = compare_frames(frames, frames.copy())
    assert found.is_equal
    assert found.first is None
    assert {(each.largest, each.mean, each.psnr, each.ssim) for each in found.frames} == {(0, 0, np.inf, 1)}


def test_one_changed_value_is_found_where_it_is(frames):
    found = compare_frames(frames, changed_in(frames, 3, by=17))
    assert not found.is_equal
    assert found.first == found.farthest == found.frames[3]
    assert [each.largest for each in found.frames] == [0, 0, 0, 17, 0, 0]
    values = frames[0].size
    assert found.frames[3].mean == pytest.approx(17 / values, rel=1e-12)
    assert found.frames[3].psnr == pytest.approx(10 * np.log10(255**2 / (17**2 / values)), rel=1e-12)


def test_a_constant_offset_in_closed_form():
    """Without variances SSIM is (2 x y + C) / (x^2 + y^2 + C) with C = (0.01 * 255)^2."""
    x, y = 100, 120
    found = compare_frames(*(np.full((2, 16, 16, 3), level, np.uint8) for level in (x, y)))
    constant = (0.01 * 255) ** 2
    for each in found.frames:
        assert (each.largest, each.mean) == (20, 20)
        assert each.psnr == pytest.approx(20 * np.log10(255 / 20), rel=1e-12)
        assert each.ssim == pytest.approx((2 * x * y + constant) / (x**2 + y**2 + constant), rel=1e-6)


def test_the_order_of_two_clips_changes_nothing(frames):
    other = 255 - frames
    assert compare_frames(frames, other).frames == compare_frames(other, frames).frames


def test_the_common_beginning_is_compared(frames):
    found = compare_frames(frames, frames[:4])
    assert (len(found.frames), found.lengths, found.first) == (4, (6, 4), None)
    assert not found.is_equal


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((6, 48, 32, 3), np.uint8), "frames must be of one size, A has 32x48, B has 48x32"),
        (None, r"SSIM needs pictures of at least 11x11, got 8x48"),
    ],
)
def test_sizes_that_do_not_fit_are_named(frames, other, message):
    a, b = (frames, other) if other is not None else (frames[:, :8], frames[:, :8])
    with pytest.raises(ValueError, match=message):
        compare_frames(a, b)


def test_the_difference_is_amplified_without_clipping_by_default():
    assert [gain_for(largest) for largest in (0, 1, 20, 127, 128, 255)] == [255, 255, 12, 2, 1, 1]
    a, b = np.full((1, 2, 3), 10, np.uint8), np.full((1, 2, 3), 30, np.uint8)
    assert set(amplified(a, b, 12).flat) == {240}
    assert set(amplified(b, a, 13).flat) == {255}


@pytest.mark.parametrize(("size", "scale"), [((64, 64), 4), ((33, 65), 6), ((384, 640), 1), ((301, 401), 2)])
def test_panels_are_large_enough_and_even(size, scale):
    assert panel_scale(*size) == scale


@pytest.mark.parametrize("file", ["a.gif", "a.webp", "a.png", "a-folder"])
def test_what_other_formats_show(file, frames, tmp_path):
    """Equal frames in a row are one picture in .gif and .webp; the manifest's rate tells them apart."""
    # Few colours, so that a .gif holds them all.
    clip = (np.arange(9, dtype=np.uint8) // 3)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    write_video(tmp_path / file, clip * 40, 8, lossless=file.endswith(".webp"))
    sidecar = manifest_json(GOLDEN["short"])
    (tmp_path / file).with_suffix(".json").write_text(sidecar, encoding="utf-8")
    found = read_clip(tmp_path / file)
    assert np.array_equal(found.frames, clip * 40)
    assert found.fps == 8


def test_without_a_manifest_every_picture_counts_once(tmp_path):
    clip = np.zeros((4, 16, 16, 3), np.uint8)
    clip[2:] = 9
    write_video(tmp_path / "a.webp", clip, 8, lossless=True)
    assert len(read_clip(tmp_path / "a.webp").frames) == 2


def test_whether_a_file_shows_the_frames_of_its_manifest(golden):
    assert shows_its_frames(read_clip(golden("short", "exact.mp4", lossless=True, scale=2)))
    assert not shows_its_frames(read_clip(golden("short", "lossy.mp4")))


def test_command_compare_finds_the_changed_frame(frames, tmp_path, capsys):
    a, b, folder = tmp_path / "a.mp4", tmp_path / "b $x$.mp4", tmp_path / "report"
    write_video(a, frames, 8, lossless=True)
    write_video(b, changed_in(frames, 3, by=20), 8, lossless=True)
    assert main(["compare", str(a), str(b), "-o", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "largest     20 of 255 levels, in frame 3\n" in shown
    assert "PIXELS DIFFER in 1 of 6 frames, first in frame 3\n" in shown
    assert "the difference 12 times as strong" in shown
    assert shown.count("none to compare") == 2

    assert {each.name for each in folder.iterdir()} == set(comparison_report.FILES)
    numbers = json.loads((folder / comparison_report.NUMBERS).read_text(encoding="utf-8"))
    assert (numbers["is_equal"], numbers["first_differing_frame"], numbers["gain"]) == (False, 3, 12)
    assert [row["largest"] for row in numbers["frames"]] == [0, 0, 0, 20, 0, 0]
    assert [row["psnr"] is None for row in numbers["frames"]] == [True, True, True, False, True, True]

    difference, fps = read_video(folder / comparison_report.DIFFERENCE)
    assert (difference.shape, fps) == ((6, 160, 240, 3), 8)  # five times as large
    assert difference[2].max() < 8  # as far as the codec allows
    assert difference[3, 5 * 5 + 2, 7 * 5 + 2].argmax() == 1
    both, _ = read_video(folder / comparison_report.SIDE_BY_SIDE)
    assert both.shape == (6, 24 + 160, 3 * 240 + 2 * 4, 3)
    with Image.open(folder / comparison_report.CURVE) as curve:
        assert curve.size == (900, 750)
        assert len(set(curve.convert("RGB").get_flattened_data())) > 20


def test_command_compare_has_the_gain_that_is_asked_for(frames, tmp_path, capsys):
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
    numbers = json.loads((folder / comparison_report.NUMBERS).read_text(encoding="utf-8"))
    assert numbers["gain"] == 3
    difference, _ = read_video(folder / comparison_report.DIFFERENCE)
    levels = difference[3].max(axis=(0, 1))
    assert levels[1] == pytest.approx(3 * 20, abs=15)  # of one pixel, whose colour the codec spreads


def test_command_compare_names_the_unit_and_the_manifests_difference(golden, tmp_path, capsys):
    a, b = golden("default", "a.mp4"), golden("unguided", "b.mp4")
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "report")]) == 1
    shown = capsys.readouterr().out
    assert "only the first 5 frames: A has 17, B has 5" in shown
    assert "first       frame 0 (unit 0)" in shown
    assert shown.count("is a lossy file") == 2
    assert "settings    seed: '42' | '0'" in shown
    assert "DIFFERENT: the runs part in text" in shown
    numbers = json.loads((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert [row["unit"] for row in numbers["frames"]] == [0, 1, 1, 1, 1]
    assert not numbers["manifests"]["is_same_clip"]


def test_a_branch_is_told_from_what_the_codec_lost(golden, tmp_path, capsys):
    a, b = golden("default", "a.mp4"), tmp_path / "b.mp4"
    clip, manifest = read_clip(a), json.loads(manifest_json(GOLDEN["default"]))
    clip.frames[9:] = 255 - clip.frames[9:]
    manifest["digests"]["chunks"][3:] = ["other", "other"]  # frames 9 to 12 and 13 to 16
    write_video(b, clip.frames, 8, comment=manifest_json(manifest))
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "report")]) == 1
    shown = capsys.readouterr().out
    assert "first in frame 0 (unit 0)\nBy the manifests, frames before unit 3 are equal" in shown
    numbers = json.loads((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert (numbers["first_differing_frame"], numbers["first_unit_made_otherwise"]) == (0, 3)


def test_command_compare_of_equal_and_of_differently_stored_clips(golden, tmp_path, capsys):
    a, exact = golden("short", "a.mp4"), golden("short", "exact.mp4", lossless=True)
    folder = str(tmp_path / "report")
    assert main(["compare", str(a), str(a), "-o", folder]) == 0
    shown = capsys.readouterr().out
    assert "PIXELS EQUAL in all 9 frames\n" in shown
    assert shown.endswith("SAME CLIP\n")
    assert main(["compare", str(a), str(exact), "-o", folder, "--overwrite"]) == 1
    shown = capsys.readouterr().out
    assert "shows the frames of its manifest, bit for bit" in shown
    assert shown.endswith("The frames were equal when they were made: the files show them differently.\n")


def test_command_compare_refuses_and_leaves_nothing(frames, tmp_path, capsys, monkeypatch):
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
    assert "exists already" in refused(a, a, "-o", tmp_path / "mine")
    assert "is not a folder of a comparison" in refused(a, a, "-o", tmp_path / "mine", "--overwrite")
    (tmp_path / "a.json").write_text("{}")
    assert "use `pyramid-seed diff`" in refused(a, tmp_path / "a.json", "-o", report)
    (tmp_path / "text.mp4").write_text("no film")
    assert "text.mp4 is not a video, or a damaged one" in refused(a, tmp_path / "text.mp4", "-o", report)
    (tmp_path / "empty").mkdir()
    assert "empty holds no .png pictures" in refused(a, tmp_path / "empty", "-o", report)
    for name, side in (("0000.png", 32), ("0001.png", 16)):
        write_image(tmp_path / "two sizes" / name, frames[0, :side, :side])
    assert "two sizes: 0000.png is 32x32, 0001.png is 16x16" in refused(
        a, tmp_path / "two sizes", "-o", report
    )
    monkeypatch.setattr("pyramid_seed.explore.extras.find_spec", lambda module: None)
    assert 'pip install "pyramid-seed[report]"' in refused(a, a, "-o", report)
    assert not report.exists()
    assert (tmp_path / "mine" / "thesis.txt").exists()
