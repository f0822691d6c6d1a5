"""The record of a search, `search.json`: every candidate with its score, and one digest over all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec

from ..files import write_file
from ..noise import Branch
from ..provenance.manifest import manifest_json
from ..provenance.merkle import merkle_root
from ..provenance.schema import check_shape
from ..seeds import parse_root
from ..texts import parse_json, read_bounded
from .tree import SCHEME, Decision, Node, Tree, decisions, path_text
from .tree import Path as TreePath

RECORD_NAME = "search.json"
_MAX_BYTES = 256 * 2**20  # some 100,000 candidates

Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the record; what it does not know is refused, since it would not be checked."""


class BranchRow(_Row, frozen=True):
    """A `Branch`; seeds are text, as in manifests."""

    from_unit: int
    seed: str


class Made(_Row, frozen=True):
    """A clip that was made: its noise, the SHA-256 of its units' latents and of its frames."""

    seed: str
    branches: tuple[BranchRow, ...]
    units: tuple[Digest, ...]
    frames: Digest

    def node(self, path: str = "") -> Node:
        """Where it is in the tree, if at `path`; ValueError, TypeError if a seed is none."""
        branches = tuple(Branch(each.from_unit, parse_root(each.seed)) for each in self.branches)
        steps = tuple(map(int, path.split("/"))) if path else ()
        return Node(steps, len(self.units), parse_root(self.seed), branches)


class SearchSettings(_Row, frozen=True):
    """What was searched; `clip` is how all candidates were made, as in the winner's manifest."""

    scheme: str
    prompt: str
    seed: str
    width: int
    keep: int
    branching: int
    at: tuple[int, ...]
    num_units: int
    start: Made | None
    clip: dict[str, Any]

    def tree(self) -> Tree:
        """What was tried; ValueError, TypeError if there is no such tree."""
        if self.scheme != SCHEME:
            raise ValueError(f"scheme must be {SCHEME!r}, got {self.scheme!r:.60}")
        start = Node() if self.start is None else self.start.node()
        sizes = self.width, self.keep, self.branching
        return Tree(parse_root(self.seed), *sizes, self.at, self.num_units, start)


class ScorerRow(_Row, frozen=True):
    """Who gave the scores, see `scorers.Scorer`."""

    name: str
    version: str
    digest: str | None


class Tried(Made, frozen=True):
    """A candidate with its score, or the reason why it has none."""

    score: float | None
    error: str | None


class Candidate(Tried, frozen=True):
    """A candidate, where it is in the tree, and whether it was kept."""

    path: str
    kept: bool


class Winner(Made, frozen=True):
    """The finished clip, its file, and each round's margin, see `tree.Decision`."""

    path: str
    file: str
    margins: tuple[float | None, ...]


class SearchRecord(_Row, frozen=True):
    """A whole search. Nothing in it depends on when, how often or by how many processes it was run."""

    settings: SearchSettings
    scorer: ScorerRow
    candidates: tuple[Candidate, ...]
    winner: Winner
    merkle_root: str = ""


def sealed(
    settings: SearchSettings,
    scorer: ScorerRow,
    rounds: Sequence[Decision],
    tried: Mapping[TreePath, Tried],
    won: Made,
    file: str,
) -> SearchRecord:
    """The record of a search, with its Merkle root.

    Args:
        settings, scorer: what was searched, and who gave the scores.
        rounds: what was decided.
        tried: every candidate, by its path.
        won: the finished clip.
        file: its file's name.
    """
    candidates = tuple(
        _as(Candidate, tried[node.path], path=path_text(node.path), kept=node in each.kept)
        for each in rounds
        for node in each.nodes
    )
    margins = tuple(each.margin for each in rounds)
    winner = _as(Winner, won, path=path_text(rounds[-1].kept[0].path), file=file, margins=margins)
    record = SearchRecord(settings=settings, scorer=scorer, candidates=candidates, winner=winner)
    parts = settings, scorer, *candidates, winner
    root = merkle_root([manifest_json(msgspec.to_builtins(part)).encode() for part in parts])
    return msgspec.structs.replace(record, merkle_root=root)


