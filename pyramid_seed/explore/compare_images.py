"""Two clips compared by eye: videos side by side, and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..extras import check_extra
from ..files import replacing
from ..media.contact_sheet import image_grid
from ..media.frames import Frames, amplified, enlarge
from ..media.lettering import broken, font
from .compare import ComparedClips, FrameDifference, PixelComparison
from .plots import WIDTH, curve

_PANEL = 256
_HEADER = 24
_GAP = 4
_TEXT, _GROUND = 235, 40
_MOST_UNITS = 40


def panel_scale(height: int, width: int) -> int:
    """The factor that enlarges a frame to a readable width, and to the even sides that h264 needs."""
    scale = max(1, _PANEL // width)
    return scale if (height * scale) % 2 == 0 == (width * scale) % 2 else 2 * scale


def side_by_side(clips: ComparedClips, gain: int) -> Iterator[Frames]:
    """Images (h, w, 3) of A, B and their difference times `gain`, up to the end of the shorter clip."""
    a, b = clips.a, clips.b
    scale = panel_scale(*a.frames.shape[1:3])
    for index, (left, right) in enumerate(zip(a.frames, b.frames, strict=False)):
        unit = clips.unit_of(index)
        where = f"frame {index}" if unit is None else f"frame {index}, unit {unit}"
        panels = [
            _panel(left, scale, f"A  {a.path.name}"),
            _panel(right, scale, f"B  {b.path.name}"),
            _panel(amplified(left, right, gain), scale, f"|A - B| x {gain}   {where}"),
        ]
        yield image_grid(panels, len(panels), gap=_GAP, grey=_GROUND)


def amplified_frames(clips: ComparedClips, gain: int) -> Iterator[Frames]:
    """Images (h, w, 3) of the difference times `gain` alone, up to the end of the shorter clip."""
    scale = panel_scale(*clips.a.frames.shape[1:3])
    for left, right in zip(clips.a.frames, clips.b.frames, strict=False):
        yield enlarge(amplified(left, right, gain), scale)


def write_curve(path: Path, clips: ComparedClips) -> None:
    """Draw the differences of every frame as a .png: levels, PSNR and SSIM against the frame index.

    Raises:
        ValueError: matplotlib is missing.
    """
    check_extra("report", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 6.5), dpi=150, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    _draw_curves(axes, clips.pixels)
    units = [clips.unit_of(frame.frame) for frame in clips.pixels.frames]
    _mark_frames(axes, units, clips.pixels.first, clips.first_unit_made_otherwise)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    title = f"A: {clips.a.path.name}\nB: {clips.b.path.name}"
    axes[0].set_title(title, loc="left", fontsize="medium", parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _draw_curves(axes: Sequence[Any], comparison: PixelComparison) -> None:
    from matplotlib.ticker import MaxNLocator

    levels, ratio, similarity = axes
    frames = comparison.frames
    index = [frame.frame for frame in frames]
    dots = {"marker": "o", "markersize": 3}
    levels.plot(index, [frame.largest for frame in frames], label="largest", **curve(0), **dots)
    levels.plot(index, [frame.mean for frame in frames], label="mean", **curve(1), **dots)
    levels.set_ylabel("|A - B| / levels of 255")
    levels.set_ylim(0, max(1.05 * comparison.farthest.largest, 1))
    finite = [frame.psnr if np.isfinite(frame.psnr) else np.nan for frame in frames]
    ratio.plot(index, finite, **curve(0), **dots)
    ratio.set_ylabel("PSNR / dB\n(no point: frames are equal)")
    if comparison.first is None:
        ratio.set_yticks([])
    similarity.plot(index, [frame.ssim for frame in frames], **curve(0), **dots)
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
    """Lines where units begin, at the first difference, and at the first unit that was made differently."""
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
            axis.axvline(units.index(first_unit) - 0.5, color=curve(3)["color"], linewidth=1.4, label=label)


def _starts(units: Sequence[int | None]) -> list[int]:
    """First frames of all units except the first, if there are few enough to draw."""
    if len(set(units)) > _MOST_UNITS:
        return []
    return [frame for frame in range(1, len(units)) if units[frame] != units[frame - 1]]


def _panel(frame: Frames, scale: int, title: str) -> Frames:
    """The frame enlarged, under a line of text that is cut off if too long."""
    enlarged = enlarge(frame, scale)
    header = Image.new("L", (enlarged.shape[1], _HEADER), _GROUND)
    (line,) = broken(title, 13, header.width - 8, 1)
    ImageDraw.Draw(header).text((4, 4), line, fill=_TEXT, font=font(13))
    return np.concatenate([np.asarray(header.convert("RGB")), enlarged])
