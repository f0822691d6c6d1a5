"""Flow matching over a spatial pyramid (Pyramidal Flow Matching, Jin et al., arXiv 2410.05954).

One flow from noise to latent is cut into stages, the coarsest first. Two kinds of sigma appear:

- a global sigma says how much noise a latent holds: latent = (1 - sigma) * clean + sigma * noise. Stage s
  goes from `start_sigmas[s]` down to `end_sigmas[s]`.
- a local sigma says where in its stage a latent is: 1 at the stage's start, 0 at its end. Euler steps are
  counted in it, and `timestep_of` returns the timestep that the transformer gets there.

Between stages a latent is enlarged (nearest neighbour) and renoised, see `renoise_coefficients`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput


@dataclass
class PyramidFlowMatchEulerDiscreteSchedulerOutput(BaseOutput):
    """Output of `step`.

    Args:
        prev_sample: the latent after the step, float32, with the shape of `sample`.
    """

    prev_sample: torch.Tensor


class RenoiseCoefficients(NamedTuple):
    """Renoised latent = upsample_scale * upsampled latent + noise_scale * block noise."""

    upsample_scale: float
    noise_scale: float


def shift_sigma(sigma: torch.Tensor, shift: float) -> torch.Tensor:
    """The noise levels that replace `sigma`, in [0, 1], at another resolution (SD3, arXiv 2403.03206,
    equation 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def renoise_coefficients(sigma: float, gamma: float) -> RenoiseCoefficients:
    """The two factors of the jump from one stage to the next (arXiv 2410.05954, section 3.2 and appendix).

    A stage ends with (1 - sigma) * clean + sigma * noise. Nearest-neighbour enlarging copies each value into
    a 2x2 block, so that the noise has covariance sigma^2 inside a block; the next stage was trained on white
    noise. Block noise has variance 1 and covariance -gamma inside a block, and is added such that

    - the covariances cancel: a^2 sigma^2 = b^2 gamma, hence b = a sigma / sqrt(gamma);
    - the result lies on the path of the flow, signal and noise adding up to 1. The noise has variance
      a^2 sigma^2 + b^2, hence a (1 - sigma) + a sigma sqrt(1 + 1 / gamma) = 1.

    Args:
        sigma: noise level at the end of the stage before, in [0, 1].
        gamma: minus the correlation inside a block of noise, in (0, 1/3].

    Returns:
        a as `upsample_scale` and b as `noise_scale`.
    """
    upsample_scale = 1 / ((1 - sigma) + sigma * math.sqrt(1 + 1 / gamma))
    return RenoiseCoefficients(upsample_scale, upsample_scale * sigma / math.sqrt(gamma))


def renoised_sigma(sigma: float, gamma: float) -> float:
    """Noise level of a renoised latent: 1 minus the share of the signal that the jump leaves."""
    return 1 - renoise_coefficients(sigma, gamma).upsample_scale * (1 - sigma)


class PyramidFlowMatchEulerDiscreteScheduler(SchedulerMixin, ConfigMixin):
    """Euler steps along the stages of a pyramid flow.

    Args:
        num_train_timesteps: number of timesteps in the whole flow.
        shift: shift of the noise levels, as in SD3; 1 keeps them.
        stages: number of levels of the pyramid.
        stage_range: where the stages begin and end on the flow, stages + 1 rising values from 0 (noise) to 1
            (latent). None divides it evenly.
        gamma: minus the correlation inside a 2x2 block of renoise noise, in (0, 1/3].

    Attributes:
        original_start_sigmas: noise level at which each stage begins on the undivided flow.
        start_sigmas: noise level at which each stage begins, including renoise.
        end_sigmas: noise level at which each stage ends.
        timesteps: those of the stage chosen by `set_timesteps`, float32, (num_inference_steps,), falling, in
            (0, num_train_timesteps].
        sigmas: local sigmas of that stage, float64, shape (num_inference_steps + 1,), from 1 to 0, on
            the CPU.

    Raises:
        ValueError: if a setting is out of range.
    """

    _compatibles: list[str] = []  # noqa: RUF012 - the shape that SchedulerMixin prescribes
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        stages: int = 3,
        stage_range: Sequence[float] | None = None,
        gamma: float = 1 / 3,
    ) -> None:
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}; use 1000")
        if not 0 < shift < math.inf:
            raise ValueError(f"shift must be above 0 and finite, got {shift}; use 1.0 for none")
        if not 0 < gamma <= 1 / 3:
            raise ValueError(f"gamma must be in (0, 1/3], got {gamma}; use {1 / 3}")
        boundaries = _stage_boundaries(num_train_timesteps, stages, stage_range)

        # Single precision, as in training: the last timesteps are small differences of large ones.
        flow = torch.arange(num_train_timesteps, 0, -1, dtype=torch.float32)
        flow_sigmas = shift_sigma(flow / num_train_timesteps, shift)
        levels = [*flow_sigmas[boundaries[:-1]].tolist(), 0.0]
        self.original_start_sigmas: tuple[float, ...] = tuple(levels[:-1])
        self.end_sigmas: tuple[float, ...] = tuple(levels[1:])
        self.start_sigmas: tuple[float, ...] = (
            levels[0],
            *(renoised_sigma(sigma, gamma) for sigma in self.original_start_sigmas[1:]),
        )

        # Each stage gets timesteps in proportion to the distance that it covers.
        ways = [start - end for start, end in zip(self.start_sigmas, self.end_sigmas, strict=True)]
        indices = [int(way / sum(ways) * num_train_timesteps) for way in accumulate(ways[:-1], initial=0.0)]
        self._stage_timesteps = (flow_sigmas * num_train_timesteps)[[*indices, num_train_timesteps - 1]]

        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0)
        self.sigmas = torch.empty(0, dtype=torch.float64)
        self._step_of_timestep: dict[float, int] = {}
        self._schedules: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def timestep_of(self, stage_index: int, local_sigma: float | torch.Tensor) -> torch.Tensor:
        """The timestep that the transformer gets at a place of a stage, linear in the local sigma.

        Args:
            stage_index: the stage, 0 = coarsest.
            local_sigma: place in the stage, 1 = start, 0 = end; a number, or a floating tensor of any shape.

        Returns:
            float32 tensor of the shape of `local_sigma`, on its device, in (0, num_train_timesteps].

        Raises:
            ValueError: if the stage does not exist.
        """
        self._check_stage(stage_index)
        if not isinstance(local_sigma, torch.Tensor):
            local_sigma = torch.tensor(local_sigma, dtype=torch.float64)
        start, end = self._stage_timesteps[stage_index], self._stage_timesteps[stage_index + 1]
        # The published models' training table uses this order of operations.
        training_step = (end - start) / len(self)
        return ((1 - local_sigma) * len(self)).float() * training_step.item() + start.item()

    def renoise_coefficients(self, stage_index: int) -> RenoiseCoefficients:
        """The factors of the jump into a stage, which must be 1 or later; see `renoise_coefficients` above.

        Raises:
            ValueError: if there is no jump into that stage.
        """
        self._check_stage(stage_index)
        if stage_index == 0:
            raise ValueError("stage 0 starts from noise, there is no jump into it; use a stage of 1 or later")
        return renoise_coefficients(self.original_start_sigmas[stage_index], self.config.gamma)

    def set_timesteps(
        self, num_inference_steps: int, stage_index: int, device: str | torch.device | None = None
    ) -> None:
        """Choose a stage and spread steps evenly over it.

        The last step starts at local sigma 1 / num_train_timesteps, the last one of training, and goes to 0.
        A single step goes all the way from 1.

        Args:
            num_inference_steps: number of Euler steps, at least 1.
            stage_index: the stage, 0 = coarsest.
            device: where `timesteps` go. `sigmas` stay on the CPU, so that a step need not wait for a device.

        Raises:
            ValueError: if the stage does not exist, or there are no steps.
        """
        if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int):
            raise ValueError(f"num_inference_steps must be an int, got {num_inference_steps!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}; use 1")
        place = num_inference_steps, stage_index
        if place not in self._schedules:
            last_sigma = 1 / len(self)
            first = self.timestep_of(stage_index, 1.0).item()
            last = self.timestep_of(stage_index, last_sigma).item()
            timesteps = torch.linspace(first, last, num_inference_steps, dtype=torch.float64).float()
            sigmas = torch.linspace(1, last_sigma, num_inference_steps, dtype=torch.float64)
            self._schedules[place] = timesteps, torch.cat([sigmas, sigmas.new_zeros(1)])
        timesteps, self.sigmas = self._schedules[place]
        self.num_inference_steps = num_inference_steps
        self.timesteps = timesteps.to(device)
        self._step_of_timestep = {timestep: step for step, timestep in enumerate(timesteps.tolist())}

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> PyramidFlowMatchEulerDiscreteSchedulerOutput | tuple[torch.Tensor]:
        """One Euler step: sample + (next sigma - sigma) * velocity, in float32.

        The step depends only on its arguments and `set_timesteps`; no counter is kept.

        Args:
            model_output: the velocity, any floating dtype, shape (B, C, T, H, W) or any other.
            timestep: one of `timesteps`, as a number or a tensor of one element.
            sample: the latent before the step, the shape of `model_output`.
            return_dict: whether to return an output object or a tuple of one tensor.

        Raises:
            ValueError: if `set_timesteps` was not called, the timestep is not one of `timesteps`, or the
                shapes differ.
        """
        if self.num_inference_steps is None:
            raise ValueError("there are no timesteps yet; call set_timesteps first")
        if model_output.shape != sample.shape:
            raise ValueError(
                "model_output and sample must have the same shape, "
                f"got {tuple(model_output.shape)} and {tuple(sample.shape)}"
            )
        if isinstance(timestep, torch.Tensor) and timestep.numel() != 1:
            raise ValueError(f"timestep must be one number, got a tensor of shape {tuple(timestep.shape)}")
        step = self._step_of_timestep.get(float(timestep))
        if step is None:
            raise ValueError(f"timestep must be one of {self.timesteps.tolist()}, got {float(timestep)}")
        sigma, next_sigma = self.sigmas[step : step + 2].tolist()
        prev_sample = sample.float() + (next_sigma - sigma) * model_output.float()
        if not return_dict:
            return (prev_sample,)
        return PyramidFlowMatchEulerDiscreteSchedulerOutput(prev_sample=prev_sample)

    def _check_stage(self, stage_index: int) -> None:
        stages = self.config.stages
        if isinstance(stage_index, bool) or not isinstance(stage_index, int) or not 0 <= stage_index < stages:
            raise ValueError(f"stage_index must be an int in 0 .. {stages - 1}, got {stage_index!r}")


def _stage_boundaries(
    num_train_timesteps: int, stages: int, stage_range: Sequence[float] | None
) -> list[int]:
    """The timestep indices at which stages begin and end, from 0 to num_train_timesteps."""
    if not 1 <= stages <= num_train_timesteps:
        raise ValueError(f"stages must be in 1 .. num_train_timesteps ({num_train_timesteps}), got {stages}")
    shares = [stage / stages for stage in range(stages + 1)] if stage_range is None else list(stage_range)
    if len(shares) != stages + 1:
        raise ValueError(f"stage_range must have {stages + 1} values (stages + 1), got {shares}")
    boundaries = [int(share * num_train_timesteps) for share in shares]
    rising = all(start < end for start, end in pairwise(boundaries))
    if not rising or shares[0] != 0 or shares[-1] != 1:
        raise ValueError(
            f"stage_range must rise from 0 to 1 by at least one timestep of {num_train_timesteps} per stage, "
            f"got {shares}"
        )
    return boundaries
