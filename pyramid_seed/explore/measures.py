"""Numbers that describe a clip: how sharp, how busy, how steady it is.

Everything except colour is measured on luma Y', the gamma-coded grey value 0 .. 255 of ITU-R BT.709; a grey
image's luma is its pixel value. OpenCV and scikit-image provide filters, flow and colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..extras import check_extra
from ..geometry import PyramidGeometry
from ..media.frames import Frames, check_frames

Luma = NDArray[np.float32]
Values = dict[str, float | None]
"""A clip's measures by name; None if not defined, as motion is for a single frame."""

MIN_SIDE = 16
"""In pixels: smaller images have no optical flow."""

BLACK_LUMA, BLACK_SHARE = 0.10 * 255, 0.98
"""A frame is black if this share of its pixels is at most this bright (defaults of FFmpeg's blackdetect)."""

FROZEN_LUMA = 0.001 * 255
"""A frame is frozen if its luma differs by less than this from the previous frame, averaged over the pixels
(the default of FFmpeg's freezedetect, -60 dB)."""

_BT709 = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Measure:
    """A measure in words.

    Attributes:
        name, unit: what it is called, and its unit.
        description: what it means, in one line.
        is_signed: whether it can be negative, so that a share of its mean is meaningless.
    """

    name: str
    unit: str
    description: str
    is_signed: bool = False


MEASURES = (
    Measure("sharpness", "levels²", "variance of the Laplacian of luma, mean over the frames"),
    Measure("si", "levels", "spatial information, ITU-T P.910: standard deviation of Sobel, largest frame"),
    Measure("ti", "levels", "temporal information, ITU-T P.910: deviation of frame differences, largest"),
    Measure("flicker", "levels", "change of brightness of the whole image from frame to frame, mean"),
    Measure("motion", "px/frame", "length of the optical flow, mean over pixels and frames"),
    Measure("colour_drift", "ΔE₀₀", "mean colour of a later unit against the first unit, the farthest"),
    Measure("sharpness_drift", "log₂", "sharpness of a later unit against the first, the farthest", True),
    Measure("black_frames", "frames", "frames that are black"),
    Measure("frozen_frames", "frames", "frames equal to the frame before"),
)


def measure_clip(frames: Frames, geometry: PyramidGeometry) -> Values:
    """All `MEASURES` of a clip, by name.

    Args:
        frames: (T, H, W, 3) uint8 RGB, at least 16x16.
        geometry: that of the model that made the clip; it says which frames form a unit.

    Raises:
        ValueError: the frames have another type or size, or the extra `report` is not installed.
    """
    check_extra("report", "skimage", "cv2")
    check_frames(frames)
    if min(frames.shape[1:3]) < MIN_SIDE:
        height, width = frames.shape[1:3]
        raise ValueError(f"frames must be at least {MIN_SIDE}x{MIN_SIDE}, got {height}x{width}")
    y = luma(frames)
    units = [slice(unit.start, unit.stop) for unit in geometry.frames_of_units(len(frames))]
    return {
        "sharpness": sharpness(y),
        "si": spatial_information(y),
        "ti": temporal_information(y),
        "flicker": flicker(y),
        "motion": motion(y),
        "colour_drift": colour_drift([frames[unit] for unit in units]),
        "sharpness_drift": sharpness_drift([y[unit] for unit in units]),
        "black_frames": float(np.count_nonzero(is_black(y))),
        "frozen_frames": float(np.count_nonzero(is_frozen(y))),
    }


def luma(frames: Frames) -> Luma:
    """Luma Y' = 0.2126 R' + 0.7152 G' + 0.0722 B' (ITU-R BT.709, 3.2), full range: (T, H, W), 0 .. 255."""
    return np.stack([(frame @ _BT709).astype(np.float32) for frame in frames])


def differences(y: Luma) -> Iterator[NDArray[np.float64]]:
    """Each frame's luma minus the previous frame's: T - 1 times (H, W)."""
    return (b.astype(np.float64) - a for a, b in pairwise(y))


