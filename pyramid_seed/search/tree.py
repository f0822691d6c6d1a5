"""The tree of a search: its candidates, their seeds, who is kept, and what it costs. No tensors, no files.

A candidate is a clip that ends after some unit. Its children have its units and go on with seeds of their
own, so each is an ordinary clip: a seed and branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from ..checks import check_int, check_list
from ..noise import Branch
from ..seeds import check_root, hashed_seed

SCHEME = "pyramid-seed/search/v1"
"""Name of the rule that gives each candidate its seed; it never changes."""

Path: TypeAlias = tuple[int, ...]
"""Which child in each round, from 0: (3, 0) is the first child of the fourth candidate."""


@dataclass(frozen=True)
class Node:
    """A candidate, or the beginning from which a search starts.

    Attributes:
        path: where it is in the tree; () for the beginning.
        num_units: how many units it has; 0 for the beginning of a new clip.
        seed, branches: its noise, as in a `Recipe`.
    """

    path: Path = ()
    num_units: int = 0
    seed: int = 0
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Tree:
    """What a search tries.

    Attributes:
        root: the search's own root seed.
        width: candidates of the first round.
        keep: how many survive a round; of the last round, only the best.
        branching: children of each survivor.
        at: numbers of units at which candidates are compared, rising.
        num_units: units of the finished clip.
        start: what all candidates begin with.

    Raises:
        TypeError, ValueError: a number is not a whole one, or does not fit the others.
    """

    root: int
    width: int
    keep: int
    branching: int
    at: tuple[int, ...]
    num_units: int
    start: Node = Node()

    def __post_init__(self) -> None:
        check_root(self.root)
        for name in ("width", "keep", "branching"):
            check_int(name, getattr(self, name), minimum=1)
        if self.keep > self.width:
            raise ValueError(f"keep must be at most width, {self.width}, got {self.keep}; use {self.width}")
        check_list("at", self.at, "numbers of units")
        for each in self.at:
            check_int("at", each)
        first, last = self.start.num_units + 1, self.num_units
        is_rising = all(earlier < later for earlier, later in pairwise(self.at))
        if not self.at or not is_rising or not first <= self.at[0] <= self.at[-1] <= last:
            good = sorted({min(max(each, first), last) for each in self.at} or {last})
            raise ValueError(
                f"at must be rising numbers of units in {first} .. {last}, got "
                f"{' '.join(map(str, self.at)) or 'none'}; use {' '.join(map(str, good))}"
            )

    @property
    def rounds(self) -> tuple[tuple[int, int], ...]:
        """For each round: how many candidates it has at most, and how many units each of them makes."""
        counts = [self.width]
        for _ in self.at[1:]:
            counts.append(min(self.keep, counts[-1]) * self.branching)
        lengths = [later - earlier for earlier, later in pairwise((self.start.num_units, *self.at))]
        return tuple(zip(counts, lengths, strict=True))

    @property
    def cost(self) -> int:
        """Units that the whole search makes at most, with the winner's rest; without those of `start`."""
        return sum(count * length for count, length in self.rounds) + self.num_units - self.at[-1]

    def units_in_turn(self, num_processes: int, turn: int = 0, num_made: int = 0) -> int:
        """Units that the busiest of the processes makes, one after the other.

        They are those of the rounds from `turn` on, without the first `num_made` candidates, and those of the
        winner's rest, which one process makes.
        """
        counts = [count - num_made * (place == 0) for place, (count, _) in enumerate(self.rounds[turn:])]
        lengths = [length for _, length in self.rounds[turn:]]
        busiest = sum(
            -(-count // num_processes) * length for count, length in zip(counts, lengths, strict=True)
        )
        return busiest + self.num_units - self.at[-1]

    def children(self, parents: Sequence[Node], turn: int) -> tuple[Node, ...]:
        """The candidates of round `turn`, from 0: children of what the round before has kept."""
        count = self.branching if turn else self.width
        return tuple(
            self._child(parent, index, self.at[turn]) for parent in parents for index in range(count)
        )

    def finished(self, best: Node) -> Node:
        """A candidate at full length: it goes on with its own seed."""
        return Node(best.path, self.num_units, best.seed, best.branches)

    def num_kept(self, turn: int) -> int:
        """How many candidates round `turn` keeps at most."""
        return 1 if turn == len(self.at) - 1 else self.keep

    def _child(self, parent: Node, index: int, num_units: int) -> Node:
        path = (*parent.path, index)
        seed = child_root(self.root, path)
        if parent.num_units == 0:
            return Node(path, num_units, seed)
        return Node(path, num_units, parent.seed, (*parent.branches, Branch(parent.num_units, seed)))


@dataclass(frozen=True)
class Decision:
    """One round: who was compared, who is kept (best first), and by how much they lead.

    `margin` is the last kept candidate's score minus the first dropped one's; None if none with a score was
    dropped.
    """

    nodes: tuple[Node, ...]
    kept: tuple[Node, ...]
    margin: float | None


def decisions(
    tree: Tree, scores_of: Callable[[Sequence[Node]], Mapping[Path, float | None]]
) -> tuple[Decision, ...]:
    """All rounds of a search: the best are kept, of equal ones those with the smaller path.

    Args:
        tree: what is tried.
        scores_of: called once per round; the score of each candidate, None for one that has ended.

    Raises:
        ValueError: no candidate of a round has a score.
    """
    made: list[Decision] = []
    parents: tuple[Node, ...] = (tree.start,)
    for turn in range(len(tree.at)):
        nodes = tree.children(parents, turn)
        scores = scores_of(nodes)
        order = ranked(scores)
        number = tree.num_kept(turn)
        if not order:
            raise ValueError(f"no candidate of round {turn + 1} has a score")
        margin = None if len(order) <= number else order[number - 1][0] - order[number][0]
        by_path = {node.path: node for node in nodes}
        parents = tuple(by_path[path] for _, path in order[:number])
        made.append(Decision(nodes, parents, margin))
    return tuple(made)


def ranked(scores: Mapping[Path, float | None]) -> list[tuple[float, Path]]:
    """Score and path of the candidates that have a score, best first; of equal ones, the smaller path."""
    known = [(score, path) for path, score in scores.items() if score is not None]
    return sorted(known, key=lambda pair: (-pair[0], pair[1]))


def child_root(root: int, path: Path) -> int:
    """The seed of the candidate at a path: a 64-bit hash of the search's root and the path.

    The first 8 bytes, little-endian, of BLAKE2b (64-byte digest, no key) over the ASCII text
    `pyramid-seed/search/v1/<root>/<path>`, where `<path>` is as `path_text` writes it. So the trees of
    neighbouring roots share no seed.
    """
    check_root(root)
    return hashed_seed(f"{SCHEME}/{root}/{path_text(path)}")


def path_text(path: Path) -> str:
    """A path as text: `3/0` is the first child of the fourth candidate."""
    return "/".join(map(str, path))
