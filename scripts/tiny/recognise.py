"""Read shape, colour, motion, background, size and speed from pixels, by geometry and colour alone, without a
model.

Made for clips of `world.py` and for a generator's imperfect versions of them: some blur, noise, tint, a stray
spot. What is in doubt is None: between two names, far from any, or beside a second object.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from world import BACKGROUND_RGB, CANVAS, COLOUR_RGB, SHAPES, SIZES, SPEEDS, SceneSpec, coverage

Floats = NDArray[np.float32]
Reals = NDArray[np.floating[Any]]

ATTRIBUTES: Final = ("background", "colour", "motion", "shape")
FINER_ATTRIBUTES: Final = ("size", "speed")

_GROWING: Final = ("grow", "shrink")

# Colours are distances in RGB, 0 to 255.
_GROUND_TOLERANCE: Final = 50.0  # from the named background, in every frame; the three are 220 apart
_GROUND_SPREAD: Final = 40.0  # median distance of the border's pixels from their median, in every frame
_NEAR_GROUND: Final = 40.0  # what is closer to the ground than this is ground
_COLOUR_TOLERANCE: Final = 110.0  # from the named colour: grey, pink and brown have no name
_OTHER: Final = 0.5  # as far from the ground as this part of the object's colour, a pixel shows something
# The edge between ground and object, as the part of the way from one colour to the other.
_EDGE: Final = (0.25, 0.75)
# An object is one compact blob that looks a bit like some shape, in most frames.
_AREA: Final = (0.008, 0.5)  # part of the frame
_WINDOW: Final = 2.2  # radius around the blob's median within which it is measured, in radii of its area
_ALONE: Final = 0.85  # part of all that the frame shows, in any colour, that is the blob
_BLOB_IOU: Final = 0.5
_BLOB_FRAMES: Final = 0.75
_SHAPE_IOU: Final = 0.75
_SHAPE_MARGIN: Final = 0.1  # lead of the best shape over the next at which there is no doubt left
# Least confidence of what is named. Half way between circle and square, the lead of one over the other
# differs by 0.012 (standard deviation) from place to place and size to size: less than that says nothing.
_SURE: Final = 0.3
_SURE_SHAPE: Final = 0.012 / _SHAPE_MARGIN
# Least change over the clip, on a 64x64 canvas; the slowest rendered ones have 8 and 2.9.
_MIN_TRAVEL: Final = 4.0
_MIN_GROWTH: Final = 1.6
# Between the world's small, medium and large (radius), and its slow, normal and quick (per frame).
_SIZE_LIMITS: Final = (10.5, 14.75)
_SPEED_LIMITS: Final = (0.75, 1.25)
_GROWTH_LIMITS: Final = (0.26, 0.43)
_SPEED_SPAN: Final = 8  # frames over which a speed is measured
_GROWTH_SPAN: Final = 12


@dataclass(frozen=True)
class Recognition:
    """What a clip shows; None for what cannot be told.

    `confidence` has a value in [0, 1] for every one of ATTRIBUTES, 0 where the attribute is None.
    """

    shape: str | None
    colour: str | None
    motion: str | None
    background: str | None
    size: str | None
    speed: str | None
    confidence: Mapping[str, float]

    def agrees_with(self, scene: SceneSpec) -> dict[str, bool]:
        """For every one of ATTRIBUTES and FINER_ATTRIBUTES, whether it is the scene's."""
        names = (*ATTRIBUTES, *FINER_ATTRIBUTES)
        return {name: getattr(self, name) == getattr(scene, name) for name in names}


@dataclass(frozen=True)
class _Blob:
    """The object by frame: centroid and radius of its area in pixels (T,), IoU with each shape (T, S)."""

    x: Reals
    y: Reals
    radius: Reals
    iou: Reals
    valid: NDArray[np.bool_]


