"""Clips to be written, and measures of what comes back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def smooth_clip(num_frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """Saturated colours that change slowly in space and time."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    waves = [np.sin(x / 20 + t / 6), np.cos(y / 15 - t / 5), np.sin((x + y) / 25 + t / 4)]
    return (127.5 + 127.5 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def noise_clip(num_frames: int = 4, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def moving(num_frames=17, height=32, width=48) -> np.ndarray:
    """A pattern that moves, with noise, so that the encoder has something to do."""
    axes = (np.arange(num_frames), np.arange(height), np.arange(width), np.arange(3))
    t, y, x, channel = np.meshgrid(*axes, indexing="ij")
    clean = 127 + 90 * np.sin((x + 3 * t) / 7) * np.cos(y / (5 + channel))
    return (clean + np.random.default_rng(0).normal(0, 6, clean.shape)).clip(0, 255).astype(np.uint8)


def chunks(frames: np.ndarray, factor: int = 8) -> list[np.ndarray]:
    """Frames as they are decoded: the first alone, then those of a latent frame each."""
    return [frames[:1], *(frames[start : start + factor] for start in range(1, len(frames), factor))]
