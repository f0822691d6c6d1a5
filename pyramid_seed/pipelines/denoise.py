"""The autoregressive sampler: units, stages, steps, as plain functions over plain values.

One function per equation of Pyramidal Flow Matching (arXiv 2410.05954). Latents are (1, C, 1, H, W) for one
unit and stay in float32 between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from ..geometry import LatentShape
from ..noise import NoiseKey, NoiseSource, block_noise, initial_pyramid
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler, RenoiseCoefficients
from .history import history_clips, latent_pyramid
from .memory import contiguous_copy


class VelocityModel(Protocol):
    """The transformer with the text of one clip, whose velocities it predicts."""

    def __call__(
        self, latents: torch.Tensor, history: list[torch.Tensor], timestep: torch.Tensor
    ) -> torch.Tensor: ...

    def start_unit(self, guidance_scale: float) -> None:
        """Use this guidance scale from now on."""
        ...

    def start_stage(self, num_steps: int) -> None:
        """Drop what was cached for other shapes; `num_steps` steps follow."""
        ...


@dataclass(frozen=True)
class Place:
    """Where in a clip a step is; `step` counts within the stage."""

    unit: int
    stage: int
    step: int


@dataclass(frozen=True)
class UnitSettings:
    """How one unit is generated.

    Attributes:
        num_inference_steps: Euler steps of each stage, coarsest first.
        guidance_scale: weight of classifier-free guidance; at most 1 means none.
    """

    num_inference_steps: tuple[int, ...]
    guidance_scale: float


OnStep = Callable[[Place, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Called after each step with its place, timestep and latents; returns the latents to continue with, or None
to stop the run."""


