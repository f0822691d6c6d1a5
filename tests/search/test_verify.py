"""What a search's verification answers where bits differ: robust, undecided, or a real difference."""

from __future__ import annotations

import math

import pytest

from pyramid_seed.environment import Difference
from pyramid_seed.provenance.diff import Step
from pyramid_seed.provenance.verify import Verification
from pyramid_seed.search.tree import Decision, Node
from pyramid_seed.search.verify import SearchVerification, decision_check

NODES = tuple(Node((index,), 1, index) for index in range(4))
OTHER_KERNELS = (Difference("cpu.name", "a", "b"),)
EQUAL = Verification((Step("unit", "equal", ""),), ())


def differs(stage):
    return Verification((Step(stage, "differs", ""),), ())


@pytest.mark.parametrize(
    ("margin", "changes", "verdict"),
    [
        (1.0, {}, "proven"),
        (0.0, {}, "proven"),
        (1.0, {"0": 0.0}, "robust"),
        (1.0, {"0": 0.1, "2": 0.49}, "robust"),
        (1.0, {"0": 0.5}, "undecided"),  # one may lose half, another gain half: a tie
        (0.0, {"0": 0.0}, "undecided"),
        (1.0, {"3": math.inf}, "undecided"),
        (None, {"0": 99.0}, "robust"),  # nobody was dropped by score
        (1.0, {"7": 99.0}, "proven"),  # of another round
    ],
)
def test_a_round_holds_if_no_change_can_cross_its_margin(margin, changes, verdict):
    check = decision_check(Decision(NODES, NODES[:2], margin), changes)
    assert (check.verdict, check.margin) == (verdict, margin)


@pytest.mark.parametrize(
    ("clip", "differing", "rounds", "kernels", "verdict"),
    [
        (EQUAL, (), "proven", (), "proven"),
        (EQUAL, (), "proven", OTHER_KERNELS, "proven"),
        (EQUAL, ("candidate 1",), "robust", (), "differs"),  # the same kernels: somebody changed it
        (EQUAL, ("candidate 1",), "robust", OTHER_KERNELS, "robust"),
        (differs("unit"), ("candidate 1",), "undecided", OTHER_KERNELS, "undecided"),
        (differs("unit"), (), "proven", (), "differs"),
        (differs("noise"), (), "proven", OTHER_KERNELS, "differs"),
        (differs("weights"), (), "proven", OTHER_KERNELS, "differs"),
        (differs("file"), (), "proven", OTHER_KERNELS, "differs"),
        (None, (), "proven", OTHER_KERNELS, "differs"),
    ],
)
def test_the_answer_is_the_weakest(clip, differing, rounds, kernels, verdict):
    checks = [decision_check(Decision(NODES, NODES[:1], 1.0), {}) for _ in range(2)]
    if rounds != "proven":
        change = {"robust": 0.1, "undecided": 5.0}[rounds]
        checks[1] = decision_check(Decision(NODES, NODES[:1], 1.0), {"1": change})
    found = SearchVerification((), clip, differing, tuple(checks), kernels)
    assert found.verdict == verdict
    assert found.same == (verdict in ("proven", "robust"))
