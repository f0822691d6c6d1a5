"""What pieces leave for each other comes where it belongs, in one process and between several."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from queue import SimpleQueue

import pytest
import torch

from pyramid_seed.pieces.board import Board, PieceExchange
from pyramid_seed.pieces.processes import Processes
from pyramid_seed.pieces.workers import AbandonedError, Workers
from tests.cases import check_cases

PATIENCE = 20


def part(number: int, route: tuple[int, int]) -> torch.Tensor:
    """What one piece leaves for another one in an exchange, of a size of its own."""
    of, to = route
    return torch.full((1 + of, 2 + to), float(100 * number + 10 * of + to))


def shape(route: tuple[int, int]) -> tuple[int, ...]:
    return tuple(part(0, route).shape)


def exchange_twice(board: Board, workers: Workers, count: int, piece: int) -> None:
    """Two exchanges of one piece, each by the closed form; the second part of each is another tensor."""
    exchange = PieceExchange(workers, board, piece)
    for number in (1, 2):
        workers.give_way()
        parts = [(part(number, (piece, to)), part(number + 5, (to, piece))) for to in range(count)]
        shapes = [(shape((of, piece)), shape((piece, of))) for of in range(count)]
        received = exchange.all_to_all(parts, shapes)
        assert len(received) == count
        for of, (first, second) in enumerate(received):
            assert torch.equal(first, part(number, (of, piece)))
            assert torch.equal(second, part(number + 5, (piece, of)))


def exchanged(workers: Workers, count: int, here: range, post=None) -> None:
    board = Board(count, here, workers, post)
    workers.run([partial(exchange_twice, board, workers, count, piece) for piece in here], are_linked=True)
    assert not board._rounds  # what was passed on is let go of


def test_all_pieces_here():
    def rule(count, num_workers):
        with Workers(num_workers) as workers:
            exchanged(workers, count, range(count))

    check_cases([(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (6, 4)], rule)


class Wire:
    """A `Post` between processes that are threads here."""

    def __init__(self, own: range, boxes: dict[int, SimpleQueue], all_pieces: list[range]) -> None:
        self.own, self.boxes, self.all_pieces, self.num_calls = own, boxes, all_pieces, 0

    def exchange(self, sends, expected, like):
        self.num_calls += 1
        assert like.dtype == torch.float32
        for pieces in self.all_pieces:
            if pieces != self.own:
                mine = {route: tensors for route, tensors in sends.items() if route[1] in pieces}
                assert mine.keys() == {(of, to) for of in self.own for to in pieces}
                self.boxes[pieces.start].put(mine)
        received = {}
        for _ in range(len(self.all_pieces) - 1):
            received |= self.boxes[self.own.start].get(timeout=PATIENCE)
        assert received.keys() == expected.keys()
        for route, tensors in received.items():
            assert tuple(tuple(tensor.shape) for tensor in tensors) == expected[route]
        return received


def test_pieces_of_several_processes():
    def rule(count, num_processes, num_workers):
        group = [
            Processes(tuple(range(num_processes)), index, torch.device("cpu"), None)
            for index in range(num_processes)
        ]
        all_pieces = [processes.own_pieces(count) for processes in group]
        boxes = {pieces.start: SimpleQueue() for pieces in all_pieces}

        def process(own: range) -> int:
            wire = Wire(own, boxes, all_pieces)
            with Workers(num_workers) as workers:
                exchanged(workers, count, own, wire)
            return wire.num_calls

        with ThreadPoolExecutor(num_processes) as pool:
            assert list(pool.map(process, all_pieces)) == [2] * num_processes

    # Queues keep their order, so that an exchange cannot overtake the one before with two processes.
    check_cases([(2, 2, 1), (4, 2, 1), (3, 2, 2), (6, 2, 4)], rule)


def test_a_piece_that_fails_leaves_no_other_waiting():
    ended = threading.Event()
    with Workers(1) as workers:
        board = Board(2, range(2), workers, None)

        def waits():
            try:
                PieceExchange(workers, board, 0).all_to_all([(torch.ones(1),)] * 2, [((1,),)] * 2)
            except AbandonedError:
                ended.set()
                raise

        def fails():
            workers.wait_until(lambda: bool(board._rounds))
            raise ArithmeticError("the reason")

        with pytest.raises(ArithmeticError, match="the reason"):
            workers.run([waits, fails], are_linked=True)
    assert ended.is_set()


def test_pieces_are_made_by_one_process_each():
    """For any number of pieces, also fewer than processes: in order, shared evenly, and all agree on it."""

    def rule(num_pieces, num_processes):
        group = [
            Processes(tuple(range(num_processes)), index, torch.device("cpu"), None)
            for index in range(num_processes)
        ]
        own = [processes.own_pieces(num_pieces) for processes in group]
        assert [piece for pieces in own for piece in pieces] == list(range(num_pieces))
        assert max(map(len, own)) - min(map(len, own)) <= 1
        for index, pieces in enumerate(own):
            assert {processes.maker_of(piece, num_pieces) for processes in group for piece in pieces} <= {
                index
            }

    check_cases(product(range(1, 13), range(1, 9)), rule)
