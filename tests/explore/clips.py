"""Clips to compare: random frames, one of them changed, and the golden clips with their manifests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyramid_seed.media.frames import Frames
from pyramid_seed.media.video import write_video
from pyramid_seed.provenance.manifest import manifest_json
from pyramid_seed.record import Record, read_record


def golden_record(name: str) -> Record:
    """A golden clip; all frames of it are kept."""
    return read_record(Path(__file__).parents[1] / "test_golden" / f"{name}.json")


def random_frames() -> Frames:
    """Six frames in which every value may go up by 20 levels."""
    return np.random.default_rng(0).integers(0, 236, (6, 32, 48, 3)).astype(np.uint8)


def changed_in(frames: Frames, frame: int, by: int) -> Frames:
    other = frames.copy()
    other[frame, 5, 7, 1] += by
    return other


def write_golden(path: Path, name: str, *, lossless: bool = False, scale: int = 1) -> Path:
    """A golden clip with its manifest."""
    clip = golden_record(name)
    file = {"ending": ".mp4", "scale": scale, "lossless": lossless}
    comment = manifest_json({**clip.manifest, "file": file})
    write_video(path, clip.frames, 8, comment=comment, lossless=lossless, scale=scale)
    return path