def recognise(frames: NDArray[np.uint8]) -> Recognition:
    """Recognise a clip (T, H, W, 3), uint8 RGB, H and W about equal and at least 16.

    A single frame (T = 1) has no motion. Raises ValueError for another shape or dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"frames must be uint8 of shape (T, H, W, 3), got {frames.dtype} of {frames.shape}")
    if min(frames.shape[1:3]) < 16:
        raise ValueError(f"frames must be at least 16x16 pixels, got {frames.shape[1]}x{frames.shape[2]}")
    pixels = frames.astype(np.float32)
    grounds, spread = _grounds(pixels)
    background, background_confidence = _name_background(grounds, spread)
    shape = colour = motion = size = speed = None
    shape_confidence = colour_confidence = motion_confidence = 0.0
    ink = _ink(pixels, grounds)
    if ink is not None:
        blob = _blob(pixels, grounds, ink)
        if blob.valid.mean() >= _BLOB_FRAMES:
            shape, shape_confidence = _name_shape(blob)
            colour, colour_confidence = _name_colour(ink)
            scale = CANVAS / min(frames.shape[1:3])
            motion, motion_confidence = _name_motion(blob, scale)
            if shape is not None:
                scale_of_shape = scale * float(np.sqrt(np.pi / _unit_area(shape)))
                size = _name_size(blob, motion, scale_of_shape)
                speed = _name_speed(blob, motion, scale_of_shape if motion in _GROWING else scale)
    return Recognition(
        shape=shape,
        colour=colour,
        motion=motion,
        background=background,
        size=size,
        speed=speed,
        confidence={
            "shape": shape_confidence,
            "colour": colour_confidence,
            "motion": motion_confidence,
            "background": background_confidence,
        },
    )


def centres(frames: NDArray[np.uint8]) -> Reals | None:
    """Centroid of the object in every frame, (T, 2) as x and y in pixels; None unless all frames show one."""
    pixels, grounds, ink = _seen(frames)
    if ink is None:
        return None
    blob = _blob(pixels, grounds, ink)
    return np.stack([blob.x, blob.y], axis=-1) if blob.valid.all() else None


def edge_width(frames: NDArray[np.uint8]) -> float | None:
    """Width of the object's edge in pixels, of a linear ramp that has as many pixels half way between object
    and ground, as if the object were a circle; None where nothing is to be seen.

    A measure of sharpness for comparisons: a rendered circle has 1, a star more, since its edge is longer.
    """
    pixels, grounds, ink = _seen(frames)
    if ink is None:
        return None
    low, high = _EDGE
    part = _part(pixels, grounds, ink)
    radius = np.sqrt((part > (low + high) / 2).sum((1, 2)) / np.pi)
    between = ((part > low) & (part < high)).sum((1, 2)) / (high - low)
    return float(np.mean(between / np.maximum(2 * np.pi * radius, 1.0)))


def ground_error(frames: NDArray[np.uint8], background: str) -> float:
    """Root mean square distance of the ground's pixels from the named background, in levels of 0 to 255 a
    channel. A pattern, a tint and a trail of the object all count; the object with its edge does not, unless
    nothing else is to be seen."""
    pixels, _, ink = _seen(frames)
    named = np.broadcast_to(np.array(BACKGROUND_RGB[background], np.float32), (len(pixels), 3))
    error = pixels - named[:, None, None]
    if ink is not None:
        is_object = np.pad(_part(pixels, named, ink) >= _EDGE[0], ((0, 0), (1, 1), (1, 1)))
        is_ground = ~sliding_window_view(is_object, (3, 3), axis=(1, 2)).any((-1, -2))
        error = error[is_ground] if is_ground.any() else error
    return float(np.sqrt(np.mean(error**2)))


def _seen(frames: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats | None]:
    """Pixels as float32, the ground of each frame, and the object's colour if there is an object."""
    pixels = frames.astype(np.float32)
    grounds, _ = _grounds(pixels)
    return pixels, grounds, _ink(pixels, grounds)


def _grounds(pixels: Floats) -> tuple[Floats, float]:
    """Median colour (T, 3) of each frame's border, two pixels wide, and the greatest spread around it."""
    rim = np.ones(pixels.shape[1:3], dtype=np.bool_)
    rim[2:-2, 2:-2] = False
    border = pixels[:, rim]
    grounds = np.median(border, axis=1)
    distance = np.linalg.norm(border - grounds[:, None], axis=-1)
    return grounds, float(np.median(distance, axis=1).max())


