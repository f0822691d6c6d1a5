"""Runs a causal network over a clip in parts: samples, chunks of time, tiles of the image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from .causal_video_blocks import Follower, LinkedCache, TemporalCache

Network = Callable[[Tensor, TemporalCache | None], Tensor]
Place = tuple[int, int]
"""(sample, tile)"""


@dataclass(frozen=True)
class TileGrid:
    """Overlapping tiles: one of (height, width) `size` starts every (height, width) `stride`."""

    size: tuple[int, int]
    stride: tuple[int, int]

    @property
    def overlap(self) -> tuple[int, int]:
        """Rows and columns that neighbouring tiles share."""
        return self.size[0] - self.stride[0], self.size[1] - self.stride[1]

    def windows(self, height: int, width: int) -> list[list[tuple[slice, slice]]]:
        """Rows of (vertical, horizontal) slices that cover an image; those at the far edges may be smaller.

        A tile is left out if its neighbour reaches as far, as all of it would be faded into the neighbour.
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
        """Height and width of the output for an input of this size."""
        sizes = zip((height, width), self.tiles_in.size, self.tiles_out.size, strict=True)
        out_height, out_width = (side * size_out // size_in for side, size_in, size_out in sizes)
        return out_height, out_width


class ChunkedRunner:
    """Runs a causal network over a clip that comes chunk by chunk.

    What it remembers between chunks belongs to this clip alone: a cache for each tile and sample.

    Args:
        network: (B, C, t, h, w) -> (B, C', t', h', w'), causal in time.
        tiling: cuts frames that are larger than a tile; None never cuts.
        slicing: run the batch one sample at a time.
    """

    def __init__(self, network: Network, tiling: Tiling | None, slicing: bool) -> None:
        self._network = network
        self._tiling = tiling
        self._slicing = slicing
        self._caches: dict[Place, TemporalCache] = {}
        self._linked: _Links | None = None

    def __call__(self, chunk: Tensor, *, is_last: bool = False) -> Tensor:
        """The next chunk (B, C, t, H, W) -> (B, C', t', H', W'); nothing is kept after the last one."""

        def cache(place: Place) -> TemporalCache | None:
            if is_last and place not in self._caches:
                return None  # the clip is one chunk
            cache = self._caches.setdefault(place, TemporalCache())
            cache.is_last = is_last
            return cache

        return self._run(chunk, cache)

    def next_chunk(self, follower: Follower, *, is_last: bool = False) -> Callable[[Tensor], Tensor]:
        """As a call, for a chunk that may run while earlier ones are still in progress.

        To be called once per chunk, in their order; the result takes the chunk.
        """
        if is_last and self._linked is None:
            return partial(self._run, cache=lambda _: None)  # the clip is one chunk
        links = self._linked = _Links(self._linked, follower, is_last)

        def run(chunk: Tensor) -> Tensor:
            output = self._run(chunk, links.cache)
            links.let_go()
            return output

        return run

    def _run(self, chunk: Tensor, cache: Callable[[Place], TemporalCache | None]) -> Tensor:
        if not self._slicing or chunk.shape[0] == 1:
            return self._run_sample(chunk, 0, cache)
        samples = enumerate(chunk.split(1))
        return torch.cat([self._run_sample(sample, index, cache) for index, sample in samples])

    def _run_sample(
        self, chunk: Tensor, sample: int, cache: Callable[[Place], TemporalCache | None]
    ) -> Tensor:
        height, width = chunk.shape[3:]
        tiling = self._tiling
        if tiling is None or (height <= tiling.tiles_in.size[0] and width <= tiling.tiles_in.size[1]):
            return self._network(chunk, cache((sample, 0)))
        places = count()
        tiles = (
            [
                self._network(chunk[..., vertical, horizontal], cache((sample, next(places))))
                for vertical, horizontal in row
            ]
            for row in tiling.tiles_in.windows(height, width)
        )
        return stitch(tiles, tiling.tiles_out, *tiling.out_size(height, width))


class _Links:
    """The caches of one chunk, each linked to that of the previous chunk."""

    def __init__(self, before: _Links | None, follower: Follower, is_last: bool) -> None:
        self._before = before
        self._follower = follower
        self._is_last = is_last
        self._caches: dict[Place, LinkedCache] = {}
        self._making = threading.Lock()

    def cache(self, place: Place) -> LinkedCache:
        """The cache for a place, made by whichever chunk asks first, this one or the next."""
        with self._making:
            if place not in self._caches:
                before = None if self._before is None else self._before.cache(place)
                self._caches[place] = LinkedCache(before, self._follower, is_last=self._is_last)
            return self._caches[place]

    def let_go(self) -> None:
        """Release the previous chunk: this one has taken everything that it kept."""
        with self._making:
            self._before = None
            for cache in self._caches.values():
                cache.before = None


def run_chunked(
    network: Network, x: Tensor, chunk_size: int | None, tiling: Tiling | None, slicing: bool
) -> Iterator[Tensor]:
    """Yield the outputs of `network(chunk, cache)` over `x` (B, C, T, H, W), one chunk of time after another.

    Args:
        network, tiling, slicing: see `ChunkedRunner`.
        x: the whole clip.
        chunk_size: frames per chunk, after the first, which is one frame; None for all in one chunk.
    """
    runner = ChunkedRunner(network, tiling, slicing)
    for time in _chunks(x.shape[2], chunk_size):
        yield runner(x[:, :, time], is_last=time.stop >= x.shape[2])


def stitch(rows: Iterable[Sequence[Tensor]], grid: TileGrid, height: int, width: int) -> Tensor:
    """One image (..., height, width) from rows of tiles (..., h, w), faded into each other.

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
            # The next tile overwrites what it shares with this one, which is faded into it by then.
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
