"""Structural similarity of two images."""

from __future__ import annotations

import numpy as np

from ..extras import check_extra
from ..media.frames import Frames

MIN_SIDE = 11
"""In pixels: the window of SSIM."""


def ssim(a: Frames, b: Frames) -> float:
    """Structural similarity, 1 for equal images (Wang et al. 2004), averaged over the three channels.

    Computed by scikit-image with the paper's Gaussian window of 11x11 pixels (sigma 1.5).

    Args:
        a, b: (H, W, 3) uint8, at least 11x11.

    Raises:
        ValueError: the images are smaller, or scikit-image is missing.
    """
    check_extra("report", "skimage")
    if min(a.shape[:2]) < MIN_SIDE:
        raise ValueError(
            f"SSIM needs images of at least {MIN_SIDE}x{MIN_SIDE}, got {a.shape[0]}x{a.shape[1]}"
        )
    if np.array_equal(a, b):
        return 1.0
    from skimage.metrics import structural_similarity

    similarity = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    return float(similarity)
