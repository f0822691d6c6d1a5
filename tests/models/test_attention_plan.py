"""Which times share a call: few calls, few pairs in vain, the same for the same lengths."""

from __future__ import annotations

from itertools import accumulate, pairwise, product

import torch

from pyramid_seed.models import attention_plan as plans
from pyramid_seed.models.attention_plan import attention_plan, marked_groups, time_groups
from tests.cases import check_cases

NO_PADDING, PADDING = torch.tensor([0, 0]), torch.tensor([12, 0])
LIKE = torch.empty(0)


def stops_of(unit, sizes):
    """Ends of the times of a unit: text and the first frame, coarse frames, two newer ones, the last."""
    coarse, middle, fine = sizes
    frames = ([coarse] * max(unit - 2, 0) + [middle, fine])[-unit:] if unit else []
    return [*accumulate([24 + (frames or [fine])[0], *frames[1:], *([fine] if unit else [])])]


def pairs_of(cuts, history):
    """Pairs of queries and keys that a history cut there computes."""
    edges = [0, *cuts, history[-1]]
    return sum((stop - start) * stop for start, stop in pairwise(edges))


def test_small_times_have_two_groups_at_most_and_others_none():
    def rule(unit):
        stops = stops_of(unit, (60, 240, 960))
        groups = time_groups(stops, is_padded=True)
        assert [stop for group in groups for stop in group.stops] == stops
        assert len(groups) <= 2 + 2  # and those of 960 and the current tokens
        assert groups[-1].stops == (stops[-1],)
        large = stops_of(unit, (385, 960, 3840))
        assert [group.stops for group in time_groups(large, is_padded=True)] == [(stop,) for stop in large]

    check_cases(range(31), rule)


def test_times_beyond_the_shared_tokens_are_alone():
    stops = [*accumulate([264, *[240] * 30])]
    groups = time_groups(stops, is_padded=False)
    shared = [stop for group in groups[:2] for stop in group.stops]
    assert shared == [stop for stop in stops if stop <= plans.SHARED_TOKENS]
    assert [group.stops for group in groups[2:]] == [(stop,) for stop in stops[len(shared) :]]


def test_no_other_cut_computes_fewer_pairs(monkeypatch):
    def rule(unit, size, cost):
        monkeypatch.setattr(plans, "CALL_COST", cost)
        *history, _ = stops = [24 + size * (time + 1) for time in range(unit + 1)]
        cuts = [group.stops[-1] for group in time_groups(stops, is_padded=False)][:-2]
        ways = [(), *((stop,) for stop in history[:-1])]
        cheapest = min(pairs_of(way, history) + cost * len(way) for way in ways)
        assert pairs_of(cuts, history) + cost * len(cuts) == cheapest

    check_cases(product((1, 2, 3, 7, 16), (4, 60), (0, 500, 16384)), rule)


def test_what_is_large_needs_no_mask_and_small_samples_share_one():
    def rule(sizes, padding, masked):
        groups = time_groups(stops_of(1, sizes), is_padded=bool(padding.any()))
        assert [group.is_masked for group in groups] == masked

    large, small = (60, 240, 960), (1, 4, 16)
    cases = [(large, PADDING, [False, False]), (large, NO_PADDING, [False, False])]
    check_cases([*cases, (small, PADDING, [True, True]), (small, NO_PADDING, [False, False])], rule)


def test_every_query_is_asked_once_for_every_sample():
    def rule(unit, padding, grouped):
        stops = stops_of(unit, (60, 240, 960))
        plan = attention_plan(stops, padding, 960, LIKE, grouped=grouped)
        times_asked = torch.zeros(2, stops[-1], dtype=torch.int64)
        for call in plan.calls:
            times_asked[call.samples, max(call.start, call.front) : call.stop] += 1
            assert call.mask is None or call.mask.shape[2:] == (call.stop - call.start, call.stop)
        is_real = torch.arange(stops[-1]) >= padding[:, None]
        assert times_asked[is_real].eq(1).all()

    check_cases(
        [(u, p, g) for u in (0, 1, 2, 30) for p in (PADDING, NO_PADDING) for g in (True, False)], rule
    )


def test_the_marks_hold_the_groups():
    def rule(unit, padding):
        stops = stops_of(unit, (1, 4, 16))
        plan = attention_plan(stops, padding, 16, LIKE, grouped=True)
        assert marked_groups(plan.marks) == time_groups(stops, is_padded=bool(padding.any()))

    check_cases(product((0, 1, 5, 30), (PADDING, NO_PADDING)), rule)
