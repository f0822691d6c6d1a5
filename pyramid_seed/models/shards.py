"""One sequence in several pieces: by rows where rows are independent, by heads for attention.

As in DeepSpeed-Ulysses (arXiv 2309.14509), but the number of pieces is a setting of the clip, not of the
devices. Text, history and current tokens are cut separately, so that every piece has its share of all
three.

Shape suffixes: B batch, S tokens of the sequence, n of them in a piece, H heads, h of them in a group, D head
width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class Exchange(Protocol):
    """How the pieces of one sequence exchange data; every piece has its own."""

    def all_to_all(
        self, parts: Sequence[tuple[torch.Tensor, ...]], shapes: Sequence[tuple[tuple[int, ...], ...]]
    ) -> list[tuple[torch.Tensor, ...]]:
        """Give each piece its part, and get this piece's part from each; all call it in the same order.

        Args:
            parts: tensors for each piece.
            shapes: of the tensors that each piece sends.
        """
        ...

    def give_way(self) -> None:
        """Called between blocks: let more urgent work go first."""
        ...


@dataclass(frozen=True)
class Shard:
    """The piece of a sequence that a call of the transformer computes.

    Attributes:
        index, count: which piece, and how many there are.
        exchange: the exchange with the others.
    """

    index: int
    count: int
    exchange: Exchange


@dataclass(frozen=True)
class ShardedSequence:
    """A sequence, seen from one of its pieces.

    Attributes:
        shard: the piece.
        lengths: numbers of tokens of text, history and current latents in the whole sequence.
    """

    shard: Shard
    lengths: tuple[int, int, int]

    def heads(
        self,
        query_BnHD: torch.Tensor,
        key_BnHD: torch.Tensor,
        value_BnHD: torch.Tensor,
        *,
        only_current: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From all heads of own tokens to own heads of all tokens, (B, S, h, D).

        With `only_current`, only current tokens are queries.
        """
        count, index = self.shard.count, self.shard.index
        asking = self.lengths[2:] if only_current else self.lengths
        tokens = query_BnHD, key_BnHD, value_BnHD
        parts = [
            tuple(part) for part in zip(*(each.tensor_split(count, dim=2) for each in tokens), strict=True)
        ]
        own = shares(query_BnHD.shape[2], count)[index]

        def shape(lengths: Sequence[int], piece: int) -> tuple[int, ...]:
            num_tokens = sum(shares(length, count)[piece] for length in lengths)
            return query_BnHD.shape[0], num_tokens, own, query_BnHD.shape[3]

        shapes = [
            (shape(asking, piece), shape(self.lengths, piece), shape(self.lengths, piece))
            for piece in range(count)
        ]
        received = zip(*self.shard.exchange.all_to_all(parts, shapes), strict=True)
        query, key, value = (
            self._in_order(pieces, lengths)
            for pieces, lengths in zip(received, (asking, self.lengths, self.lengths), strict=True)
        )
        return query, key, value

    def rows(self, attended_BShD: torch.Tensor, num_heads: int, *, only_current: bool) -> torch.Tensor:
        """From own heads of all tokens to all heads of own tokens, (B, n, H, D)."""
        count, index = self.shard.count, self.shard.index
        lengths = self.lengths[2:] if only_current else self.lengths
        split = [tokens.tensor_split(count, dim=1) for tokens in attended_BShD.split(list(lengths), dim=1)]
        parts = [(torch.cat(pieces, dim=1),) for pieces in zip(*split, strict=True)]
        batch, num_own, _, width = parts[index][0].shape
        shapes = [((batch, num_own, heads, width),) for heads in shares(num_heads, count)]
        received = self.shard.exchange.all_to_all(parts, shapes)
        return torch.cat([heads for (heads,) in received], dim=2)

    def _in_order(self, pieces: Sequence[torch.Tensor], lengths: Sequence[int]) -> torch.Tensor:
        """All tokens of the pieces (B, n, h, D) in the order of the sequence, (B, S, h, D)."""
        counts = zip(*(shares(length, self.shard.count) for length in lengths), strict=True)
        split = [piece.split(list(own), dim=1) for piece, own in zip(pieces, counts, strict=True)]
        return torch.cat([tokens for segment in zip(*split, strict=True) for tokens in segment], dim=1)


def shares(total: int, count: int) -> list[int]:
    """How many of `total` each of `count` pieces has: the first ones have one more if it does not divide."""
    return [total // count + (index < total % count) for index in range(count)]


def share_of(tokens_BSC: torch.Tensor, shard: Shard) -> torch.Tensor:
    """A piece's share of some tokens, (B, n, C), in its own memory."""
    return tokens_BSC.tensor_split(shard.count, dim=1)[shard.index].clone(
        memory_format=torch.contiguous_format
    )