def check_record(record: SearchRecord) -> tuple[Decision, ...]:
    """The rounds of a record, which must follow from its settings and scores, by the rules of `tree`.

    Raises:
        ValueError: the record contradicts itself; the message names the first contradiction.
        TypeError: as `Tree`.
    """
    tree, rows = record.settings.tree(), {row.path: row for row in record.candidates}

    def scores_of(nodes: Sequence[Node]) -> dict[TreePath, float | None]:
        for node in nodes:
            _check_candidate(record, rows, node)
        return {node.path: rows[path_text(node.path)].score for node in nodes}

    rounds = decisions(tree, scores_of)
    best = rounds[-1].kept[0]
    if record.winner.node(record.winner.path) != tree.finished(best):
        raise ValueError(f"the winner must be {path_text(best.path)}, the best of the last round, at its end")
    _check_prefix(f"the winner's parent {path_text(best.path)}", rows[path_text(best.path)], record.winner)
    tried = {row.node(path).path: row for path, row in rows.items()}
    again = sealed(record.settings, record.scorer, rounds, tried, record.winner, record.winner.file)
    if len(record.candidates) != len(again.candidates):
        raise ValueError(f"there must be {len(again.candidates)} candidates, got {len(record.candidates)}")
    for row, wanted in zip(record.candidates, again.candidates, strict=True):
        if row != wanted:
            fate = "kept" if wanted.kept else "dropped"
            raise ValueError(f"candidate {wanted.path} must be here, {fate} by its score, got {row.path}")
    if record.winner.margins != again.winner.margins:
        raise ValueError(f"the margins must be {again.winner.margins}, got {record.winner.margins}")
    if record.merkle_root != again.merkle_root:
        raise ValueError(f"merkle_root must be {again.merkle_root}, got {record.merkle_root!r:.70}")
    return rounds


def _check_candidate(record: SearchRecord, rows: Mapping[str, Candidate], node: Node) -> None:
    path = path_text(node.path)
    if (row := rows.get(path)) is None:
        raise ValueError(f"candidate {path} is missing")
    if row.node(path) != node:
        raise ValueError(f"candidate {path} must have the seeds of its path and {node.num_units} units")
    if (row.score is None) == (row.error is None) or not math.isfinite(row.score or 0.0):
        raise ValueError(f"candidate {path} must have a finite score, or an error in its place")
    parent = rows.get(path.rpartition("/")[0], record.settings.start)
    if parent is not None:
        _check_prefix(f"candidate {path}", parent, row)


def _check_prefix(what: str, parent: Made, child: Made) -> None:
    if child.units[: len(parent.units)] != parent.units:
        raise ValueError(f"{what} does not begin with its parent's units")


def _as(kind: Any, row: Made, **more: Any) -> Any:
    """A row with further fields; those that are not the new kind's are left out."""
    names = set(kind.__struct_fields__) - more.keys()
    return kind(**{name: getattr(row, name) for name in row.__struct_fields__ if name in names}, **more)


def branch_rows(branches: Sequence[Branch]) -> tuple[BranchRow, ...]:
    """Branches as a record holds them."""
    return tuple(BranchRow(from_unit=each.from_unit, seed=str(each.seed)) for each in branches)


def write_record(path: Path, record: SearchRecord) -> None:
    """Write a record, whole or not at all."""
    text = msgspec.json.format(manifest_json(msgspec.to_builtins(record)), indent=1)
    write_file(path, f"{text}\n", overwrite=True)


def read_record(path: str | Path) -> SearchRecord:
    """Read a record; whether it contradicts itself is for `check_record` to say.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no record.
    """
    path = Path(path)
    try:
        values = parse_json(read_bounded(path, _MAX_BYTES, "the record").decode("utf-8"))
        check_shape(values, SearchRecord)
        return msgspec.convert(values, SearchRecord)
    except ValueError as error:
        raise ValueError(f"{path} holds no record of a search: {error}") from error