def sharpness(y: Luma) -> float:
    """Variance of the Laplacian over the pixels, averaged over the frames; levels squared.

    The Laplacian is the sum of the four neighbours minus four times the pixel, taken inside the border
    (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy"). White noise of variance v
    gives 20 v.
    """
    import cv2

    edges = (cv2.Laplacian(frame.astype(np.float64), cv2.CV_64F)[1:-1, 1:-1] for frame in y)
    return float(np.mean([edge.var() for edge in edges]))


def spatial_information(y: Luma) -> float:
    """SI = max over time of std over space of the Sobel magnitude (ITU-T P.910); levels.

    The outermost pixels are left out, since the filter lacks neighbours there.
    """
    import cv2

    def deviation(frame: Luma) -> float:
        exact = frame.astype(np.float64)
        across, down = (cv2.Sobel(exact, cv2.CV_64F, *order)[1:-1, 1:-1] for order in ((1, 0), (0, 1)))
        return float(np.hypot(across, down).std())

    return max(deviation(frame) for frame in y)


def temporal_information(y: Luma) -> float | None:
    """TI = max over time of std over space of the frame difference (ITU-T P.910); levels."""
    return max((float(difference.std()) for difference in differences(y)), default=None)


def flicker(y: Luma) -> float | None:
    """Mean change of the whole image's brightness from frame to frame; levels.

    A frame's change is the median over the pixels of its difference: something that moves or grows over less
    than half of the image leaves it at 0, although it changes the image's mean.
    """
    medians = [abs(np.median(difference)) for difference in differences(y)]
    return float(np.mean(medians)) if medians else None


def motion(y: Luma) -> float | None:
    """Length of the optical flow from frame to frame, mean over pixels and frames; pixels per frame.

    Polynomial expansion (Farnebäck 2003, "Two-frame motion estimation based on polynomial expansion") hardly
    reacts to a video codec's noise on plain areas, unlike OpenCV's dense inverse search. The window has 15
    pixels: the surroundings of a moving edge count up to that distance.
    """
    if len(y) == 1:
        return None
    import cv2

    # Each level has half the size; 3 levels, 3 iterations; neighbourhoods of 5 pixels and their smoothing.
    rule = (0.5, 3, 15, 3, 5, 1.1, 0)
    flows = (cv2.calcOpticalFlowFarneback(a, b, None, *rule) for a, b in pairwise(y.round().astype(np.uint8)))
    return float(np.mean([np.hypot(flow[..., 0], flow[..., 1]).mean() for flow in flows]))


def colour_drift(units: Sequence[Frames]) -> float | None:
    """Largest colour difference between the first unit and a later one: CIEDE2000 of their mean L*a*b*.

    Pixels are taken as sRGB under D65. A difference of about 1 is just visible side by side.
    """
    if len(units) == 1:
        return None
    from skimage.color import deltaE_ciede2000

    first, *later = (mean_lab(unit) for unit in units)
    return max(float(deltaE_ciede2000(first, colour)) for colour in later)


def mean_lab(frames: Frames) -> NDArray[np.float64]:
    """Mean CIE L*a*b* colour of the pixels: (3,)."""
    from skimage.color import rgb2lab  # OpenCV's table is off by up to 0.2

    return np.mean([rgb2lab(frame).mean(axis=(0, 1)) for frame in frames], axis=0)


def sharpness_drift(units: Sequence[Luma]) -> float | None:
    """log2 of a later unit's sharpness over the first unit's, taking the one farthest from 0.

    -1 means half as sharp. None for a single unit, or if a unit has no sharpness at all.
    """
    values = np.array([sharpness(unit) for unit in units])
    if len(values) == 1 or not values.all():
        return None
    ratios = np.log2(values[1:] / values[0])
    return float(ratios[np.abs(ratios).argmax()])


def is_black(y: Luma) -> NDArray[np.bool_]:
    """Which frames are black (`BLACK_LUMA`, `BLACK_SHARE`): (T,)."""
    return np.array([(frame <= BLACK_LUMA).mean() >= BLACK_SHARE for frame in y])


def is_frozen(y: Luma) -> NDArray[np.bool_]:
    """Which frames after the first are frozen (`FROZEN_LUMA`): (T - 1,)."""
    return np.array([np.abs(change).mean() < FROZEN_LUMA for change in differences(y)], dtype=np.bool_)
