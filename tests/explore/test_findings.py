"""What is found in clips whose measures are known."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed.explore.findings import compare, compared_pairs, find, pairwise_similarity, spread
from pyramid_seed.explore.measured import SAMPLE_SIDE, MeasuredClip, sample, sample_times, shrink
from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.prompts import Prompt

BOAT, SEA = Prompt("a boat"), Prompt("the sea")


def clip(prompt, seed, level=100, **values):
    zero = {measure.name: 0.0 for measure in MEASURES}
    frames = np.full((2, 16, 16, 3), level, np.uint8)
    return MeasuredClip(prompt, seed, Path("a.mp4"), True, "0" * 64, 9, zero | values, frames)


def test_spread():
    found = spread([1, 2, None, 3, 6])
    assert (found.mean, found.std, found.lowest, found.highest) == (3, np.std([1, 2, 3, 6], ddof=1), 1, 6)
    assert found.iqr == 3.75 - 1.75
    assert spread([1, None]) is None


def test_similarity_of_flat_pictures():
    # Of two flat pictures, SSIM is what is left of its luminance term.
    a, b = (np.full((2, 16, 16, 3), level, np.uint8) for level in (100, 150))
    c = (0.01 * 255) ** 2
    between = (2 * 100 * 150 + c) / (100**2 + 150**2 + c)
    assert pairwise_similarity([a, b]) == pytest.approx(between)
    assert pairwise_similarity([a, a, b]) == pytest.approx((1 + 2 * between) / 3)
    assert pairwise_similarity([a, a]) == 1
    assert pairwise_similarity([a]) is None


@pytest.mark.parametrize("count", [0, 1, 2, 32])
def test_few_clips_are_all_compared(count):
    assert compared_pairs(count) == list(combinations(range(count), 2))


@pytest.mark.parametrize("count", [33, 100, 101, 600])
def test_many_clips_are_each_compared_as_often(count):
    pairs = compared_pairs(count)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert len(pairs) <= max(500, count)
    assert set(Counter(place for pair in pairs for place in pair).values()) == {2 * len(pairs) // count}


def test_findings():
    effects = {(BOAT, 1): 1.0, (BOAT, 2): 3.0, (SEA, 1): 5.0, (SEA, 2): 7.0}
    found = find([clip(*key, motion=value, sharpness_drift=None) for key, value in effects.items()])
    assert [each.prompt for each in found.prompts] == [BOAT, SEA]
    assert [each.similarity for each in found.prompts] == [1, 1]
    shares = found.shares["motion"]
    assert (shares.prompt, shares.seed, shares.interplay) == pytest.approx((16 / 20, 4 / 20, 0))
    assert found.shares["si"] is None  # constant
    assert found.shares["sharpness_drift"] is None  # not defined
    assert found.prompts[1].spreads["motion"].mean == 6
    assert found.prompts[0].spreads["sharpness_drift"] is None


def test_shares_take_the_seeds_that_all_prompts_have():
    clips = [
        clip(BOAT, 1, motion=1),
        clip(BOAT, 2, motion=2),
        clip(BOAT, 3, motion=9),
        clip(SEA, 2, motion=3),
    ]
    found = find(clips)
    assert found.common_seeds == (2,)
    assert found.shares["motion"] is None
    found = find([*clips, clip(SEA, 1, motion=2)])
    assert found.common_seeds == (1, 2)
    assert found.shares["motion"].interplay == pytest.approx(0)


def test_one_clip_has_no_spread_and_no_shares():
    found = find([clip(BOAT, 1)])
    assert found.prompts[0].similarity is None
    assert set(found.prompts[0].spreads.values()) == {None}
    assert set(found.shares.values()) == {None}


def test_another_sweep_is_compared_where_both_have_clips():
    here = [clip(BOAT, seed, motion=2.0 * seed, sharpness_drift=None) for seed in (1, 2, 3)]
    there = {(each.prompt, each.seed): {**each.values, "motion": 1.0 * each.seed} for each in here[1:]}
    found = compare(here, there | {(SEA, 1): here[0].values})
    assert (found["motion"].mean_a, found["motion"].mean_b, found["motion"].difference) == (2.5, 5, 2.5)
    assert found["si"].difference == 0
    assert found["sharpness_drift"] is None


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
