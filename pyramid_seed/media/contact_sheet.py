"""The contact sheet of a batch: a strip of small frames a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .video import Frames, image_grid, write_image

_CELL = 96
_FRAMES = 6
_ROWS = 50
_GREY = 64


class Strip:
    """A clip's strip: frames from first to last, each in a square of its own, chosen while they go by."""

    def __init__(self, num_frames: int) -> None:
        self._chosen = np.linspace(0, num_frames - 1, _FRAMES).round().astype(int).tolist()
        self._cells: list[Frames] = []
        self._num_seen = 0

    def add(self, frame: Frames) -> None:
        """The next frame (H, W, 3)."""
        wanted = self._chosen.count(self._num_seen)
        self._num_seen += 1
        if wanted:
            self._cells += [_cell(frame)] * wanted

    def write(self, path: Path) -> None:
        """Write the picture, once all frames were there."""
        write_image(path, image_grid(self._cells, _FRAMES), overwrite=True)


def write_sheet(path: Path, strips: Sequence[Path]) -> None:
    """Write the sheet of these strips, in their order; those that are missing are left out."""
    images = [np.asarray(Image.open(strip).convert("RGB")) for strip in strips if strip.is_file()]
    if images:
        write_image(path, image_grid(images, -(-len(images) // _ROWS), gap=4), overwrite=True)


def _cell(frame: Frames) -> Frames:
    image = Image.fromarray(frame)
    scale = _CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    cell = Image.new("RGB", (_CELL, _CELL), (_GREY, _GREY, _GREY))
    corner = ((_CELL - width) // 2, (_CELL - height) // 2)
    cell.paste(image.resize((width, height), Image.Resampling.LANCZOS), corner)
    return np.asarray(cell)
