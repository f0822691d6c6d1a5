"""Numbers of seeds, and differences at equal seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pyramid_seed.explore.sample_size import paired_difference, seeds_for_share, seeds_needed


def test_by_hand():
    # (1.95996 + 0.84162)^2 = 7.8489; a difference of half a deviation.
    assert seeds_needed(1, 0.5, is_paired=False) == math.ceil(2 * 7.8489 * 4 + 1.95996**2 / 4) == 64
    assert seeds_needed(1, 0.5, is_paired=True) == math.ceil(7.8489 * 4 + 1.95996**2 / 2) == 34


def test_a_deviation_of_nothing_still_needs_a_few():
    assert seeds_needed(0, 1, is_paired=False) == 1
    assert seeds_needed(0, 1, is_paired=True) == 2


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize("difference", [0.4, 0.8, 1.5])
def test_so_many_seeds_see_the_difference_four_times_in_five(is_paired, difference):
    number = seeds_needed(1, difference, is_paired=is_paired)
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (2, 20_000, number))
    if is_paired:
        p = stats.ttest_1samp(a + difference, 0, axis=1).pvalue
    else:
        p = stats.ttest_ind(a + difference, b, axis=1).pvalue
    assert 0.78 < (p < 0.05).mean() < 0.87


@pytest.mark.parametrize(("std", "difference"), [(-1, 1), (1, 0)])
def test_what_has_no_number(std, difference):
    with pytest.raises(ValueError, match="std must be at least 0"):
        seeds_needed(std, difference, is_paired=True)


def test_a_share_of_the_mean():
    found = paired_difference([[8, 12, 10, 10]], [[9, 12, 10, 9]])
    assert seeds_for_share(found, 0.2) == (
        seeds_needed(found.std, 2, is_paired=False),
        seeds_needed(found.std_paired, 2, is_paired=True),
    )
    assert seeds_for_share(paired_difference([[-1, 1]], [[1, 2]])) is None


def test_one_prompt_is_the_paired_test_of_student():
    a, b = np.random.default_rng(0).normal(0, 1, (2, 12))
    found = paired_difference([a], [b])
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.std_paired == pytest.approx(np.std(b - a, ddof=1))
    assert found.std == pytest.approx(np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2))
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_what_prompts_and_seeds_bring_cancels_in_pairs():
    random = np.random.default_rng(0)
    a = 100 * random.normal(size=(3, 1)) + random.normal(size=(3, 8))
    found = paired_difference(a, a + 0.25)
    assert found.difference == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25)
    assert found.std_paired == pytest.approx(0, abs=1e-12)
    assert found.correlation == pytest.approx(1)
    assert found.std < 2  # prompts are left out


def test_what_does_not_vary_has_no_correlation():
    found = paired_difference([[1, 1, 1]], [[1, 2, 3]])
    assert found.correlation is None
    assert found.difference == 1


@pytest.mark.parametrize(("a", "b"), [([[1, 2]], [[1, 2, 3]]), ([[1]], [[2]]), ([1, 2], [3, 4])])
def test_tables_that_do_not_fit(a, b):
    with pytest.raises(ValueError, match="two tables of one size"):
        paired_difference(a, b)
