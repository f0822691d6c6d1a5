"""Videos and curves of a comparison."""

from __future__ import annotations

import numpy as np

from pyramid_seed.explore.compare import compare_clips
from pyramid_seed.explore.compare_images import panel_scale, write_curve
from pyramid_seed.explore.stored import read_clip
from pyramid_seed.media.frames import amplified, gain_for
from pyramid_seed.media.video import write_video

from .clips import changed_in, random_frames, write_golden


def test_the_difference_is_amplified_without_clipping_by_default():
    assert [gain_for(largest) for largest in (0, 1, 20, 127, 128, 255)] == [255, 255, 12, 2, 1, 1]
    a, b = np.full((1, 2, 3), 10, np.uint8), np.full((1, 2, 3), 30, np.uint8)
    assert set(amplified(a, b, 12).flat) == {240}
    assert set(amplified(b, a, 13).flat) == {255}


def test_panels_are_large_enough_and_even():
    sizes = {(64, 64): 4, (33, 65): 6, (384, 640): 1, (301, 401): 2}
    assert {size: panel_scale(*size) for size in sizes} == sizes


def curve_text(tmp_path, a, b) -> str:
    """A curve as .svg, in which matplotlib writes the text of labels as comments."""
    write_curve(tmp_path / "curve.svg", compare_clips(read_clip(a), read_clip(b)))
    return (tmp_path / "curve.svg").read_text(encoding="utf-8")


def test_a_curve_marks_units_where_manifests_name_them(tmp_path):
    a, b = (write_golden(tmp_path / f"{name}.mp4", name) for name in ("default", "unguided"))
    text = curve_text(tmp_path, a, b)
    assert "a unit begins" in text
    assert "first difference: frame 0" in text
    assert "made otherwise: from unit 0 on" in text


def test_a_curve_without_manifests_marks_no_unit(tmp_path):
    write_video(tmp_path / "a.mp4", random_frames(), 8, lossless=True)
    write_video(tmp_path / "b.mp4", changed_in(random_frames(), 3, by=20), 8, lossless=True)
    text = curve_text(tmp_path, tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert "first difference: frame 3" in text
    assert "unit" not in text.replace("userSpaceOnUnit", "")
