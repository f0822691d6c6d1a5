"""Running a causal network over a clip in parts: sample by sample, chunk by chunk, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from .causal_video_blocks import TemporalCache

Network = Callable[[Tensor, TemporalCache | None], Tensor]


@dataclass(frozen=True)
class TileGrid:
    """Overlapping tiles: one of (height, width) `size` starts every (height, width) `stride`."""

    size: tuple[int, int]
    stride: tuple[int, int]

    def windows(self, height: int, width: int) -> list[list[tuple[slice, slice]]]:
        """Rows of (vertical, horizontal) slices that cover a picture; those at the far edges are smaller."""
        return [
            [
                (slice(top, top + self.size[0]), slice(left, left + self.size[1]))
                for left in range(0, width, self.stride[1])
            ]
            for top in range(0, height, self.stride[0])
        ]


@dataclass(frozen=True)
class Tiling:
    """The same tiles on a network's input and on its output."""

    tiles_in: TileGrid
    tiles_out: TileGrid


class PartRunner:
    """Runs a causal network over a clip that comes chunk by chunk.

    What it remembers between the chunks is this clip's alone: a cache for each tile and sample.

    Args:
        network: (B, C, t, h, w) -> (B, C', t', h', w'), causal in time.
        tiling: cuts frames that are larger than a tile; None never cuts.
        slicing: run the samples of the batch one at a time.
    """

    def __init__(self, network: Network, tiling: Tiling | None, slicing: bool) -> None:
        self._network = network
        self._tiling = tiling
        self._slicing = slicing
        self._caches: dict[tuple[int, int], TemporalCache] = {}

    def __call__(self, chunk: Tensor, *, is_last: bool = False) -> Tensor:
        """The next chunk (B, C, t, H, W) -> (B, C', t', H', W'); after the last one nothing is kept."""
        if not self._slicing or chunk.shape[0] == 1:
            return self._run(chunk, 0, is_last)
        samples = chunk.split(1)
        return torch.cat([self._run(sample, index, is_last) for index, sample in enumerate(samples)])

    def _run(self, chunk: Tensor, sample: int, is_last: bool) -> Tensor:
        height, width = chunk.shape[3:]
        tiling = self._tiling
        if tiling is None or (height <= tiling.tiles_in.size[0] and width <= tiling.tiles_in.size[1]):
            return self._network(chunk, self._cache(sample, 0, is_last))
        rows = tiling.tiles_in.windows(height, width)
        places = count()
        tiles = (
            [
                self._network(chunk[..., vertical, horizontal], self._cache(sample, next(places), is_last))
                for vertical, horizontal in row
            ]
            for row in rows
        )
        return stitch(tiles, tiling.tiles_out)

    def _cache(self, sample: int, tile: int, is_last: bool) -> TemporalCache | None:
        """The cache of a tile, or None for a clip that is one chunk."""
        if is_last and (sample, tile) not in self._caches:
            return None
        cache = self._caches.setdefault((sample, tile), TemporalCache())
        cache.is_last = is_last
        return cache


def run_in_parts(
    network: Network, x: Tensor, chunk_size: int | None, tiling: Tiling | None, slicing: bool
) -> Iterator[Tensor]:
    """Yield what `network(chunk, cache)` makes of `x` (B, C, T, H, W), one chunk of time after another.

    Args:
        network, tiling, slicing: see `PartRunner`.
        x: the whole clip.
        chunk_size: frames in a chunk, after the first, which is one frame; None for all in one chunk.
    """
    runner = PartRunner(network, tiling, slicing)
    for time in _chunks(x.shape[2], chunk_size):
        yield runner(x[:, :, time], is_last=time.stop >= x.shape[2])


def stitch(rows: Iterable[Sequence[Tensor]], grid: TileGrid) -> Tensor:
    """One picture (..., H, W) from rows of tiles (..., h, w), faded into each other where they overlap."""
    overlap_height, overlap_width = grid.size[0] - grid.stride[0], grid.size[1] - grid.stride[1]
    above: Sequence[Tensor] = ()
    bands = []
    for row in rows:
        blended: list[Tensor] = []
        for column, tile in enumerate(row):
            if above:
                tile = _blend(above[column], tile, overlap_height, dim=-2)
            if blended:
                tile = _blend(blended[-1], tile, overlap_width, dim=-1)
            blended.append(tile)
        bands.append(torch.cat([tile[..., : grid.stride[0], : grid.stride[1]] for tile in blended], dim=-1))
        above = blended
    return torch.cat(bands, dim=-2)


def _blend(before: Tensor, after: Tensor, extent: int, dim: int) -> Tensor:
    """`after`, its first `extent` entries along `dim` (-2 or -1) faded in from the last ones of `before`."""
    extent = min(before.shape[dim], after.shape[dim], extent)
    weight = (torch.arange(extent, device=after.device) / extent).to(after.dtype)
    seam = torch.lerp(
        before.narrow(dim, before.shape[dim] - extent, extent),
        after.narrow(dim, 0, extent),
        weight.reshape(extent, *[1] * (-1 - dim)),
    )
    return torch.cat([seam, after.narrow(dim, extent, after.shape[dim] - extent)], dim)


def _chunks(num_frames: int, chunk_size: int | None) -> list[slice]:
    """The first frame, then `chunk_size` frames at a time; all at once for None."""
    if chunk_size is None:
        return [slice(0, num_frames)]
    return [slice(0, 1), *(slice(start, start + chunk_size) for start in range(1, num_frames, chunk_size))]
