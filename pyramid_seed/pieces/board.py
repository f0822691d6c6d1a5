"""The board on which the pieces of one sequence leave what the others need."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from .workers import Workers

Parts = tuple[torch.Tensor, ...]
Shapes = tuple[tuple[int, ...], ...]
Route = tuple[int, int]
"""(from, to), the indices of two pieces."""


class Post(Protocol):
    """Sends parts to pieces that other processes make, and receives theirs."""

    def exchange(
        self, sends: Mapping[Route, Parts], expected: Mapping[Route, Shapes], like: torch.Tensor
    ) -> Mapping[Route, Parts]:
        """Called by all processes of a sequence in the same order; `like` gives the dtype and device."""
        ...


@dataclass
class _Round:
    """One exchange and its progress."""

    parts: dict[Route, Parts] = field(default_factory=dict)
    expected: dict[Route, Shapes] = field(default_factory=dict)
    num_left: int = 0
    num_taken: int = 0
    is_complete: bool = False


class Board:
    """All-to-all among the pieces of one sequence.

    Args:
        count: number of pieces of the sequence.
        here: the pieces that this process makes.
        workers: the threads that make them.
        post: the connection to the other pieces; None if all are made here.
    """

    def __init__(self, count: int, here: range, workers: Workers, post: Post | None) -> None:
        self._count = count
        self._here = here
        self._workers = workers
        self._post = post
        self._rounds: dict[int, _Round] = {}
        self._lock = threading.Lock()

    def all_to_all(
        self, number: int, piece: int, parts: Sequence[Parts], shapes: Sequence[Shapes]
    ) -> list[Parts]:
        """Leave a piece's parts for all pieces, and take the parts that all have for it.

        Args:
            number: the exchange's number; each piece counts its own.
            piece: the piece that calls.
            parts, shapes: see `models.shards.Exchange`.
        """
        pieces = range(self._count)
        with self._lock:
            this = self._rounds.setdefault(number, _Round())
            this.parts |= {(piece, to): part for to, part in enumerate(parts)}
            away = (other for other in pieces if other not in self._here)
            this.expected |= {(other, piece): shapes[other] for other in away}
            this.num_left += 1
            completes = this.num_left == len(self._here)
        if completes:
            if self._post is not None and this.expected:
                sends = {route: part for route, part in this.parts.items() if route[1] not in self._here}
                with self._workers.away():
                    this.parts |= self._post.exchange(sends, this.expected, parts[0][0])
            this.is_complete = True
            self._workers.tell()
        else:
            self._workers.wait_until(lambda: this.is_complete)
        received = [this.parts[other, piece] for other in pieces]
        with self._lock:
            this.num_taken += 1
            if this.num_taken == len(self._here):
                del self._rounds[number]
        return received


class PieceExchange:
    """The `models.shards.Exchange` of one piece; without a board, of a piece that is the whole sequence."""

    def __init__(self, workers: Workers, board: Board | None = None, piece: int = 0) -> None:
        self._workers = workers
        self._board = board
        self._piece = piece
        self._number = 0

    def all_to_all(self, parts: Sequence[Parts], shapes: Sequence[Shapes]) -> list[Parts]:
        """See `models.shards.Exchange`."""
        assert self._board is not None  # a whole sequence exchanges nothing
        self._number += 1
        return self._board.all_to_all(self._number, self._piece, parts, shapes)

    def give_way(self) -> None:
        """See `Workers.give_way`."""
        self._workers.give_way()
