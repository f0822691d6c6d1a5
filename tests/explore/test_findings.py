"""The findings of clips whose measures are known."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed.explore.findings import (
    Spread,
    compared_pairs,
    findings_of,
    paired_differences,
    pairwise_similarity,
    spread,
)
from pyramid_seed.explore.measured import MeasuredClip
from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.prompts import Prompt

BOAT, SEA = Prompt("a boat"), Prompt("the sea")


def clip(prompt, seed, level=100, **values):
    zero = {measure.name: 0.0 for measure in MEASURES}
    frames = np.full((2, 16, 16, 3), level, np.uint8)
    return MeasuredClip(prompt, seed, Path("a.mp4"), True, "0" * 64, 9, zero | values, frames)


def test_spread():
    assert spread([1, 2, None, 3, 6]) == Spread(
        mean=3, std=np.std([1, 2, 3, 6], ddof=1), iqr=3.75 - 1.75, lowest=1, highest=6
    )
    assert spread([1, None]) is None


def test_similarity_of_flat_images():
    # Of two flat images, SSIM is what is left of its luminance term.
    a, b = (np.full((2, 16, 16, 3), level, np.uint8) for level in (100, 150))
    c = (0.01 * 255) ** 2
    between = (2 * 100 * 150 + c) / (100**2 + 150**2 + c)
    assert pairwise_similarity([a, b]) == pytest.approx(between)
    assert pairwise_similarity([a, a, b]) == pytest.approx((1 + 2 * between) / 3)
    assert pairwise_similarity([a, a]) == 1
    assert pairwise_similarity([a]) is None


def test_few_clips_are_all_compared():
    offenders = [count for count in range(33) if compared_pairs(count) != list(combinations(range(count), 2))]
    assert offenders == []


def test_many_clips_are_each_compared_as_often():
    for count in (33, 100, 101, 600):
        pairs = compared_pairs(count)
        assert len({frozenset(pair) for pair in pairs}) == len(pairs), count
        assert len(pairs) <= max(500, count), count
        times = Counter(place for pair in pairs for place in pair).values()
        assert set(times) == {2 * len(pairs) // count}, count


def test_findings():
    effects = {(BOAT, 1): 1.0, (BOAT, 2): 3.0, (SEA, 1): 5.0, (SEA, 2): 7.0}
    findings = findings_of([clip(*key, motion=value, sharpness_drift=None) for key, value in effects.items()])
    assert [prompt.prompt for prompt in findings.prompts] == [BOAT, SEA]
    assert [prompt.similarity for prompt in findings.prompts] == [1, 1]
    shares = findings.shares["motion"]
    assert (shares.prompt, shares.seed, shares.interaction) == pytest.approx((16 / 20, 4 / 20, 0))
    assert findings.shares["si"] is None  # constant
    assert findings.shares["sharpness_drift"] is None  # not defined
    assert findings.prompts[1].spreads["motion"].mean == 6
    assert findings.prompts[0].spreads["sharpness_drift"] is None


def test_shares_take_the_seeds_that_all_prompts_have():
    clips = [
        clip(BOAT, 1, motion=1),
        clip(BOAT, 2, motion=2),
        clip(BOAT, 3, motion=9),
        clip(SEA, 2, motion=3),
    ]
    findings = findings_of(clips)
    assert findings.common_seeds == (2,)
    assert findings.shares["motion"] is None
    findings = findings_of([*clips, clip(SEA, 1, motion=2)])
    assert findings.common_seeds == (1, 2)
    assert findings.shares["motion"].interaction == pytest.approx(0)


def test_one_clip_has_no_spread_and_no_shares():
    findings = findings_of([clip(BOAT, 1)])
    assert findings.prompts[0].similarity is None
    assert set(findings.prompts[0].spreads.values()) == {None}
    assert set(findings.shares.values()) == {None}


def test_another_sweep_is_compared_where_both_have_clips():
    here = [clip(BOAT, seed, motion=2.0 * seed, sharpness_drift=None) for seed in (1, 2, 3)]
    there = {(clip.prompt, clip.seed): {**clip.values, "motion": 1.0 * clip.seed} for clip in here[1:]}
    differences = paired_differences(here, there | {(SEA, 1): here[0].values})
    assert (differences["motion"].mean_a, differences["motion"].mean_b, differences["motion"].difference) == (
        2.5,
        5,
        2.5,
    )
    assert differences["si"].difference == 0
    assert differences["sharpness_drift"] is None
