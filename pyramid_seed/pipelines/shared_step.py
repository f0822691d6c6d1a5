"""One transformer step in pieces: the halves of guidance, and the shards of each half's sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch

from ..models.shards import Shard, shares
from ..models.token_geometry import frame_stops
from ..models.transformer_pyramid_base import PyramidTransformer3DModel
from ..pieces.board import Board, PieceExchange
from .sharing import Sharing

FEWEST_ROWS = 256
"""The fewest tokens in a piece of a sequence: with fewer, products lose more than others can gain."""


class Half(Protocol):
    """The transformer with one of the two texts of guidance, and everything else that a step needs."""

    def __call__(self, shard: Shard) -> torch.Tensor: ...


def num_pieces(shards: int, num_tokens: int, num_current: int) -> int:
    """The number of pieces of a stage's sequence: `shards`, or a divisor of it if the sequence is short.

    Args:
        shards: the setting.
        num_tokens: those of history and current latents.
        num_current: those of the current latents; each piece has some of them.
    """
    most = min(num_current, num_tokens // FEWEST_ROWS)
    return max(count for count in range(1, shards + 1) if shards % count == 0 and count <= max(most, 1))


def velocities_in_pieces(
    halves: Sequence[Half],
    transformer: PyramidTransformer3DModel,
    history: Sequence[torch.Tensor],
    latents: torch.Tensor,
    sharing: Sharing,
) -> list[torch.Tensor]:
    """The velocity (1, C, 1, H, W) of each half; every process gets all of them.

    Args:
        halves: one, or the negative and the positive one.
        transformer: the one that they call.
        history, latents: those of the step, (1, C, t, h, w) and (1, C, 1, H, W).
        sharing: the setting, and who computes the pieces.
    """
    processes, workers, config = sharing.processes, sharing.workers, transformer.config
    num_current = frame_stops([latents], config.patch_size)[-1]
    num_tokens = frame_stops([*history, latents], config.patch_size)[-1]
    count = num_pieces(sharing.shards or 1, num_tokens, num_current)
    pieces = [(half, index) for half in range(len(halves)) for index in range(count)]
    own = range(len(pieces)) if processes is None else processes.own_pieces(len(pieces))
    boards = []
    for half in range(len(halves)):
        first = half * count
        here = range(max(own.start - first, 0), min(own.stop - first, count))
        post = None if processes is None else processes.post(first, len(pieces))
        boards.append(Board(count, here, workers, post))

    def make(half: int, index: int) -> torch.Tensor:
        exchange = PieceExchange(workers, boards[half] if count > 1 else None, index)
        return halves[half](Shard(index, count, exchange))

    calls = [partial(make, *pieces[piece]) for piece in own]
    made = dict(zip(own, workers.run(calls, are_linked=count > 1), strict=True))
    if processes is not None:
        width = config.in_channels * config.patch_size**2
        shapes: list[tuple[int, ...]] = [(1, tokens, width) for tokens in shares(num_current, count)]
        if count == 1:
            shapes = [tuple(latents.shape)]
        made = processes.gather(made, [shapes[index] for _, index in pieces], latents.to(transformer.dtype))
    if count == 1:
        return [made[half] for half in range(len(halves))]
    return [
        transformer.velocity_of(torch.cat([made[half * count + i] for i in range(count)], dim=1), latents)
        for half in range(len(halves))
    ]
