"""The sampler with velocity models whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from pyramid_seed.geometry import LatentShape
from pyramid_seed.noise import NoiseKey, NoiseStreams, block_noise, initial_pyramid
from pyramid_seed.pipelines.denoise import (
    Place,
    UnitSettings,
    check_finite,
    denoise_clip,
    denoise_stage,
    denoise_unit,
    guidance_schedule,
    guide,
    renoise,
    upsample,
)
from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler, RenoiseCoefficients

CPU = torch.device("cpu")
LATENTS = LatentShape(2, 8, 16, num_stages=3)
SHAPE = LATENTS.as_tuple()


@dataclass
class ConstantVelocity:
    """The same velocity everywhere; remembers what it was asked."""

    value: float = 0.0
    timesteps: list[float] = field(default_factory=list)
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    history: list[list[tuple[int, ...]]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    stages: int = 0

    def __call__(self, latents, history, timestep):
        self.timesteps.append(float(timestep))
        self.sizes.append(tuple(latents.shape))
        self.history.append([tuple(clip.shape) for clip in history])
        return torch.full_like(latents, self.value)

    def start_unit(self, guidance_scale):
        self.scales.append(guidance_scale)

    def start_stage(self, num_steps):
        self.stages += 1


def go_on(place, timestep, latents):
    return latents


@pytest.fixture
def scheduler():
    return PyramidFlowMatchEulerDiscreteScheduler()


def test_guide():
    negative, positive = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    assert guide(negative, positive, 0.0).tolist() == [1.0, 2.0]
    assert guide(negative, positive, 1.0).tolist() == [3.0, 5.0]
    assert guide(negative, positive, 3.0).tolist() == [7.0, 11.0]


def test_guidance_schedule():
    assert guidance_schedule(1, 7.0, 5.0, None, 2.0) == (7.0,)
    assert guidance_schedule(3, 7.0, 5.0, None, 2.0) == (7.0, 5.0, 5.0)
    assert guidance_schedule(4, 7.0, 5.0, 2.0, 2.0) == (7.0, 5.0, 3.0, 2.0)
    assert guidance_schedule(2, 7.0, 5.0, 0.0, 2.0) == (7.0, 7.0)


def test_upsample_copies_each_value_into_a_block():
    latents = torch.arange(4.0).reshape(1, 1, 1, 2, 2)
    assert upsample(latents)[0, 0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_renoise_of_the_flow_is_the_flow(scheduler):
    """A stage ends with white noise of level sigma; the next one begins with white noise of its own level."""
    sigma = scheduler.end_sigmas[0]
    coefficients = scheduler.renoise_coefficients(1)
    generator = torch.Generator().manual_seed(0)
    latents = sigma * torch.randn(1, 1, 1, 512, 512, generator=generator)
    white = torch.randn(1, 1, 1, 1024, 1024, generator=generator)
    entered = renoise(latents, coefficients, white, scheduler.config.gamma)[0, 0, 0]
    assert entered.std().item() == pytest.approx(scheduler.start_sigmas[1], rel=0.01)
    blocks = entered.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    covariance = (blocks[:, 0, :, 0] * blocks[:, 1, :, 1]).mean().item()
    assert abs(covariance) < 0.01 * scheduler.start_sigmas[1] ** 2


def test_renoise_is_the_sum_that_it_says():
    latents, white = torch.randn(1, 1, 1, 2, 2), torch.randn(1, 1, 1, 4, 4)
    expected = 0.5 * upsample(latents) + 0.25 * block_noise(white, 0.2)
    assert torch.equal(renoise(latents, RenoiseCoefficients(0.5, 0.25), white, 0.2), expected)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_stage_goes_the_whole_way(scheduler, num_steps):
    """Local sigmas lead from 1 to 0, so a constant velocity is subtracted once."""
    model, places = ConstantVelocity(0.75), []
    start = torch.randn(SHAPE)
    checks = []
    latents = denoise_stage(
        start, [], model, scheduler, 4, 2, num_steps, lambda *args: places.append(args[0]) or args[2], checks
    )
    torch.testing.assert_close(latents, start - 0.75, rtol=0, atol=1e-6)
    scheduler.set_timesteps(num_steps, 2)
    assert model.timesteps == scheduler.timesteps.tolist()
    assert places == [Place(4, 2, step) for step in range(num_steps)] == [check.place for check in checks]
    check_finite(checks)
    assert model.stages == 1


def test_a_stage_stops(scheduler):
    model = ConstantVelocity()
    stop_after_the_second = iter([torch.zeros(SHAPE), None])
    result = denoise_stage(
        torch.zeros(SHAPE), [], model, scheduler, 0, 0, 5, lambda *args: next(stop_after_the_second), []
    )
    assert result is None
    assert len(model.timesteps) == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_latents_that_are_not_finite(scheduler, value):
    """They are seen at the end of the unit, and the first such step is named."""
    places = []

    class LaterNotFinite(ConstantVelocity):
        def __call__(self, latents, history, timestep):
            self.value = value if len(places) == 3 else 0.0
            return super().__call__(latents, history, timestep)

    def on_step(place, timestep, latents):
        places.append(place)
        return latents

    settings = UnitSettings((2, 2, 2), 4.0)
    with pytest.raises(FloatingPointError, match="after unit 3, stage 1, step 1; use dtype float32"):
        denoise_unit(3, [], LaterNotFinite(), scheduler, NoiseStreams(1), LATENTS, CPU, settings, on_step)
    assert len(places) == 6


def test_a_unit_without_velocity_is_its_noise(scheduler):
    noise, unit = NoiseStreams(3), 5
    model = ConstantVelocity()
    *ends, latents = denoise_unit(
        unit, [], model, scheduler, noise, LATENTS, CPU, UnitSettings((1, 2, 3), 4.0), go_on
    )
    expected = initial_pyramid(noise.draw(NoiseKey("initial", unit, 0), SHAPE), 3)[0]
    for stage, size in ((1, (1, 2, 1, 4, 8)), (2, SHAPE)):
        white = noise.draw(NoiseKey("renoise", unit, stage), size)
        coefficients = scheduler.renoise_coefficients(stage)
        expected = renoise(expected, coefficients, white, scheduler.config.gamma)
    assert torch.equal(latents, expected)
    assert [tuple(end.shape) for end in ends] == [(1, 2, 1, 2, 4), (1, 2, 1, 4, 8)]
    assert model.sizes == [(1, 2, 1, 2, 4)] + [(1, 2, 1, 4, 8)] * 2 + [SHAPE] * 3
    assert model.scales == [4.0]


def test_a_clip_conditions_each_unit_on_those_before(scheduler):
    model = ConstantVelocity()
    settings = [UnitSettings((1, 1, 1), float(unit)) for unit in range(3)]
    units = list(denoise_clip(None, model, scheduler, NoiseStreams(1), LATENTS, CPU, settings, go_on))
    assert [tuple(unit[-1].shape) for unit in units] == [SHAPE] * 3
    assert model.scales == [0.0, 1.0, 2.0]
    coarse, middle = (1, 2, 1, 2, 4), (1, 2, 1, 4, 8)
    assert model.history[:3] == [[], [], []]
    assert model.history[3:6] == [[coarse], [middle], [SHAPE]]
    assert model.history[6:] == [[coarse, coarse], [coarse, middle], [middle, SHAPE]]


def test_a_clip_goes_on_from_known_units(scheduler):
    arguments = (
        ConstantVelocity(0.1),
        scheduler,
        NoiseStreams(1),
        LATENTS,
        CPU,
        [UnitSettings((1, 1, 1), 0.0)] * 3,
    )
    whole = [ends[-1] for ends in denoise_clip(None, *arguments, go_on)]
    rest = list(denoise_clip(torch.cat(whole[:2], dim=2), *arguments, go_on))
    assert len(rest) == 1
    assert torch.equal(rest[0][-1], whole[2])


def test_a_clip_ends_early_when_stopped(scheduler):
    arguments = (
        ConstantVelocity(),
        scheduler,
        NoiseStreams(1),
        LATENTS,
        CPU,
        [UnitSettings((1, 1, 1), 0.0)] * 3,
    )
    stop_in_unit_1 = lambda place, timestep, latents: None if place.unit == 1 else latents  # noqa: E731
    assert len(list(denoise_clip(None, *arguments, stop_in_unit_1))) == 1
