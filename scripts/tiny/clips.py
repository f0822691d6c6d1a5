"""Clips of the world as tensors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import world


def pixels_of(frames: np.ndarray) -> torch.Tensor:
    """Frames (T, H, W, 3) uint8 to pixels (3, T, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def frames_of(pixels: torch.Tensor) -> np.ndarray:
    """Pixels (3, T, H, W) in [-1, 1] to frames (T, H, W, 3) uint8, rounded."""
    scaled = (pixels.float() * 127.5 + 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def render_seeds(seeds: Iterable[int], num_frames: int = world.NUM_FRAMES) -> torch.Tensor:
    """Clips of the scenes with these seeds, (N, 3, T, 64, 64) float32 in [-1, 1]."""
    return torch.stack([pixels_of(world.render(world.sample_scene(seed), num_frames)) for seed in seeds])