def _ink(pixels: Floats, grounds: Floats) -> Floats | None:
    """Colour of what differs most from the ground, over the whole clip, or None if nothing does."""
    distance = np.linalg.norm(pixels - grounds[:, None, None], axis=-1)
    threshold = 0.7 * float(np.percentile(distance, 99))
    if threshold < _NEAR_GROUND:
        return None
    ink: Floats = np.median(pixels[distance > threshold], axis=0)
    return ink


def _object_part(pixels: Floats, grounds: Floats, ink: Floats) -> Floats:
    """How much of each pixel is object, (T, H, W) in [0, 1], the edge steepened against blur and noise."""
    low, high = _EDGE
    steep: Floats = np.clip((_part(pixels, grounds, ink) - low) / (high - low), 0.0, 1.0)
    return steep


def _part(pixels: Floats, grounds: Floats, ink: Floats) -> Floats:
    """Place of each pixel (T, H, W) on the way from the ground's colour, 0, to the object's, 1."""
    contrast = ink - grounds
    length = np.maximum((contrast**2).sum(-1), _NEAR_GROUND**2)
    part: Floats = np.einsum("thwc,tc->thw", pixels - grounds[:, None, None], contrast)
    return part / length[:, None, None]


def _shown(pixels: Floats, grounds: Floats, ink: Floats) -> Reals:
    """Pixels (T,) that are clearly not ground, of whatever colour."""
    distance = np.linalg.norm(pixels - grounds[:, None, None], axis=-1)
    contrast = np.linalg.norm(ink - grounds, axis=-1)
    count: Reals = (distance > _OTHER * contrast[:, None, None]).sum((1, 2)).astype(np.float32)
    return count


def _blob(pixels: Floats, grounds: Floats, ink: Floats) -> _Blob:
    part = _object_part(pixels, grounds, ink)
    height, width = part.shape[1:]
    y = (np.arange(height, dtype=np.float32) + 0.5)[None, :, None]
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, None, :]
    reach = _WINDOW * np.sqrt(part.sum((1, 2)) / np.pi)[:, None, None]
    near_x = np.abs(x - _median_index(part.sum(1))[:, None, None]) <= reach
    near_y = np.abs(y - _median_index(part.sum(2))[:, None, None]) <= reach
    part = part * (near_x & near_y)

    area = np.maximum(part.sum((1, 2)), 1e-6)
    centre_x = (part * x).sum((1, 2)) / area
    centre_y = (part * y).sum((1, 2)) / area
    offset_x, offset_y = x - centre_x[:, None, None], y - centre_y[:, None, None]
    ious = []
    for shape in SHAPES:
        template = coverage(shape, offset_x, offset_y, np.sqrt(area / _unit_area(shape))[:, None, None])
        union = np.maximum(np.maximum(part, template).sum((1, 2)), 1e-6)
        ious.append(np.minimum(part, template).sum((1, 2)) / union)
    iou = np.stack(ious, axis=-1)
    in_frame = area / (height * width)
    sized = (in_frame >= _AREA[0]) & (in_frame <= _AREA[1])
    is_alone = area >= _ALONE * _shown(pixels, grounds, ink)
    valid = sized & is_alone & (iou.max(-1) >= _BLOB_IOU)
    return _Blob(centre_x, centre_y, np.sqrt(area / np.pi), iou, valid)


def _median_index(weights: Floats) -> Floats:
    """Position (T,) of the weighted median along the last axis of (T, N)."""
    running = weights.cumsum(-1)
    index: Floats = (running < running[:, -1:] / 2).sum(-1).astype(np.float32) + np.float32(0.5)
    return index


