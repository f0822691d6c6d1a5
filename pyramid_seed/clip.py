"""A finished clip: frames, and how they came to be."""

from __future__ import annotations

import base64
import html
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .noise import Branch, NoiseLedger
from .presets import Preset
from .runs.video import Frames, frames_digest, write_video


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """What `generate` returns.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        prompt: as given.
        seed: the root seed used, also when none was given.
        branches: units from which on another root seed was used.
        settings: all settings after defaults; sizes are those of the frames.
        noise_device, determinism: as given.
        image_digest: SHA-256 of the first frame that was given, see `api.image_digest`; None without one.
        ledger: every draw of noise.
        latents: (1, C, t, H/s, W/s) float32, normalised.
        text_digests: SHA-256 of the text embeddings.
        source_folder: where the weights came from; None if the pipeline was not loaded by `load_pipeline`.
        environment: what the run ran on.
        load_seconds, seconds: time to load the model, time to generate.
    """

    frames: Frames
    prompt: str
    seed: int
    branches: tuple[Branch, ...]
    settings: Preset
    noise_device: str
    determinism: str
    image_digest: str | None
    ledger: NoiseLedger
    latents: torch.Tensor
    text_digests: dict[str, str]
    source_folder: Path | None
    environment: dict[str, Any]
    load_seconds: float
    seconds: float

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.settings.fps

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the frames, hexadecimal: equal digests, equal clips."""
        return frames_digest(self.frames)

    def save(
        self,
        path: str | Path,
        *,
        scale: int | None = None,
        lossless: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write the clip in the format of the path's ending: .mp4, .gif, .webp, or .png.

        Args:
            path: the file; .png of several frames makes a folder of pictures.
            scale: show every pixel as scale x scale pixels; default: the preset's.
            lossless: keep every bit (.mp4 as RGB h264, .webp).
            overwrite: replace what is there.

        Returns:
            The path.

        Raises:
            FileExistsError: something is there. ValueError: unknown ending, or a size that it cannot hold.
        """
        write_video(
            path,
            self.frames,
            self.fps,
            scale=self.settings.scale if scale is None else scale,
            lossless=lossless,
            overwrite=overwrite,
        )
        return Path(path)

    def __repr__(self) -> str:
        frames, height, width, _ = self.frames.shape
        return (
            f"Clip({self.prompt!r}, seed={self.seed}, {frames} frames of {height}x{width}, "
            f"digest={self.digest[:16]}...)"
        )

    def _repr_html_(self) -> str:
        """Play the clip in a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            data = self.save(Path(folder) / "clip.mp4").read_bytes()
        video = base64.b64encode(data).decode("ascii")
        return (
            f'<video controls loop autoplay muted src="data:video/mp4;base64,{video}"></video>'
            f"<p>{html.escape(self.prompt)}<br>seed {self.seed}, digest {self.digest[:16]}</p>"
        )
