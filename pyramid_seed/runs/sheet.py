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


def write_strip(path: Path, frames: Frames) -> None:
    """Write a clip's strip: frames from first to last, each in a square of its own."""
    chosen = np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)
    write_image(path, image_grid([_cell(frames[index]) for index in chosen], _FRAMES), overwrite=True)


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
