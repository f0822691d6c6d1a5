"""What a saved clip is measured by."""

from __future__ import annotations

import numpy as np

from pyramid_seed.explore.measured import SAMPLE_SIDE, sample, sample_times, shrink


def test_shrink_undoes_enlargement():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    assert np.array_equal(shrink(frames.repeat(5, axis=1).repeat(5, axis=2), 5), frames)
    assert shrink(frames, 1) is frames
    assert shrink(np.array([[[[10] * 3, [20] * 3], [[30] * 3, [41] * 3]]], np.uint8), 2).tolist() == [
        [[[25] * 3]]
    ]


def test_samples():
    assert sample_times(17) == [0, 2, 5, 7, 9, 11, 14, 16]
    assert sample_times(3) == [0, 1, 2]
    assert sample_times(1) == [0]
    large = np.full((17, 2 * SAMPLE_SIDE, SAMPLE_SIDE, 3), 9, np.uint8)
    assert sample(large).shape == (8, SAMPLE_SIDE, SAMPLE_SIDE // 2, 3)
    assert np.array_equal(sample(large[:, :20, :20]), large[:8, :20, :20])
