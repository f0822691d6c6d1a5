"""The video that a clip goes on from: where it is read from, and in which size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pyramid_seed.media.frames import enlarge, frames_digest
from pyramid_seed.media.given_video import GivenVideo, opened_video
from pyramid_seed.media.video import write_video
from tests.cases import check_cases

FRAMES = np.random.default_rng(1).integers(0, 256, (5, 16, 32, 3), np.uint8)


def test_it_is_read_from_files_arrays_and_images(tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES, 8, lossless=True)
    write_video(tmp_path / "a.png", FRAMES, 8)
    images = [Image.fromarray(frame) for frame in FRAMES]
    for given in (tmp_path / "a.mp4", str(tmp_path / "a.png"), FRAMES, images, GivenVideo(FRAMES)):
        video = opened_video(given)
        assert video.digest == frames_digest(FRAMES)
        assert (video.num_frames, video.shape) == (5, (16, 32))


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "a.mp4", ValueError, "is not a video, or a damaged one"),
        (tmp_path / "b.mp4", FileNotFoundError, "does not exist"),
        (tmp_path / "empty", ValueError, r"holds no \.png images"),
        (FRAMES / 255, ValueError, "must be a numpy array of uint8, got float64"),
        (FRAMES[0], ValueError, r"must have shape \(T, H, W, 3\)"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], ValueError, "must have one size, got"),
        ([], TypeError, "video must be a file's path, .* got list"),
        (5, TypeError, "got int"),
    ]

    def rule(given, error, message):
        with pytest.raises(error, match=message):
            opened_video(given)

    check_cases(cases, rule)


def test_it_is_fitted_frame_by_frame_or_not_at_all():
    video = GivenVideo(FRAMES)
    assert video.in_size(16, 32, "crop") is video
    assert np.array_equal(video.in_size(16, 16, None).frames, FRAMES)
    cropped = video.in_size(16, 16, "crop")
    assert np.array_equal(cropped.frames, FRAMES[:, :, 8:24])
    large = np.stack([enlarge(frame, 2) for frame in FRAMES])
    assert np.array_equal(GivenVideo(large).in_size(16, 32, None).frames, FRAMES)
    # One frame of one colour among others looks enlarged.
    mixed = GivenVideo(np.concatenate([np.zeros_like(FRAMES[:1]), FRAMES]))
    assert mixed.in_size(8, 16, None) is mixed
