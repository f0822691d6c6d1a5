"""What a unit is conditioned on: clean past latents that get coarser with age."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..geometry import history_plan


def latent_pyramid(latents: torch.Tensor, num_stages: int) -> tuple[torch.Tensor, ...]:
    """Clean latents (B, C, T, H, W) at the resolution of every stage, coarsest first.

    Each level is the finer one halved by bilinear interpolation (arXiv 2410.05954, section 3.3).
    """
    levels = [latents]
    for _ in range(num_stages - 1):
        frames = levels[0].transpose(1, 2)
        halved = F.interpolate(frames.flatten(0, 1), scale_factor=0.5, mode="bilinear")
        levels.insert(0, halved.unflatten(0, frames.shape[:2]).transpose(1, 2))
    return tuple(levels)


def history_clips(frames: Sequence[tuple[torch.Tensor, ...]], stage: int) -> list[torch.Tensor]:
    """The history of the next unit at one stage, oldest first.

    Args:
        frames: the `latent_pyramid` of every past unit, in order; unit u has u of them.
        stage: the stage to be generated, 0 = coarsest.

    Returns:
        Latents (B, C, t, H_k, W_k); empty for the first unit.
    """
    if not frames:
        return []
    plan = history_plan(len(frames), len(frames[0]), stage)
    return [
        torch.cat([pyramid[clip.stage] for pyramid in frames[clip.start : clip.stop]], dim=2) for clip in plan
    ]
