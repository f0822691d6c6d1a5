"""Clips that stand out, and why."""

from __future__ import annotations

import numpy as np
import pytest

from pyramid_seed.explore.outliers import LIMIT, modified_z_scores, outlier_reasons


def measured(**values):
    return {"motion": 1.0, "black_frames": 0.0, "frozen_frames": 0.0, **values}


def test_scores_by_hand():
    # Median 3, distances 2 1 0 1 97, their median 1.
    assert modified_z_scores([1, 2, 3, 4, 100]) == pytest.approx(
        np.array([-2, -1, 0, 1, 97]) / 1.4826, rel=1e-5
    )


def test_scores_where_most_are_equal():
    # The mean distance is 16 / 16.
    scores = modified_z_scores([5.0] * 15 + [21.0])
    assert scores[:15].tolist() == [0] * 15
    assert scores[15] == pytest.approx(16 / np.sqrt(np.pi / 2))


def test_equal_values_have_no_scores():
    assert modified_z_scores([0.1] * 7).tolist() == [0] * 7


def test_scores_are_standard_deviations_of_a_normal_distribution():
    x = np.random.default_rng(0).normal(5, 3, 100_001)
    assert modified_z_scores(x) == pytest.approx((x - 5) / 3, abs=0.06)


def test_the_reason_names_measure_value_side_and_distance():
    clips = [measured(motion=value) for value in (1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 100.0, -90.0)]
    reasons = outlier_reasons(clips, [9] * 8)
    assert reasons[:6] == [[]] * 6
    (high,), (low,) = reasons[6:]
    assert high.startswith("motion 100 is high: +")
    assert low.startswith("motion -90 is low: -")


def test_black_and_frozen_clips_stand_out_even_alone():
    assert outlier_reasons([measured(black_frames=3.0, frozen_frames=1.0)], [9]) == [
        ["3 of 9 frames are black", "1 of 9 frames are frozen"]
    ]
    all_black = [measured(black_frames=9.0)] * 8
    assert outlier_reasons(all_black, [9] * 8) == [["9 of 9 frames are black"]] * 8


def test_with_few_seeds_no_outliers_are_reported():
    clips = [measured(motion=value) for value in (1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 100.0)]
    assert outlier_reasons(clips, [9] * 7) == [[]] * 7


def test_undefined_values_are_left_out():
    clips = [measured(motion=value) for value in (1.0, 1.1, 0.9, 1.0, None, 50.0, 1.2, 0.8, 1.1)]
    marked = [index for index, reasons in enumerate(outlier_reasons(clips, [9] * 9)) if reasons]
    assert marked == [5]


def test_the_limit_is_that_of_iglewicz_and_hoaglin():
    assert LIMIT == 3.5
