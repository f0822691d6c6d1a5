"""Clips that stand out among the seeds of a prompt, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .measures import Values

LIMIT = 3.5
"""An outlier's modified z-score is beyond this."""

MIN_SEEDS = 8
"""With fewer seeds only black and frozen frames are reported, no outliers."""

_COUNTS = {"black_frames": "black", "frozen_frames": "frozen"}


def modified_z_scores(values: Sequence[float]) -> NDArray[np.float64]:
    """Distance from the median in robust standard deviations (Iglewicz & Hoaglin 1993).

    z = (x - median) / (1.4826 MAD), where MAD is the median of |x - median|. If more than half of the values
    are equal, the MAD is 0, and the mean of |x - median| replaces it, with the factor 1.2533. Either factor
    makes the divisor the standard deviation of a normal distribution.
    """
    from scipy.stats import median_abs_deviation

    x = np.array(values, dtype=np.float64)
    distances = x - np.median(x)
    mean_distance = np.sqrt(np.pi / 2) * np.abs(distances).mean()
    deviation = median_abs_deviation(x, scale="normal") or mean_distance
    return distances / deviation if deviation else np.zeros_like(x)


def outlier_reasons(clips: Sequence[Values], num_frames: Sequence[int]) -> list[list[str]]:
    """Why each clip of one prompt stands out; the list is empty for a clip that does not.

    Black and frozen frames are always a reason. Any other measure is a reason if its modified z-score among
    the prompt's seeds is beyond `LIMIT` and there are at least `MIN_SEEDS` values.

    Args:
        clips: the measures of each clip, see `measures.measure_clip`.
        num_frames: the number of frames of each clip.
    """
    reasons = [_counted(clip, total) for clip, total in zip(clips, num_frames, strict=True)]
    for name in clips[0] if clips else ():
        defined = [(index, value) for index, clip in enumerate(clips) if (value := clip[name]) is not None]
        if name in _COUNTS or len(defined) < MIN_SEEDS:
            continue
        scores = modified_z_scores([value for _, value in defined])
        for (index, value), score in zip(defined, scores, strict=True):
            if abs(score) > LIMIT:
                side = "high" if score > 0 else "low"
                reasons[index].append(f"{name} {value:.4g} is {side}: {score:+.1f} robust deviations")
    return reasons


def _counted(clip: Mapping[str, float | None], num_frames: int) -> list[str]:
    counts = {word: clip[name] or 0 for name, word in _COUNTS.items()}
    return [f"{count:g} of {num_frames} frames are {word}" for word, count in counts.items() if count]