def guide(negative: torch.Tensor, positive: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance (arXiv 2207.12598, equation 6, in the form of diffusers)."""
    return negative + guidance_scale * (positive - negative)


def guidance_schedule(
    num_units: int,
    guidance_scale: float,
    video_guidance_scale: float,
    guidance_decay: float | None,
    min_guidance_scale: float,
) -> tuple[float, ...]:
    """Guidance scale of every unit.

    Without a decay, the first unit has `guidance_scale` and the others `video_guidance_scale`. With one, unit
    u has max(guidance_scale - guidance_decay * u, min_guidance_scale): the original's linear guidance.
    """
    if guidance_decay is None:
        return (guidance_scale, *[video_guidance_scale] * (num_units - 1))
    return tuple(max(guidance_scale - guidance_decay * unit, min_guidance_scale) for unit in range(num_units))


def upsample(latents: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour doubling of rows and columns, (1, C, T, H, W) to (1, C, T, 2H, 2W)."""
    return F.interpolate(latents, scale_factor=(1, 2, 2), mode="nearest")


def renoise(
    latents: torch.Tensor, coefficients: RenoiseCoefficients, white_noise: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Enter the next stage: enlarge, rescale, add block noise (arXiv 2410.05954, equation 15).

    `white_noise` has the size of the new stage.
    """
    noise = block_noise(white_noise, gamma)
    return coefficients.upsample_scale * upsample(latents) + coefficients.noise_scale * noise


@dataclass(frozen=True)
class StepCheck:
    """Whether the latents after a step are finite: a bool flag of shape (), on the device of the latents."""

    place: Place
    is_finite: torch.Tensor


def check_finite(checks: Sequence[StepCheck]) -> None:
    """Read the flags of a unit's steps from the device, all at once.

    Raises:
        FloatingPointError: latents were not finite; the message names the first such unit, stage and step.
    """
    flags = torch.stack([check.is_finite for check in checks]).tolist()
    for check, is_finite in zip(checks, flags, strict=True):
        if not is_finite:
            place = check.place
            raise FloatingPointError(
                f"latents are not finite after unit {place.unit}, stage {place.stage}, step {place.step}; "
                "use dtype float32 or bfloat16, or a lower guidance_scale"
            )


def denoise_stage(
    latents: torch.Tensor,
    history: list[torch.Tensor],
    velocity_model: VelocityModel,
    scheduler: PyramidFlowMatchEulerDiscreteScheduler,
    unit: int,
    stage: int,
    num_inference_steps: int,
    on_step: OnStep,
    checks: list[StepCheck],
) -> torch.Tensor | None:
    """The Euler steps of one stage; None when `on_step` stops the run.

    A check of each step is appended to `checks`, so that nothing is read from the device here.
    """
    scheduler.set_timesteps(num_inference_steps, stage)
    velocity_model.start_stage(num_inference_steps)
    timesteps = scheduler.timesteps.to(latents.device)
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = velocity_model(latents, history, timesteps[step])
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        place = Place(unit, stage, step)
        checks.append(StepCheck(place, torch.isfinite(latents).all()))
        replaced = on_step(place, timestep, latents)
        if replaced is None:
            return None
        latents = replaced
    return latents


def denoise_unit(
    unit: int,
    past: Sequence[tuple[torch.Tensor, ...]],
    velocity_model: VelocityModel,
    scheduler: PyramidFlowMatchEulerDiscreteScheduler,
    noise: NoiseSource,
    shape: LatentShape,
    device: torch.device,
    settings: UnitSettings,
    on_step: OnStep,
) -> tuple[torch.Tensor, ...] | None:
    """Climb the pyramid for one unit.

    Args:
        unit: its index in the clip.
        past: latent pyramids of the units before it.
        velocity_model: the transformer with its text.
        scheduler: gives stages, timesteps and renoise coefficients.
        noise: supplies ("initial", unit, 0) and ("renoise", unit, stage).
        shape: of the unit's latents.
        device: where to compute.
        settings: steps and guidance.
        on_step: see `OnStep`.

    Returns:
        Latents at the end of each stage, float32, coarsest first; the last are the unit's clean latents
        (1, C, 1, H, W). None when stopped.

    Raises:
        FloatingPointError: see `check_finite`.
    """
    velocity_model.start_unit(settings.guidance_scale)
    checks: list[StepCheck] = []
    ends: list[torch.Tensor] = []
    initial = noise.draw(NoiseKey("initial", unit, 0), shape.as_tuple()).to(device)
    latents = initial_pyramid(initial, shape.num_stages)[0]
    for stage in range(shape.num_stages):
        if stage > 0:
            white_noise = noise.draw(NoiseKey("renoise", unit, stage), shape.stage(stage).as_tuple()).to(
                device
            )
            latents = renoise(
                latents, scheduler.renoise_coefficients(stage), white_noise, scheduler.config.gamma
            )
        denoised = denoise_stage(
            latents,
            history_clips(past, stage),
            velocity_model,
            scheduler,
            unit,
            stage,
            settings.num_inference_steps[stage],
            on_step,
            checks,
        )
        if denoised is None:
            return None
        latents = denoised
        ends.append(latents)
    check_finite(checks)
    return tuple(ends)


def denoise_clip(
    first_units: torch.Tensor | None,
    velocity_model: VelocityModel,
    scheduler: PyramidFlowMatchEulerDiscreteScheduler,
    noise: NoiseSource,
    shape: LatentShape,
    device: torch.device,
    settings: Sequence[UnitSettings],
    on_step: OnStep,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Generate a clip unit by unit.

    Args:
        first_units: latents (1, C, k, H, W) of the first k units if known (an image, or the beginning of a
            clip); else None.
        settings: one entry per unit of the whole clip, including the first ones.
        velocity_model, scheduler, noise, shape, device, on_step: see `denoise_unit`.

    Yields:
        What `denoise_unit` returns for each new unit; ends early when stopped.
    """
    latent_frames = () if first_units is None else first_units.split(1, dim=2)
    past = [latent_pyramid(contiguous_copy(frame), shape.num_stages) for frame in latent_frames]
    for unit in range(len(past), len(settings)):
        stage_ends = denoise_unit(
            unit, past, velocity_model, scheduler, noise, shape, device, settings[unit], on_step
        )
        if stage_ends is None:
            return
        past.append(latent_pyramid(stage_ends[-1], shape.num_stages))
        yield stage_ends
