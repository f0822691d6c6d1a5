"""Measures of clips for which the answer is known in closed form."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from pyramid_seed.explore.measures import (
    BLACK_LUMA,
    FROZEN_LUMA,
    MEASURES,
    colour_drift,
    flicker,
    is_black,
    is_frozen,
    luma,
    mean_lab,
    measure_clip,
    motion,
    sharpness,
    sharpness_drift,
    spatial_information,
    temporal_information,
)
from pyramid_seed.geometry import PyramidGeometry

SIDE = 64


def units_of(temporal_factor):
    """The geometry of a model whose units have so many frames."""
    return PyramidGeometry(spatial_factor=8, temporal_factor=temporal_factor, patch_size=2, num_stages=3)


def grey(*levels):
    """A clip of flat grey frames."""
    return np.stack([np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels])


def bar(speed, width=8, num_frames=5, low=50, high=150):
    """A bright upright bar that moves to the right by `speed` pixels a frame."""
    clip = np.full((num_frames, SIDE, SIDE, 3), low, np.uint8)
    for time, frame in enumerate(clip):
        frame[:, 10 + speed * time : 10 + speed * time + width] = high
    return clip


def noise(num_frames, low, high, seed=0):
    """White noise, uniform over the whole numbers low .. high - 1, and its variance."""
    levels = np.random.default_rng(seed).integers(low, high, (num_frames, 256, 256, 1), dtype=np.uint8)
    return levels.repeat(3, axis=3), ((high - low) ** 2 - 1) / 12


def texture(num_frames, speed):
    """A smooth texture that goes round and round."""
    rough = np.random.default_rng(1).uniform(0, 255, (128, 128)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 2, borderType=cv2.BORDER_REFLECT)
    smooth = np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))
    return np.stack([np.roll(smooth, speed * time, axis=1) for time in range(num_frames)])[..., None].repeat(
        3, 3
    )


def test_a_constant_clip_has_nothing():
    assert measure_clip(grey(*[100] * 5), units_of(2)) == {
        "sharpness": 0,
        "si": 0,
        "ti": 0,
        "flicker": 0,
        "motion": 0,
        "colour_drift": 0,
        "sharpness_drift": None,
        "black_frames": 0,
        "frozen_frames": 4,
    }


def test_what_is_measured_is_what_is_listed():
    assert list(measure_clip(grey(1, 2), units_of(1))) == [measure.name for measure in MEASURES]


def test_what_needs_two_frames_is_not_defined_for_one():
    measured = measure_clip(grey(100), units_of(8))
    undefined = {name for name, value in measured.items() if value is None}
    assert undefined == {"ti", "flicker", "motion", "colour_drift", "sharpness_drift"}
    assert measured["frozen_frames"] == 0


def test_luma():
    primaries = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [7, 7, 7]], np.uint8)
    expected = [0.2126 * 255, 0.7152 * 255, 0.0722 * 255, 255, 7]
    assert luma(primaries[None, None])[0, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("low", "high"), [(0, 256), (100, 110)])
def test_sharpness_of_white_noise(low, high):
    # Each value enters with 1, 1, 1, 1 and -4: the variance is 4 + 16 times as large.
    clip, variance = noise(4, low, high)
    assert sharpness(luma(clip)) == pytest.approx(20 * variance, rel=0.02)


def test_sharpness_of_a_bar():
    # Of the 62 columns inside the border, two have +100 and two have -100.
    assert sharpness(luma(bar(0))) == pytest.approx(100**2 * 4 / 62)


def test_blur_lowers_sharpness():
    clip, _ = noise(1, 0, 256)
    blurred = cv2.GaussianBlur(clip[0], (0, 0), 1.5)[None]
    assert sharpness(luma(blurred)) < sharpness(luma(clip)) / 50


def test_spatial_information_of_an_edge():
    # Two columns of 62 have a Sobel magnitude of 4 * 100, the others none.
    clip = grey(50)
    clip[:, :, 30:] = 150
    share = 2 / 62
    assert spatial_information(luma(clip)) == pytest.approx(400 * math.sqrt(share * (1 - share)))


def test_spatial_information_of_a_ramp_is_nothing():
    clip = grey(0) + np.arange(0, 128, 2, dtype=np.uint8)[None, None, :, None]
    assert spatial_information(luma(clip)) == pytest.approx(0, abs=1e-3)


def test_spatial_information_is_that_of_the_richest_frame():
    clip = grey(50, 50, 50)
    clip[1] = bar(0)[0]
    assert spatial_information(luma(clip)) == spatial_information(luma(clip[1:2])) > 0


@pytest.mark.parametrize("speed", [1, 3, 8])
def test_a_moving_bar_has_temporal_information_and_no_flicker(speed):
    # A frame's difference is +100 in `speed` columns, -100 in as many.
    y = luma(bar(speed))
    assert temporal_information(y) == pytest.approx(100 * math.sqrt(2 * speed / SIDE))
    assert flicker(y) == 0


def test_temporal_information_is_that_of_the_greatest_change():
    clip = bar(0, num_frames=6)
    clip[4] = np.roll(clip[4], 2, axis=1)
    assert temporal_information(luma(clip)) == pytest.approx(100 * math.sqrt(2 * 2 / SIDE))


def test_a_growing_bar_is_no_flicker():
    clip = np.concatenate([bar(0, width=width, num_frames=1) for width in (4, 8, 12, 16)])
    assert flicker(luma(clip)) == 0


def test_flicker_is_the_change_of_the_whole_image():
    y = luma(grey(100, 120, 100, 120, 100))
    assert flicker(y) == pytest.approx(20)
    assert temporal_information(y) == pytest.approx(0, abs=1e-4)


def test_flicker_of_a_moving_bar_in_flickering_light():
    clip = bar(2)
    clip[1::2] += 10
    assert flicker(luma(clip)) == pytest.approx(10)


def test_noise_that_is_new_every_frame():
    # The difference of two independent values has twice the variance, and no median.
    clip, variance = noise(4, 0, 256)
    y = luma(clip)
    assert temporal_information(y) == pytest.approx(math.sqrt(2 * variance), rel=0.02)
    assert flicker(y) < 2


@pytest.mark.parametrize("speed", [0, 1, 2, 4])
def test_motion_of_a_texture_is_its_speed(speed):
    assert motion(luma(texture(4, speed))) == pytest.approx(speed, rel=0.03, abs=0.01)


def test_colour_drift_of_greys():
    # CIEDE2000 of two greys is the difference of lightness over S_L = 1 + 0.015 d^2 / sqrt(20 + d^2), with d
    # the distance of the mean lightness from 50; lightness is CIE's, of the sRGB curve.
    def lightness(level):
        linear = ((level / 255 + 0.055) / 1.055) ** 2.4
        return 116 * linear ** (1 / 3) - 16

    first, last = lightness(100), lightness(140)
    middle = ((first + last) / 2 - 50) ** 2
    expected = (last - first) / (1 + 0.015 * middle / math.sqrt(20 + middle))
    units = [grey(100), grey(120, 120), grey(140, 140), grey(110, 110)]
    assert colour_drift(units) == pytest.approx(expected, abs=0.001)


def test_colour_drift_is_of_means():
    assert colour_drift([bar(0), np.roll(bar(3), 5, axis=2)]) == pytest.approx(0, abs=1e-4)


def test_lab_of_red():
    # CIE L*a*b* of sRGB's red under D65.
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert mean_lab(red) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)


def test_sharpness_drift_is_a_logarithm():
    # Half the contrast has a quarter of the variance.
    strong, weak, middle = luma(bar(0)), luma(bar(0, high=100)), luma(bar(0, high=125))
    assert sharpness_drift([strong, weak, middle]) == pytest.approx(-2)
    assert sharpness_drift([weak, strong]) == pytest.approx(2)
    assert sharpness_drift([strong, luma(grey(1))]) is None


def test_black_frames():
    clip = grey(0, 25, 26, 200, 0)
    clip[4, :8, :8] = 255  # 1.6 % of the pixels
    assert BLACK_LUMA == 25.5
    assert is_black(luma(clip)).tolist() == [True, True, False, False, True]


def test_frozen_frames():
    clip = grey(100, 100, 100, 101, 101)
    clip[1, :16] = 101  # a quarter of the pixels by 1: just below 0.255
    assert FROZEN_LUMA == 0.255
    assert is_frozen(luma(clip)).tolist() == [True, True, False, True]
    assert not is_frozen(luma(bar(1))).any()


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((4, 64, 64, 3)), "uint8"),
        (np.zeros((64, 64, 3), np.uint8), "T, H, W, 3"),
        (np.zeros((0, 64, 64, 3), np.uint8), "T, H, W, 3"),
        (np.zeros((4, 64, 15, 3), np.uint8), "at least 16x16, got 64x15"),
    ],
)
def test_what_is_no_clip_is_refused(frames, words):
    with pytest.raises(ValueError, match=words):
        measure_clip(frames, units_of(8))
