"""Frames as arrays."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pyramid_seed.media.frames import check_frames, enlarge, frames_digest
from tests.media.clips import noise_clip


def test_digest_is_sha256_of_the_bytes_in_thwc_order():
    frames = noise_clip()
    assert frames_digest(frames) == hashlib.sha256(frames.tobytes()).hexdigest()
    assert frames_digest(frames[:, :, ::-1]) == hashlib.sha256(frames[:, :, ::-1].tobytes()).hexdigest()


def test_what_is_no_clip_is_refused():
    cases = [
        (noise_clip().astype(np.float32), "frames must be a numpy array of uint8, got float32"),
        ([[0]], "frames must be a numpy array of uint8, got list"),
        (noise_clip()[0], r"frames must have shape \(T, H, W, 3\) .*got \(32, 32, 3\)"),
        (noise_clip()[..., :1], r"shape \(T, H, W, 3\)"),
        (noise_clip()[:0], "none of it 0"),
    ]
    for frames, message in cases:
        with pytest.raises(ValueError, match=message):
            frames_digest(frames)
    with pytest.raises(ValueError, match=r"image must have shape \(H, W, 3\)"):
        check_frames(noise_clip(), name="image", shape="(H, W, 3)")
    check_frames(noise_clip()[0], shape="(H, W, 3)")


def test_a_pixel_becomes_a_square():
    image = noise_clip(1)[0]
    assert np.array_equal(enlarge(image, 3), np.kron(image, np.ones((3, 3, 1), np.uint8)))


def test_smooth_pixels_are_interpolated():
    """What is straight stays straight, and the middles of the squares keep their values."""
    ramp = np.broadcast_to(np.arange(0, 240, 30, dtype=np.uint8)[None, :, None], (8, 8, 3)).copy()
    shown = enlarge(ramp, 3, smooth=True)
    assert shown.shape == (24, 24, 3)
    assert np.array_equal(shown[:, 7:-7, 0], np.broadcast_to(np.arange(60, 160, 10)[None], (24, 10)))
    assert np.array_equal(enlarge(ramp, 1, smooth=True), ramp)
    grey = np.full((4, 4, 3), 77, np.uint8)
    assert np.array_equal(enlarge(grey, 6, smooth=True), np.full((24, 24, 3), 77))
