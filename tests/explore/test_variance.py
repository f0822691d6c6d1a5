"""Shares of variance in tables whose shares are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyramid_seed.explore.variance import VarianceShares, chance_shares, variance_shares


def shares(table):
    parts = variance_shares(table)
    return (parts.prompt, parts.seed, parts.interaction)


def test_prompts_alone():
    assert shares([[1, 1, 1], [4, 4, 4]]) == pytest.approx((1, 0, 0))


def test_seeds_alone():
    assert shares([[1, 2, 5], [1, 2, 5]]) == pytest.approx((0, 1, 0))


def test_interaction_alone():
    assert shares([[1, -1], [-1, 1]]) == pytest.approx((0, 0, 1))


def test_a_sum_of_effects_has_no_interaction():
    prompts, seeds = np.array([0, 3, 9]), np.array([-1, 0, 2, 5])
    # Prompts vary with 14, seeds with 5.25, each as often.
    assert shares(prompts[:, None] + seeds) == pytest.approx((14 / 19.25, 5.25 / 19.25, 0))


def test_by_hand():
    # Rows' means 2 and 6, columns' 3 and 5, all 4: 2 * 8 = 16, 2 * 2 = 4, and 4 * 1 = 4 of interaction.
    assert shares([[0, 4], [6, 6]]) == pytest.approx((16 / 24, 4 / 24, 4 / 24))


def test_no_variance_has_no_shares():
    assert variance_shares([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]) is None


@given(arrays(float, st.tuples(st.integers(2, 5), st.integers(2, 5)), elements=st.floats(-1e6, 1e6)))
def test_shares_sum_to_one_and_know_no_scale_and_no_order(table):
    if variance_shares(table) is None:
        assert np.ptp(table) == 0
        return
    assert sum(shares(table)) == pytest.approx(1)
    assert min(shares(table)) >= 0
    assert shares(table * -4) == pytest.approx(shares(table), abs=1e-6)
    assert shares(table[::-1, ::-1]) == pytest.approx(shares(table), abs=1e-6)
    turned = variance_shares(table.T)
    assert (turned.seed, turned.prompt) == pytest.approx(shares(table)[:2], abs=1e-6)


def test_meaningless_numbers_share_as_chance_has_it():
    random = np.random.default_rng(0)
    mean = np.mean([shares(random.normal(size=(4, 16))) for _ in range(2000)], axis=0)
    expected = chance_shares(4, 16)
    assert expected == VarianceShares(3 / 63, 15 / 63, 45 / 63)
    assert mean == pytest.approx([expected.prompt, expected.seed, expected.interaction], abs=0.005)


def test_other_tables_are_refused():
    for table in ([[1, 2]], [[1], [2]], [1, 2], [[1, np.nan], [2, 3]]):
        with pytest.raises(ValueError, match="2 prompts x 2 seeds"):
            variance_shares(table)
