"""One sequence in pieces: what is cut comes together as it was."""

from __future__ import annotations

from functools import partial
from itertools import product

import torch

from pyramid_seed.models.shards import Shard, ShardedSequence, share_of, shares
from pyramid_seed.pieces.board import Board, PieceExchange
from pyramid_seed.pieces.workers import Workers
from tests.cases import check_cases


def test_shares():
    def rule(total, count):
        counts = shares(total, count)
        assert len(counts) == count
        assert sum(counts) == total
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1
        assert counts == [len(part) for part in torch.arange(total).tensor_split(count)]

    check_cases(product([0, 1, 2, 5, 6, 7, 100], [1, 2, 3, 6, 7]), rule)


def test_a_share_is_a_copy_that_keeps_nothing_alive():
    tokens = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    parts = [share_of(tokens, Shard(index, 3, None)) for index in range(3)]
    assert torch.equal(torch.cat(parts, dim=1), tokens)
    for part in parts:
        assert part.is_contiguous()
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()
    tokens.zero_()
    assert all(part.any() for part in parts)


LENGTHS = [(5, 11, 7), (4, 0, 6), (1, 2, 3), (0, 5, 4), (3, 8, 2)]
"""Of text, history, current tokens: uneven ones, no history, fewer than there are pieces, no text."""


def test_heads_of_all_tokens_and_tokens_of_all_heads():
    def rule(lengths, count, num_heads, only_current):
        batch, width, total = 2, 3, sum(lengths)
        generator = torch.Generator().manual_seed(0)
        query, key, value = torch.randn(3, batch, total, num_heads, width, generator=generator)
        group = [range(num_heads)[start:stop] for start, stop in bounds(num_heads, count)]

        def cut(tokens, index):
            """Own tokens of a piece: its share of each segment."""
            segments = tokens.split(lengths, dim=1)
            return torch.cat([each.tensor_split(count, dim=1)[index] for each in segments], dim=1)

        def asking(tokens):
            return tokens[:, total - lengths[2] :] if only_current else tokens

        def own_asking(tokens, index):
            own = cut(tokens, index)
            return own[:, own.shape[1] - shares(lengths[2], count)[index] :] if only_current else own

        with Workers(2) as workers:
            board = Board(count, range(count), workers, None)

            def piece(index):
                shard = Shard(index, count, PieceExchange(workers, board, index))
                whole = ShardedSequence(shard, lengths)
                given = own_asking(query, index), cut(key, index), cut(value, index)
                q, k, v = whole.heads(*given, only_current=only_current)
                heads = slice(group[index].start, group[index].stop)
                assert torch.equal(q, asking(query)[:, :, heads])
                assert torch.equal(k, key[:, :, heads])
                assert torch.equal(v, value[:, :, heads])
                # As attention gives something for each token and head that asked.
                attended = whole.rows(q * 2, num_heads, only_current=only_current)
                assert torch.equal(attended, own_asking(query, index) * 2)

            workers.run([partial(piece, index) for index in range(count)], are_linked=True)

    check_cases(product(LENGTHS, [1, 2, 3], [3, 6, 7], [False, True]), rule)


def bounds(total: int, count: int) -> list[tuple[int, int]]:
    counts = shares(total, count)
    return [(sum(counts[:index]), sum(counts[: index + 1])) for index in range(count)]
