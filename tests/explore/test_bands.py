"""The bands of measures: their false-alarm rate is the stated one, and even drift is no alarm."""

from __future__ import annotations

import numpy as np
import pytest

from pyramid_seed.explore.bands import (
    FALSE_ALARMS,
    MIN_EARLIER,
    WINDOW,
    Band,
    bands,
    departures,
    prediction_band,
)
from pyramid_seed.explore.measures import MEASURES

NAMES = [measure.name for measure in MEASURES]
TRIALS = 20_000


def leaves(x: np.ndarray, chance: float) -> np.ndarray:
    low, high = prediction_band(x[:-1], chance)
    return (x[-1] < low) | (x[-1] > high)


@pytest.mark.parametrize("num_earlier", [MIN_EARLIER, WINDOW])
def test_false_alarms_are_as_many_as_stated(num_earlier):
    """Within 4 standard deviations of theory: for independent measures, and for a single one."""
    m = len(NAMES)
    x = np.random.default_rng(0).normal(5, 3, size=(num_earlier + 1, TRIALS, m))
    independent = leaves(x, FALSE_ALARMS / m).any(axis=1).mean()
    single = leaves(x[..., :1], FALSE_ALARMS / m).mean()
    for rate, theory in ((independent, 1 - (1 - FALSE_ALARMS / m) ** m), (single, FALSE_ALARMS / m)):
        assert rate == pytest.approx(theory, abs=4 * np.sqrt(theory / TRIALS))


@pytest.mark.parametrize("num_earlier", [MIN_EARLIER, WINDOW])
def test_a_walk_raises_a_few_more(num_earlier):
    """If a measure keeps all of its earlier steps, as a page of ours says: at most one in 25."""
    x = np.random.default_rng(0).normal(size=(num_earlier + 1, TRIALS, len(NAMES))).cumsum(axis=0)
    assert FALSE_ALARMS < leaves(x, FALSE_ALARMS / len(NAMES)).any(axis=1).mean() < 0.04


@pytest.mark.parametrize("num_earlier", [MIN_EARLIER, 11, WINDOW])
def test_even_drift_is_sqrt_3_off_whatever_its_slope(num_earlier):
    """So it never leaves a band: Student's t goes that far in more than one of 25 trials."""
    x = 7 - 0.3 * np.arange(num_earlier + 1.0)
    mean, deviation = x[:-1].mean(), x[:-1].std(ddof=1)
    off = (x[-1] - mean) / (deviation * np.sqrt(1 + 1 / num_earlier))
    assert off == pytest.approx(-np.sqrt(3))
    assert not leaves(x, FALSE_ALARMS)


def test_equal_values_are_their_own_limits():
    low, high = prediction_band(np.full(6, 0.1), FALSE_ALARMS)
    assert low == high == 0.1


def values(**given: float | None) -> dict[str, float | None]:
    return {name: given.get(name, 0.0) for name in NAMES}


def test_the_latest_of_enough_checkpoints_decide():
    rng = np.random.default_rng(1)
    earlier = [values(motion=float(x), ti=None) for x in rng.normal(size=30)]
    assert bands(earlier[: MIN_EARLIER - 1]) == {}
    found = bands(earlier)
    assert set(found) == {name for name in NAMES if name != "ti"}
    latest = np.array([each["motion"] for each in earlier[-WINDOW:]])
    assert found["motion"] == Band(*prediction_band(latest, FALSE_ALARMS / len(found)))


def test_departures_are_outside_and_undefined_measures_are_not_judged():
    expected = {"motion": Band(1, 2), "si": Band(1, 2), "ti": Band(1, 2), "flicker": Band(1, 2)}
    assert departures(values(motion=2.0, si=2.1, ti=0.9, flicker=None), expected) == {"si": 2.1, "ti": 0.9}
