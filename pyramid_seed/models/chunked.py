"""Running a causal network over a clip piece by piece: samples, chunks of time, tiles of the image."""

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

    @property
    def overlap(self) -> tuple[int, int]:
        """What neighbours share."""
        return self.size[0] - self.stride[0], self.size[1] - self.stride[1]

    def windows(self, height: int, width: int) -> list[list[tuple[slice, slice]]]:
        """Rows of (vertical, horizontal) slices that cover an image; those at the far edges may be smaller.

        A tile is left out if its neighbour reaches as far: all of it would be faded into the neighbour.
        """
        tops, lefts = (
            range(0, max(total - overlap, 1), stride)
            for total, overlap, stride in zip((height, width), self.overlap, self.stride, strict=True)
        )
        return [
            [(slice(top, top + self.size[0]), slice(left, left + self.size[1])) for left in lefts]
            for top in tops
        ]


@dataclass(frozen=True)
class Tiling:
    """The same tiles on a network's input and on its output."""

    tiles_in: TileGrid
    tiles_out: TileGrid

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for those of the input."""
        sizes = zip((height, width), self.tiles_in.size, self.tiles_out.size, strict=True)
        out_height, out_width = (side * size_out // size_in for side, size_in, size_out in sizes)
        return out_height, out_width


class ChunkedRunner:
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
        places = count()
        tiles = (
            [
                self._network(chunk[..., vertical, horizontal], self._cache(sample, next(places), is_last))
                for vertical, horizontal in row
            ]
            for row in tiling.tiles_in.windows(height, width)
        )
        return stitch(tiles, tiling.tiles_out, *tiling.out_size(height, width))

    def _cache(self, sample: int, tile: int, is_last: bool) -> TemporalCache | None:
        """The cache of a tile, or None for a clip that is one chunk."""
        if is_last and (sample, tile) not in self._caches:
            return None
        cache = self._caches.setdefault((sample, tile), TemporalCache())
        cache.is_last = is_last
        return cache


def run_chunked(
    network: Network, x: Tensor, chunk_size: int | None, tiling: Tiling | None, slicing: bool
) -> Iterator[Tensor]:
    """Yield what `network(chunk, cache)` makes of `x` (B, C, T, H, W), one chunk of time after another.

    Args:
        network, tiling, slicing: see `ChunkedRunner`.
        x: the whole clip.
        chunk_size: frames in a chunk, after the first, which is one frame; None for all in one chunk.
    """
    runner = ChunkedRunner(network, tiling, slicing)
    for time in _chunks(x.shape[2], chunk_size):
        yield runner(x[:, :, time], is_last=time.stop >= x.shape[2])


def stitch(rows: Iterable[Sequence[Tensor]], grid: TileGrid, height: int, width: int) -> Tensor:
    """One image (..., height, width) from rows of tiles (..., h, w), which are faded into each other.

    The tiles are overwritten.
    """
    above: Sequence[Tensor] = ()
    image: Tensor | None = None
    for row, top in zip(rows, count(0, grid.stride[0]), strict=False):
        for column, tile in enumerate(row):
            if above:
                _fade_in(above[column], tile, grid.overlap[0], dim=-2)
            if column:
                _fade_in(row[column - 1], tile, grid.overlap[1], dim=-1)
            if image is None:
                image = tile.new_empty((*tile.shape[:-2], height, width))
            # The next tile overwrites what it shares with this one: by then it is faded into it.
            place = image[..., top:, column * grid.stride[1] :]
            place[..., : tile.shape[-2], : tile.shape[-1]] = tile
        above = row
    assert image is not None
    return image


def _fade_in(before: Tensor, after: Tensor, extent: int, dim: int) -> None:
    """Fade the first `extent` entries of `after` along `dim` (-2 or -1) in from the last ones of `before`."""
    extent = min(before.shape[dim], after.shape[dim], extent)
    weight = (torch.arange(extent, device=after.device) / extent).to(after.dtype)
    seam = after.narrow(dim, 0, extent)
    last = before.narrow(dim, before.shape[dim] - extent, extent)
    seam.copy_(torch.lerp(last, seam, weight.reshape(extent, *[1] * (-1 - dim))))


def _chunks(num_frames: int, chunk_size: int | None) -> list[slice]:
    """The first frame, then `chunk_size` frames at a time; all at once for None."""
    if chunk_size is None:
        return [slice(0, num_frames)]
    return [slice(0, 1), *(slice(start, start + chunk_size) for start in range(1, num_frames, chunk_size))]
