"""The contact sheet of a sweep: one row per seed, time in columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..media.frames import Frames

_CELL, _GAP, _MARGIN = 96, 2, 16
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 27), (113, 113, 122)


def labelled_sheet(
    blocks: Sequence[tuple[str, Sequence[tuple[str, Frames]]]], times: Sequence[str]
) -> Frames:
    """Stack blocks of rows: (H, W, 3) uint8.

    Args:
        blocks: headings and rows; a row is a label and its frames (t, h, w, 3) uint8, one per column.
        times: the column labels.
    """
    text, heading = _font(14), _font(18)
    drawn = [
        (title, [(label, [_cell(frame) for frame in frames]) for label, frames in rows])
        for title, rows in blocks
    ]
    all_rows = [row for _, rows in drawn for row in rows]
    widths = [max(cells[column].width for _, cells in all_rows) for column in range(len(times))]
    left = _MARGIN + int(max(text.getlength(label) for label, _ in all_rows)) + _MARGIN
    columns = left + np.cumsum([0, *(width + _GAP for width in widths)])
    heading_height, times_height = 34, 22
    heights = [heading_height + times_height + len(rows) * (_CELL + _GAP) + _MARGIN for _, rows in drawn]
    sheet = Image.new("RGB", (int(columns[-1]) + _MARGIN, _MARGIN + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for title, rows in drawn:
        draw.text((_MARGIN, top), _shortened(title, heading, sheet.width - 2 * _MARGIN), _INK, heading)
        top += heading_height
        for time, column in zip(times, columns, strict=False):
            draw.text((int(column), top), time, _FAINT, text)
        top += times_height
        for label, cells in rows:
            draw.text((left - _MARGIN, top + _CELL // 2), label, _INK, text, anchor="rm")
            for cell, column in zip(cells, columns, strict=False):
                sheet.paste(cell, (int(column), top))
            top += _CELL + _GAP
        top += _MARGIN
    return np.asarray(sheet)


def _cell(frame: Frames) -> Image.Image:
    image = Image.fromarray(frame)
    width = max(1, round(image.width * _CELL / image.height))
    return image.resize((width, _CELL), Image.Resampling.LANCZOS)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans, which covers more scripts than Pillow's own font."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
