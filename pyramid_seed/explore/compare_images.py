"""Two clips compared by eye: videos side by side, and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..extras import check_extra
from ..files import replacing
from ..media.contact_sheet import image_grid
from ..media.frames import Frames, amplified, enlarge
from .compare import FrameDifference, PixelComparison
from .stored import StoredClip, first_unit_made_otherwise, unit_of

_PANEL = 256
_HEADER = 24
_GAP = 4
_TEXT, _GROUND = 235, 40
_MOST_UNITS = 40


def panel_scale(height: int, width: int) -> int:
    """How many times a frame is enlarged: to a width that can be read, and to even sides, as h264 needs."""
    scale = max(1, _PANEL // width)
    return scale if (height * scale) % 2 == 0 == (width * scale) % 2 else 2 * scale


def side_by_side(a: StoredClip, b: StoredClip, gain: int) -> Iterator[Frames]:
    """Images (h, w, 3) of A, B and their difference times `gain`, as far as the shorter clip goes."""
    scale = panel_scale(*a.frames.shape[1:3])
    for index, (left, right) in enumerate(zip(a.frames, b.frames, strict=False)):
        unit = unit_of(index, a, b)
        where = f"frame {index}" if unit is None else f"frame {index}, unit {unit}"
        panels = [
            _panel(left, scale, f"A  {a.path.name}"),
            _panel(right, scale, f"B  {b.path.name}"),
            _panel(amplified(left, right, gain), scale, f"|A - B| x {gain}   {where}"),
        ]
        yield image_grid(panels, len(panels), gap=_GAP, grey=_GROUND)


def amplified_frames(a: StoredClip, b: StoredClip, gain: int) -> Iterator[Frames]:
    """Images (h, w, 3) of the difference times `gain` alone, as far as the shorter clip goes."""
    scale = panel_scale(*a.frames.shape[1:3])
    for left, right in zip(a.frames, b.frames, strict=False):
        yield enlarge(amplified(left, right, gain), scale)


def write_curve(path: Path, comparison: PixelComparison, a: StoredClip, b: StoredClip) -> None:
    """Draw the differences of every frame as a .png: levels, PSNR and SSIM over the frames' index.

    Raises:
        ValueError: matplotlib is missing.
    """
    check_extra("report", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), dpi=100, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    _draw_curves(axes, comparison)
    units = [unit_of(frame.frame, a, b) for frame in comparison.frames]
    _mark_frames(axes, units, comparison.first, first_unit_made_otherwise(a, b))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    title = f"A: {a.path.name}\nB: {b.path.name}"
    axes[0].set_title(title, loc="left", fontsize="medium", parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _draw_curves(axes: Sequence[Any], comparison: PixelComparison) -> None:
    from matplotlib.ticker import MaxNLocator

    levels, ratio, similarity = axes
    frames = comparison.frames
    index = [frame.frame for frame in frames]
    dots = {"marker": "o", "markersize": 3, "linewidth": 1.2}
    levels.plot(index, [frame.largest for frame in frames], color="C3", label="largest", **dots)
    levels.plot(index, [frame.mean for frame in frames], color="C1", label="mean", **dots)
    levels.set_ylabel("|A - B| / levels of 255")
    levels.set_ylim(0, max(1.05 * comparison.farthest.largest, 1))
    finite = [frame.psnr if np.isfinite(frame.psnr) else np.nan for frame in frames]
    ratio.plot(index, finite, color="C0", **dots)
    ratio.set_ylabel("PSNR / dB\n(no point: frames are equal)")
    if comparison.first is None:
        ratio.set_yticks([])
    similarity.plot(index, [frame.ssim for frame in frames], color="C2", **dots)
    similarity.set_ylabel("SSIM\n(1: frames are equal)")
    similarity.ticklabel_format(axis="y", useOffset=False)
    similarity.set_xlabel("frame")
    similarity.set_xlim(-0.5, len(index) - 0.5)
    similarity.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark_frames(
    axes: Sequence[Any],
    units: Sequence[int | None],
    first: FrameDifference | None,
    first_unit: int | None,
) -> None:
    """Lines where units begin, at the first difference, and at the first unit that was made otherwise."""
    for axis in axes:
        axis.grid(axis="y", alpha=0.3)
        for number, start in enumerate(_starts(units)):
            label = "a unit begins" if number == 0 else None
            axis.axvline(start - 0.5, color="0.75", linewidth=0.8, linestyle=":", label=label)
        if first is not None:
            label = f"first difference: frame {first.frame}"
            axis.axvline(first.frame, color="0.3", linewidth=1, linestyle="--", label=label)
        if first_unit is not None:
            label = f"made otherwise: from unit {first_unit} on"
            axis.axvline(units.index(first_unit) - 0.5, color="C4", linewidth=1.2, label=label)


def _starts(units: Sequence[int | None]) -> list[int]:
    """First frames of all units but the first, if these are few enough to be drawn."""
    if len(set(units)) > _MOST_UNITS:
        return []
    return [frame for frame in range(1, len(units)) if units[frame] != units[frame - 1]]


def _panel(frame: Frames, scale: int, title: str) -> Frames:
    """The frame enlarged, under a line of text, which is cut off where it is too long."""
    enlarged = enlarge(frame, scale)
    header = Image.new("L", (enlarged.shape[1], _HEADER), _GROUND)
    ImageDraw.Draw(header).text((4, 4), title, fill=_TEXT, font=ImageFont.load_default(13))
    return np.concatenate([np.asarray(header.convert("RGB")), enlarged])