@cache
def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1, measured on a fine grid so that only `world.coverage` knows the shapes."""
    fine = 200
    grid = (np.arange(-2 * fine, 2 * fine, dtype=np.float32) + 0.5) / fine
    return float(coverage(shape, grid[None, :], grid[:, None], np.ones((), np.float32), fine).sum()) / fine**2


def _name_background(grounds: Floats, spread: float) -> tuple[str | None, float]:
    distance = {
        name: float(np.linalg.norm(grounds - np.array(rgb), axis=-1).max())
        for name, rgb in BACKGROUND_RGB.items()
    }
    name = min(distance, key=distance.__getitem__)
    confidence = 1.0 - max(distance[name] / _GROUND_TOLERANCE, spread / _GROUND_SPREAD)
    return (name, confidence) if confidence > 0.0 else (None, 0.0)


def _name_colour(ink: Floats) -> tuple[str | None, float]:
    """Nearest colour by hue, which survives a loss of contrast that would turn orange to red in RGB."""
    distance = {name: abs((_hue(ink) - _hue(rgb) + 0.5) % 1.0 - 0.5) for name, rgb in COLOUR_RGB.items()}
    nearest, second = sorted(distance, key=distance.__getitem__)[:2]
    if float(np.linalg.norm(ink - COLOUR_RGB[nearest])) > _COLOUR_TOLERANCE:
        return None, 0.0
    return _if_sure(nearest, 1.0 - distance[nearest] / distance[second])


def _hue(rgb: Floats | tuple[int, int, int]) -> float:
    red, green, blue = (float(value) / 255 for value in rgb)
    return colorsys.rgb_to_hsv(red, green, blue)[0]


def _name_shape(blob: _Blob) -> tuple[str | None, float]:
    scores = blob.iou[blob.valid].mean(0)
    order = np.argsort(scores)
    best, second = float(scores[order[-1]]), float(scores[order[-2]])
    if best < _SHAPE_IOU:
        return None, 0.0
    return _if_sure(SHAPES[int(order[-1])], min(1.0, (best - second) / _SHAPE_MARGIN), _SURE_SHAPE)


def _name_motion(blob: _Blob, scale: float) -> tuple[str | None, float]:
    """The greatest change along a least-squares line, each kind measured in its own smallest sure amount."""
    times = np.flatnonzero(blob.valid).astype(np.float64)
    if len(times) < 2:
        return None, 0.0
    track = np.stack([blob.x, blob.y, blob.radius], axis=-1)[blob.valid].astype(np.float64) * scale
    centred = times - times.mean()
    change = centred @ track / (centred @ centred) * (len(blob.valid) - 1)
    right, down, growth = (float(value) for value in change)
    amounts = {
        ("right", "left"): right / _MIN_TRAVEL,
        ("down", "up"): down / _MIN_TRAVEL,
        ("grow", "shrink"): growth / _MIN_GROWTH,
    }
    best, second = sorted(amounts, key=lambda pair: abs(amounts[pair]), reverse=True)[:2]
    if abs(amounts[best]) < 1.0:
        return None, 0.0
    return _if_sure(best[amounts[best] < 0], 1.0 - abs(amounts[second] / amounts[best]))


def _if_sure(name: str, confidence: float, least: float = _SURE) -> tuple[str | None, float]:
    return (name, confidence) if confidence >= least else (None, 0.0)


def _name_size(blob: _Blob, motion: str | None, scale: float) -> str:
    """By the radius of the shape; `scale` turns the radius of its area into that on the canvas."""
    if motion in _GROWING:
        return "medium"
    return _named(float(np.median(blob.radius[blob.valid])) * scale, _SIZE_LIMITS, SIZES)


def _name_speed(blob: _Blob, motion: str | None, scale: float) -> str | None:
    """By the greatest change over a few frames: an object may rest for most of a clip."""
    times = np.arange(len(blob.valid))
    span = min(_GROWTH_SPAN if motion in _GROWING else _SPEED_SPAN, len(times) - 1)
    if motion is None or span < 1:
        return None
    track = {"right": blob.x, "left": blob.x, "up": blob.y, "down": blob.y}.get(motion, blob.radius)
    track = np.interp(times, times[blob.valid], track[blob.valid])
    pace = float(np.abs(track[span:] - track[:-span]).max()) / span * scale
    return _named(pace, _GROWTH_LIMITS if motion in _GROWING else _SPEED_LIMITS, SPEEDS)


def _named(value: float, limits: tuple[float, float], names: tuple[str, str, str]) -> str:
    return names[sum(value > limit for limit in limits)]
