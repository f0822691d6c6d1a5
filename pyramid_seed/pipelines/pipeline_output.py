"""What a Pyramid Flow pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from ..choices import DEFAULT_PATH, AttentionPath
from ..noise import NoiseLedger
from .stages import StageDigests


@dataclass(repr=False)
class PyramidFlowPipelineOutput(BaseOutput):
    """Clips and how they were made.

    Attributes:
        frames: for output_type "np" an array (B, T, H, W, 3) float32 in [0, 1]; "pt" a tensor (B, T, 3, H, W)
            float32 in [0, 1]; "pil" a list of lists of images; "uint8" an array (B, T, H, W, 3) uint8;
            "latent" the latents.
        latents: (B, C, t, H/s, W/s) float32, normalised, on the CPU.
        seeds: root seed of each clip; None where `noise` is not a `NoiseStreams`.
        ledgers: the draws of each clip, including those behind the units of a beginning.
        text_digests: SHA-256 of the embeddings that made each clip, as if in one go, see `text.text_digests`.
        stage_digests: for each clip and unit, the SHA-256 of its latents after each stage, see
            `stages.StageDigests`; () for an encoded image, None where a beginning lacks them.
        attention: how attention was computed, see `AttentionPath`.
        interrupted: the run was stopped: there are only finished clips, or finished units of the first.
    """

    frames: Any
    latents: torch.Tensor
    seeds: list[int | None]
    ledgers: list[NoiseLedger]
    text_digests: list[dict[str, str]]
    stage_digests: list[list[StageDigests | None]]
    attention: AttentionPath = DEFAULT_PATH
    interrupted: bool = False

    def __repr__(self) -> str:
        """In one line: which clips they are, without their values."""
        stopped = ", interrupted=True" if self.interrupted else ""
        return f"{type(self).__name__}(seeds={self.seeds}, latents={tuple(self.latents.shape)}{stopped})"
