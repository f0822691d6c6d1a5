"""Many small images in one: grids, rows of frames of a clip, the contact sheet of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .frames import Frames, check_frames
from .images import read_image
from .lettering import broken, font
from .video import write_image

_CELL = 96
_FRAMES = 6
_ROWS, _COLUMNS = 50, 4
SHEET_SIZE = _ROWS * _COLUMNS
"""Most strips in a sheet: 7800 x 2400 pixels, which any viewer shows."""
_GREY = 64
_TEXT, _LINE = 14, 18
_CAPTION = 3 * _LINE + 2


def image_grid(images: Sequence[Frames] | Frames, columns: int, *, gap: int = 2, grey: int = 64) -> Frames:
    """Many images of equal size as one (H, W, 3), row by row, with `gap` pixels of `grey` between them.

    Raises:
        ValueError: no images, images of several sizes, or a wrong number of columns.
    """
    if len(images) == 0:
        raise ValueError("a grid needs at least one image")
    if columns < 1 or gap < 0:
        raise ValueError(f"columns must be at least 1 and gap at least 0, got {columns} and {gap}")
    for image in images:
        check_frames(image, name="image", shape="(H, W, 3)")
        if image.shape != images[0].shape:
            raise ValueError(f"images of a grid must be of one size: {images[0].shape} and {image.shape}")
    height, width, _ = images[0].shape
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), grey, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


class Strip:
    """A clip's strip: frames from first to last, each in its own square, chosen as they pass.

    Args:
        num_frames: how many frames will pass.
    """

    def __init__(self, num_frames: int) -> None:
        self._chosen = evenly_spaced(num_frames, _FRAMES)
        self._cells: list[Frames] = []
        self._num_seen = 0

    def add(self, frame: Frames) -> None:
        """Take the next frame (H, W, 3)."""
        times = self._chosen.count(self._num_seen)
        self._num_seen += 1
        if times:
            self._cells += [_cell(frame)] * times

    def write(self, path: Path) -> None:
        """Write the strip as an image, once all frames have passed."""
        write_image(path, image_grid(self._cells, _FRAMES), overwrite=True)


def read_strip(path: Path) -> Frames:
    """Read a strip (H, W, 3) that `Strip` wrote.

    Raises:
        ValueError: it is damaged, or not a strip. OSError: it cannot be read.
    """
    image = read_image(path)
    if image.shape != (_CELL, _FRAMES * (_CELL + 2) - 2, 3):
        raise ValueError(f"{path} is not a strip of a clip: {image.shape[1]}x{image.shape[0]} pixels")
    return image


def write_sheet(path: Path, strips: Sequence[tuple[str, str, Frames]]) -> None:
    """Write the sheet of these strips, in order: at least one and at most `SHEET_SIZE`.

    Args:
        path: the image's file.
        strips: prompt, seed and strip (H, W, 3) of each clip; a long prompt is shown in part.
    """
    captioned = [
        np.concatenate([_caption(prompt, seed, strip.shape[1]), strip]) for prompt, seed, strip in strips
    ]
    write_image(path, image_grid(captioned, -(-len(strips) // _ROWS), gap=4, grey=_GREY), overwrite=True)


def _caption(prompt: str, seed: str, width: int) -> Frames:
    """Two lines of the prompt over the seed, (h, W, 3)."""
    image = Image.new("RGB", (width, _CAPTION), (_GREY, _GREY, _GREY))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate([*broken(prompt, _TEXT, width - 4, 2), f"seed {seed}"]):
        draw.text((2, 1 + number * _LINE), line, (240, 240, 240), font(_TEXT))
    return np.asarray(image)


def evenly_spaced(num_frames: int, count: int) -> list[int]:
    """Indices from the first frame to the last; some occur twice if there are fewer frames."""
    indices: list[int] = np.linspace(0, num_frames - 1, count).round().astype(int).tolist()
    return indices


def _cell(frame: Frames) -> Frames:
    image = Image.fromarray(frame)
    scale = _CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    cell = Image.new("RGB", (_CELL, _CELL), (_GREY, _GREY, _GREY))
    corner = ((_CELL - width) // 2, (_CELL - height) // 2)
    cell.paste(image.resize((width, height), Image.Resampling.LANCZOS), corner)
    return np.asarray(cell)
