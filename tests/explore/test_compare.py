"""Two clips frame by frame, against differences that are known."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from pyramid_seed.explore.compare import compare_frames

from .clips import changed_in, random_frames


@pytest.fixture
def frames() -> np.ndarray:
    return random_frames()


def test_equal_clips_are_equal(frames):
    comparison = compare_frames(frames, frames.copy())
    assert comparison.is_equal
    assert comparison.first is None
    assert {astuple(frame)[1:] for frame in comparison.frames} == {(0, 0, np.inf, 1)}


def test_one_changed_value_is_found_where_it_is(frames):
    comparison = compare_frames(frames, changed_in(frames, 3, by=17))
    assert not comparison.is_equal
    assert comparison.first == comparison.farthest == comparison.frames[3]
    assert [frame.largest for frame in comparison.frames] == [0, 0, 0, 17, 0, 0]
    values = frames[0].size
    assert comparison.frames[3].mean == pytest.approx(17 / values, rel=1e-12)
    assert comparison.frames[3].psnr == pytest.approx(10 * np.log10(255**2 / (17**2 / values)), rel=1e-12)


def test_a_constant_offset_in_closed_form():
    """Without variances SSIM is (2 x y + C) / (x^2 + y^2 + C) with C = (0.01 * 255)^2."""
    x, y = 100, 120
    comparison = compare_frames(*(np.full((2, 16, 16, 3), level, np.uint8) for level in (x, y)))
    constant = (0.01 * 255) ** 2
    for frame in comparison.frames:
        assert (frame.largest, frame.mean) == (20, 20)
        assert frame.psnr == pytest.approx(20 * np.log10(255 / 20), rel=1e-12)
        assert frame.ssim == pytest.approx((2 * x * y + constant) / (x**2 + y**2 + constant), rel=1e-6)


def test_the_order_of_two_clips_changes_nothing(frames):
    other = 255 - frames
    assert compare_frames(frames, other).frames == compare_frames(other, frames).frames


def test_the_common_beginning_is_compared(frames):
    comparison = compare_frames(frames, frames[:4])
    assert (len(comparison.frames), comparison.lengths, comparison.first) == (4, (6, 4), None)
    assert not comparison.is_equal


def test_sizes_that_do_not_fit_are_named(frames):
    with pytest.raises(ValueError, match="frames must be of one size, A has 32x48, B has 48x32"):
        compare_frames(frames, np.zeros((6, 48, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="SSIM needs images of at least 11x11, got 8x48"):
        compare_frames(frames[:, :8], frames[:, :8])
