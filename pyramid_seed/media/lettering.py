"""Text in images: a font, and prompts broken into lines."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from ..texts import printable


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A sans-serif font of so many pixels.

    It is Matplotlib's DejaVu Sans where that is installed: it covers more scripts than Pillow's own.
    """
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)


def broken(text: str, size: int, width: float, most: int) -> list[str]:
    """Break a text into at most `most` lines of `width` pixels, the last one cut off where it is too long.

    Words that are wider than a line, and scripts without spaces, are broken anywhere.
    """
    measure = font(size).getlength
    rest = printable(" ".join(text.split()))
    lines: list[str] = []
    while rest and len(lines) < most:
        is_last = len(lines) == most - 1
        end = "…" if is_last and measure(rest) > width else ""
        count = _fitting(rest, width - measure(end), size)
        space = rest.rfind(" ", 1, count + 1)
        if not is_last and 0 < space < count < len(rest):
            count = space
        lines.append(rest[:count].rstrip() + (end if count < len(rest) else ""))
        rest = rest[count:].lstrip()
    return lines


def _fitting(text: str, width: float, size: int) -> int:
    """How many characters from the start fit into a width, at least one."""
    low, high = 1, min(len(text), max(1, int(width)))  # no character is narrower than a pixel
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font(size).getlength(text[:middle]) <= width else (low, middle - 1)
    return low
