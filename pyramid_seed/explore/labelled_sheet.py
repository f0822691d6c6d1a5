"""The contact sheet of a sweep: one row per seed, time in columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..media.frames import Frames
from ..media.lettering import broken, font

_CELL, _GAP, _MARGIN = 96, 2, 16
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 27), (99, 99, 107)
_TEXT, _TITLE, _TITLE_LINE, _TITLE_LINES = 14, 18, 24, 3


def labelled_sheet(
    blocks: Sequence[tuple[str, Sequence[tuple[str, Frames]]]], times: Sequence[str]
) -> Frames:
    """Stack blocks of rows: (H, W, 3) uint8.

    Args:
        blocks: headings and rows; a heading takes at most three lines, and a row is a label and its frames
            (t, h, w, 3) uint8, one per column.
        times: the column labels.
    """
    text = font(_TEXT)
    drawn = [
        (title, [(label, [_cell(frame) for frame in frames]) for label, frames in rows])
        for title, rows in blocks
    ]
    all_rows = [row for _, rows in drawn for row in rows]
    widths = [max(cells[column].width for _, cells in all_rows) for column in range(len(times))]
    left = _MARGIN + int(max(text.getlength(label) for label, _ in all_rows)) + _MARGIN
    columns = left + np.cumsum([0, *(width + _GAP for width in widths)])
    width, times_height = int(columns[-1]) + _MARGIN, 22
    titles = [broken(title, _TITLE, width - 2 * _MARGIN, _TITLE_LINES) for title, _ in drawn]
    heights = [
        len(lines) * _TITLE_LINE + 10 + times_height + len(rows) * (_CELL + _GAP) + _MARGIN
        for lines, (_, rows) in zip(titles, drawn, strict=True)
    ]
    sheet = Image.new("RGB", (width, _MARGIN + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for lines, (_, rows) in zip(titles, drawn, strict=True):
        for line in lines:
            draw.text((_MARGIN, top), line, _INK, font(_TITLE))
            top += _TITLE_LINE
        top += 10
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
