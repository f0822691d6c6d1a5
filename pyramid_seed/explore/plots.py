"""How plots look: as wide as a page's text, curves told apart by colour-blind readers and in grey print."""

from __future__ import annotations

from typing import Any

WIDTH = 7.0
"""Inches. Plots of this width are printed as they are, so a font of 9 points is one."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
"""Of Okabe and Ito; without their yellows, which are faint on white."""
_LINES = ("-", "--", "-.", ":")


def curve(number: int) -> dict[str, Any]:
    """Colour and line of a plot's curve; the first twelve differ."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _LINES[number % len(_LINES)],
        "linewidth": 1.4,
    }
