"""Running a network over overlapping tiles of a large picture, and blending what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TileGrid:
    """Overlapping tiles: a tile of (height, width) `size` starts every (height, width) `stride`."""

    size: tuple[int, int]
    stride: tuple[int, int]

    @property
    def overlap(self) -> tuple[int, int]:
        return self.size[0] - self.stride[0], self.size[1] - self.stride[1]

    def scaled_down(self, factor: int) -> TileGrid:
        """The same tiles on a picture `factor` times smaller; sizes and strides are multiples of it."""
        return TileGrid(
            (self.size[0] // factor, self.size[1] // factor),
            (self.stride[0] // factor, self.stride[1] // factor),
        )

    def windows(self, height: int, width: int) -> list[list[tuple[slice, slice]]]:
        """Rows of (vertical, horizontal) slices that cover a picture; those at the far edges are smaller."""
        return [
            [
                (slice(top, top + self.size[0]), slice(left, left + self.size[1]))
                for left in range(0, width, self.stride[1])
            ]
            for top in range(0, height, self.stride[0])
        ]


def blend(before: Tensor, after: Tensor, extent: int, dim: int) -> Tensor:
    """Fade from the last `extent` entries of `before` to the first of `after` along `dim`; returns `after`."""
    extent = min(before.shape[dim], after.shape[dim], extent)
    weight = torch.arange(extent, device=after.device, dtype=torch.float32).div(extent).to(after.dtype)
    weight = weight.reshape(extent, *[1] * (-1 - dim))
    seam = torch.lerp(
        before.narrow(dim, before.shape[dim] - extent, extent), after.narrow(dim, 0, extent), weight
    )
    return torch.cat([seam, after.narrow(dim, extent, after.shape[dim] - extent)], dim)


def stitch(rows: Iterable[Sequence[Tensor]], grid: TileGrid) -> Tensor:
    """One picture (..., H, W) from rows of tiles (..., h, w), the overlaps faded linearly into each other."""
    above: Sequence[Tensor] = ()
    bands = []
    for row in rows:
        blended: list[Tensor] = []
        for column, tile in enumerate(row):
            if above:
                tile = blend(above[column], tile, grid.overlap[0], dim=-2)
            if blended:
                tile = blend(blended[-1], tile, grid.overlap[1], dim=-1)
            blended.append(tile)
        bands.append(torch.cat([tile[..., : grid.stride[0], : grid.stride[1]] for tile in blended], dim=-1))
        above = blended
    return torch.cat(bands, dim=-2)
