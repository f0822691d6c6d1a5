"""Samples of units: the chances against enumeration, the choice against the uniform one."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from math import comb

import pytest

from pyramid_seed.provenance import sample
from pyramid_seed.provenance.sample import UnitSample, sample_units


@pytest.mark.parametrize(("num_units", "size"), [(1, 1), (5, 2), (7, 3), (7, 7)])
def test_chances_are_shares_of_all_samples(num_units, size):
    everything = list(combinations(range(num_units), size))
    for num_forged in range(num_units + 1):
        holding = sum(min(units) < num_forged for units in everything)  # the first units are forged
        chance = UnitSample(everything[0], num_units).chance(num_forged)
        assert chance == pytest.approx(holding / len(everything), abs=1e-15)


def test_one_forged_unit_is_seen_with_the_share_of_units_looked_at():
    assert UnitSample((0, 4, 9), 16).chance() == pytest.approx(3 / 16)


def test_every_sample_is_equally_likely(monkeypatch):
    monkeypatch.setattr(sample, "_random", random.Random(0))
    drawn = Counter(sample_units(5, 2).units for _ in range(2000))
    assert len(drawn) == comb(5, 2)
    # Chi-square with 9 degrees of freedom: above 27.9 once in 1,000 seeds, and this seed is fixed.
    assert sum((count - 200) ** 2 / 200 for count in drawn.values()) < 27.9


def test_the_choice_is_the_operating_systems():
    """Global seeds do not tell which units will be looked at."""
    assert isinstance(sample._random, random.SystemRandom)


def test_it_is_told():
    assert str(UnitSample((1, 3), 5)) == (
        "2 units of 5: 1, 3; chance of catching forged units: 40.0% for 1, 70.0% for 2, 90.0% for 3"
    )
    assert str(UnitSample((0,), 1)) == ("1 unit of 1: 0; chance of catching forged units: 100.0% for 1")
