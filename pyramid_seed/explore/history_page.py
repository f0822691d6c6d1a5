"""The page of a history: curves over its checkpoints, with the bands that each was judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_file
from ..version import __version__
from .bands import FALSE_ALARMS, MIN_EARLIER, WINDOW, Band, bands, departures
from .history import CSV_NAME, Checkpoint
from .measures import MEASURES
from .report import report_template
from .variance import PARTS

PAGE_NAME = "history.html"
WIDTH, HEIGHT, _MARGIN = 600, 120, 8
"""Of a curve, in the units of its SVG."""


@dataclass(frozen=True)
class Curve:
    """Values over the checkpoints, in the coordinates of an SVG.

    Attributes:
        low, high: the range of values that it shows.
        path: the line, interrupted where a value is undefined.
        dots: x and y of each value; None where it is undefined.
        bars: x, y, width and height of each band.
    """

    low: float
    high: float
    path: str
    dots: tuple[tuple[float, float] | None, ...]
    bars: tuple[tuple[float, float, float, float], ...] = ()


def curve(
    values: Sequence[float | None],
    limits: Sequence[Band | None] = (),
    extent: tuple[float, float] | None = None,
) -> Curve:
    """The curve of a measure.

    Args:
        values: one per checkpoint.
        limits: the band that each was expected in; None for too few earlier ones.
        extent: the range to show; default: that of all values and bands.
    """
    shown = [value for value in values if value is not None]
    shown += [end for band in limits if band is not None for end in (band.low, band.high)]
    low, high = extent or (min(shown, default=0.0), max(shown, default=0.0))
    step = WIDTH / max(len(values), 1)

    def height_of(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN), 2)

    dots = tuple(
        None if value is None else (round((place + 0.5) * step, 2), height_of(value))
        for place, value in enumerate(values)
    )
    before = (None, *dots)
    moves = (
        f"{'M' if last is None else 'L'}{dot[0]} {dot[1]}"
        for last, dot in zip(before, dots, strict=False)
        if dot
    )
    bars = tuple(
        (round(place * step, 2), top, round(step, 2), round(height_of(band.low) - top, 2))
        for place, band in enumerate(limits)
        if band is not None
        for top in [height_of(band.high)]
    )
    return Curve(low, high, " ".join(moves), dots, bars)


def write_page(folder: Path, history: Sequence[Checkpoint], sweep: Mapping[str, Any]) -> Path:
    """Write or replace a history's page; returns its path.

    Args:
        folder: the history's.
        history: at least one checkpoint.
        sweep: see `history.check_sweep`.
    """
    expected = [bands([each.values for each in history[:place]]) for place in range(len(history))]
    left = [departures(each.values, limits) for each, limits in zip(history, expected, strict=True)]
    names = [measure.name for measure in MEASURES]
    page = report_template("history.html.jinja").render(
        rows=list(zip(history, expected, left, strict=True)),
        measures=MEASURES,
        curves={
            name: curve([each.values[name] for each in history], [limits.get(name) for limits in expected])
            for name in names
        },
        shares={
            name: {part: curve(_shares(history, name, part), extent=(0, 1)) for part in PARTS}
            for name in names
        },
        size=(WIDTH, HEIGHT),
        sweep=sweep,
        one_in=round(1 / FALSE_ALARMS),
        window=WINDOW,
        min_earlier=MIN_EARLIER,
        csv_name=CSV_NAME,
        version=__version__,
    )
    write_file(folder / PAGE_NAME, page, overwrite=True)
    return folder / PAGE_NAME


def _shares(history: Sequence[Checkpoint], name: str, part: str) -> list[float | None]:
    return [None if (share := each.shares[name]) is None else getattr(share, part) for each in history]
