"""Numbers of seeds, and differences at equal seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from pyramid_seed.explore.sample_size import (
    POWER,
    paired_difference,
    seeds_for_share,
    seeds_needed,
    t_test_power,
)


def test_numbers_of_the_literature():
    """Cohen's small, medium and large effects, for a two-sided test with 5 % significance and 80 % power."""
    unpaired, paired = {0.2: 394, 0.5: 64, 0.8: 26}, {0.2: 199, 0.5: 34, 0.8: 15}
    assert {effect: seeds_needed(1, effect, is_paired=False) for effect in unpaired} == unpaired
    assert {effect: seeds_needed(1, effect, is_paired=True) for effect in paired} == paired


def test_many_seeds_are_those_of_the_normal_distribution():
    # (1.95996 + 0.84162)^2 = 7.84888
    assert seeds_needed(100, 1, is_paired=False) == pytest.approx(2 * 7.84888 * 100**2, rel=1e-4)
    assert seeds_needed(100, -1, is_paired=True) == pytest.approx(7.84888 * 100**2, rel=1e-4)


@pytest.mark.parametrize("is_paired", [False, True])
def test_two_seeds_are_the_least(is_paired):
    """A t-test needs a deviation, however small it is."""
    stds = (0, 1e-300, 1e-9, 1e-3, 0.02)
    assert [seeds_needed(std, 1, is_paired=is_paired) for std in stds] == [2] * len(stds)


@pytest.mark.parametrize("is_paired", [False, True])
def test_one_seed_fewer_would_not_do(is_paired):
    for effect in (0.03, 0.3, 1, 2, 3, 5, 8, 11, 20, 40, 50):
        number = seeds_needed(1, effect, is_paired=is_paired)
        assert t_test_power(number, effect, is_paired) >= POWER, effect
        assert number == 2 or t_test_power(number - 1, effect, is_paired) < POWER, effect


@pytest.mark.parametrize("is_paired", [False, True])
def test_the_power_is_that_of_a_normal_difference_over_a_chi_deviation(is_paired):
    """Integrated over the deviation: |z + shift| > t s / sqrt(df), z being normal and s chi-distributed."""
    for number, effect in ((2, 8), (2, 0.5), (3, 2), (5, 20), (17, 1), (64, 0.5)):
        freedom, shift = (
            (number - 1, effect * np.sqrt(number))
            if is_paired
            else (2 * number - 2, effect * np.sqrt(number / 2))
        )
        limit = stats.t.ppf(0.975, freedom) / np.sqrt(freedom)
        s = np.linspace(0, np.sqrt(freedom) + 10, 200_001)
        seen = stats.norm.sf(limit * s - shift) + stats.norm.cdf(-limit * s - shift)
        expected = integrate.trapezoid(stats.chi.pdf(s, freedom) * seen, s)
        assert t_test_power(number, effect, is_paired) == pytest.approx(expected, abs=1e-6), (number, effect)


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
    assert 0.79 < (p < 0.05).mean() < 0.87


def test_what_has_no_number():
    for std, difference in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="std must be at least 0"):
            seeds_needed(std, difference, is_paired=True)


def test_a_share_of_the_mean():
    paired = paired_difference([[8, 12, 10, 10]], [[9, 12, 10, 9]])
    assert seeds_for_share(paired, 0.2) == (
        seeds_needed(paired.std, 2, is_paired=False),
        seeds_needed(paired.std_paired, 2, is_paired=True),
    )
    assert seeds_for_share(paired_difference([[-1, 1]], [[1, 2]])) is None


def test_one_prompt_is_the_paired_test_of_student():
    a, b = np.random.default_rng(0).normal(0, 1, (2, 12))
    paired = paired_difference([a], [b])
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))
    assert paired.std_paired == pytest.approx(np.std(b - a, ddof=1))
    assert paired.std == pytest.approx(np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2))
    assert paired.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_what_prompts_and_seeds_bring_cancels_in_pairs():
    random = np.random.default_rng(0)
    a = 100 * random.normal(size=(3, 1)) + random.normal(size=(3, 8))
    paired = paired_difference(a, a + 0.25)
    assert paired.difference == pytest.approx(0.25)
    assert paired.low == pytest.approx(0.25)
    assert paired.std_paired == pytest.approx(0, abs=1e-12)
    assert paired.correlation == pytest.approx(1)
    assert paired.std < 2  # prompts are left out


def test_what_does_not_vary_has_no_correlation():
    paired = paired_difference([[1, 1, 1]], [[1, 2, 3]])
    assert paired.correlation is None
    assert paired.difference == 1


def test_tables_that_do_not_fit():
    for a, b in (([[1, 2]], [[1, 2, 3]]), ([[1]], [[2]]), ([1, 2], [3, 4])):
        with pytest.raises(ValueError, match="two tables of one size"):
            paired_difference(a, b)
