"""The tree of a search: seeds by formula, the rule of who is kept, the cost by counting."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed.noise import Branch
from pyramid_seed.search.tree import Node, Tree, child_root, decisions, path_text, ranked

# BLAKE2b over "pyramid-seed/search/v1/<root>/<path>", computed with b2sum.
VECTORS = {
    (0, (0,)): "f0e054333f0e4386",
    (42, (3,)): "92d86ef2d576d7a7",
    (42, (3, 0)): "5f9954d0bafc2b46",
    (2**64 - 1, (7, 11, 2)): "e8fb17f3462d44ed",
}


def test_seeds_are_those_of_the_formula():
    for (root, path), beginning in VECTORS.items():
        assert child_root(root, path).to_bytes(8, "little").hex() == beginning
        text = f"pyramid-seed/search/v1/{root}/{'/'.join(map(str, path))}"
        assert hashlib.blake2b(text.encode()).hexdigest().startswith(beginning)


def test_trees_of_neighbouring_roots_share_no_seed():
    paths = [(a,) for a in range(10)] + [(a, b) for a in range(10) for b in range(10)]
    seeds = {child_root(root, path) for root in range(20) for path in paths}
    assert len(seeds) == 20 * len(paths)


def scores_by_seed(nodes):
    """Any fixed numbers: the last digits of each candidate's own seed, with many ties."""
    return {node.path: float(([node.seed, *(b.seed for b in node.branches)][-1]) % 5) for node in nodes}


def test_a_candidate_has_its_parents_seeds_and_one_of_its_own():
    tree = Tree(42, 2, 1, 2, (1, 3), 5)
    first, second = decisions(tree, lambda nodes: {node.path: -node.path[-1] for node in nodes})
    assert first.nodes == (Node((0,), 1, child_root(42, (0,))), Node((1,), 1, child_root(42, (1,))))
    branches = tuple((Branch(1, child_root(42, (0, child))),) for child in (0, 1))
    seed = child_root(42, (0,))
    assert second.nodes == tuple(Node((0, n), 3, seed, branches[n]) for n in (0, 1))
    assert (first.margin, second.margin) == (1, 1)
    assert tree.finished(second.kept[0]) == Node((0, 0), 5, seed, branches[0])


def test_a_search_that_extends_a_clip_keeps_its_noise():
    start = Node((), 3, 7, (Branch(2, 9),))
    (decision,) = decisions(Tree(1, 2, 1, 1, (4,), 5, start), lambda nodes: {n.path: 0.0 for n in nodes})
    expected = [Node((n,), 4, 7, (Branch(2, 9), Branch(3, child_root(1, (n,))))) for n in (0, 1)]
    assert list(decision.nodes) == expected


def test_ties_are_broken_by_path_and_what_has_no_score_is_out():
    scores = {(2,): 1.0, (10,): 1.0, (1, 5): 3.0, (0,): None, (3,): -1.0}
    pairs = list(scores.items())
    random.Random(1).shuffle(pairs)
    assert [path for _, path in ranked(dict(pairs))] == [(1, 5), (2,), (10,), (3,)]
    with pytest.raises(ValueError, match="no candidate of round 1 has a score"):
        decisions(Tree(0, 2, 1, 1, (1,), 1), lambda nodes: {node.path: None for node in nodes})


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)).filter(lambda s: s[1] <= s[0]),
    at=st.sets(st.integers(1, 9), min_size=1, max_size=4).map(sorted),
    begun=st.integers(0, 2),
)
def test_the_cost_is_what_a_search_makes(sizes, at, begun):
    tree = Tree(5, *sizes, tuple(each + begun for each in at), 9 + begun, Node((), begun, 1))
    rounds = decisions(tree, scores_by_seed)
    units, before = 0, begun
    for decision in rounds:
        units += sum(node.num_units - before for node in decision.nodes)
        before = decision.nodes[0].num_units
    assert tree.cost == units + tree.num_units - before
    assert [len(decision.nodes) for decision in rounds] == [count for count, _ in tree.rounds]
    assert len({node.path for decision in rounds for node in decision.nodes}) == sum(
        len(decision.nodes) for decision in rounds
    )


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_the_busiest_process_makes_its_share_of_each_round_and_the_rest_of_the_winner(num_processes):
    tree = Tree(0, 8, 2, 4, (1, 3), 5)
    busy = {1: 8 + 16 + 2, 2: 4 + 8 + 2, 3: 3 + 6 + 2, 8: 1 + 2 + 2}[num_processes]
    assert tree.units_in_turn(num_processes) == busy
    assert tree.units_in_turn(1) == tree.cost
    assert tree.units_in_turn(num_processes, 0, num_processes) == busy - 1
    assert tree.units_in_turn(num_processes, 2) == 2


def test_eight_two_four_at_one_three_five_costs_eight_whole_clips():
    assert Tree(0, 8, 2, 4, (1, 3, 5), 5).cost == 8 * 1 + 8 * 2 + 8 * 2 == 8 * 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 1, (1,), 5), "width must be at least 1, got 0; use 1"),
        ((2, 3, 1, (1,), 5), "keep must be at most width, 2, got 3; use 2"),
        ((2, 1, 0, (1,), 5), "branching must be at least 1, got 0; use 1"),
        ((2, 1, 1, (), 5), "at must be rising numbers of units in 1 .. 5, got none; use 5"),
        ((2, 1, 1, (3, 1), 5), "at must be rising numbers .* got 3 1; use 1 3"),
        ((2, 1, 1, (0, 9), 5), "in 1 .. 5, got 0 9; use 1 5"),
    ],
)
def test_what_is_no_tree_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Tree(0, *values)


def test_paths_as_text():
    assert (path_text(()), path_text((3, 0, 12))) == ("", "3/0/12")
