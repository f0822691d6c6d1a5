from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch

from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler
from pyramid_seed.schedulers.scheduling_pyramid_flow_match import renoise_coefficients, renoised_sigma
from tests.cases import check_cases

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "scheduler.json").read_text())


def test_equals_the_original():
    def rule(case):
        scheduler = PyramidFlowMatchEulerDiscreteScheduler(**case["config"])
        assert scheduler.original_start_sigmas == pytest.approx(case["ori_start_sigmas"], rel=1e-6)
        assert scheduler.start_sigmas == pytest.approx(case["start_sigmas"], rel=1e-6)
        assert scheduler.end_sigmas == pytest.approx(case["end_sigmas"], rel=1e-6)
        for schedule in case["schedules"]:
            scheduler.set_timesteps(schedule["num_inference_steps"], schedule["stage"])
            assert scheduler.timesteps.tolist() == pytest.approx(schedule["timesteps"], rel=1e-6)
            assert scheduler.sigmas.tolist() == pytest.approx(schedule["sigmas"], rel=1e-6)

    check_cases({json.dumps(case["config"]): case for case in REFERENCE}, rule)


def test_renoise_makes_white_noise_on_the_path_of_the_flow():
    def rule(sigma, gamma):
        upsample_scale, noise_scale = renoise_coefficients(sigma, gamma)
        ones = torch.ones(4, 4, dtype=torch.float64)
        block_covariance = (1 + gamma) * torch.eye(4, dtype=torch.float64) - gamma * ones
        covariance = upsample_scale**2 * sigma**2 * ones + noise_scale**2 * block_covariance
        level = renoised_sigma(sigma, gamma)
        torch.testing.assert_close(covariance, level**2 * torch.eye(4, dtype=torch.float64))
        assert upsample_scale * (1 - sigma) == pytest.approx(1 - level)

    check_cases(product([0.0, 0.1, 0.5, 0.667, 1.0], [0.05, 0.25, 1 / 3]), rule)


def test_renoise_of_gamma_one_third_in_closed_form():
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    for stage in (1, 2):
        sigma = scheduler.original_start_sigmas[stage]
        assert scheduler.end_sigmas[stage - 1] == sigma
        upsample_scale, noise_scale = scheduler.renoise_coefficients(stage)
        assert upsample_scale == pytest.approx(1 / (1 + sigma))
        assert noise_scale == pytest.approx(math.sqrt(3) * sigma / (1 + sigma))
        assert scheduler.start_sigmas[stage] == pytest.approx(2 * sigma / (1 + sigma))


def test_timesteps_are_linear_and_join_where_stages_meet():
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    for stage, (start, end) in enumerate([(1000, 744), (744, 386), (386, 1)]):
        assert scheduler.timestep_of(stage, 1.0).item() == start
        assert scheduler.timestep_of(stage, 0.0).item() == pytest.approx(end, abs=1e-4)
        local = torch.tensor([[1.0, 0.5], [0.25, 0.0]])
        torch.testing.assert_close(scheduler.timestep_of(stage, local), end + (start - end) * local)


def test_sampling_asks_for_timesteps_of_training():
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    for stage in range(3):
        scheduler.set_timesteps(28, stage)
        trained = scheduler.timestep_of(stage, scheduler.sigmas[:-1])
        torch.testing.assert_close(scheduler.timesteps, trained, rtol=1e-6, atol=1e-4)


def test_an_even_stage_range_is_the_default():
    given = PyramidFlowMatchEulerDiscreteScheduler(stage_range=[0, 1 / 3, 2 / 3, 1])
    assert given.start_sigmas == PyramidFlowMatchEulerDiscreteScheduler().start_sigmas


def test_steps_along_a_constant_velocity_reach_the_end():
    def rule(num_inference_steps):
        start, end = torch.randn(2, 1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        scheduler = PyramidFlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(num_inference_steps, 1)
        latent = start
        for timestep in scheduler.timesteps:
            latent = scheduler.step(start - end, timestep, latent).prev_sample
        torch.testing.assert_close(latent, end, atol=1e-5, rtol=0)

    check_cases([1, 2, 7], rule)


def test_a_step_is_the_euler_step_in_float32_and_keeps_no_counter():
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(3, 0)
    velocity = torch.full((1, 2), 0.5, dtype=torch.bfloat16)
    sample = torch.full((1, 2), 1 + 2**-20)
    last = float(scheduler.timesteps[2])
    (first,) = scheduler.step(velocity, last, sample, return_dict=False)
    again = scheduler.step(velocity, scheduler.timesteps[2:], sample).prev_sample
    assert first.dtype == torch.float32
    assert torch.equal(first, sample - 0.001 * 0.5)
    assert torch.equal(first, again)


def test_config_round_trip(tmp_path):
    config = {"num_train_timesteps": 500, "shift": 3.0, "stages": 2, "stage_range": [0, 0.4, 1]}
    scheduler = PyramidFlowMatchEulerDiscreteScheduler(**config, gamma=0.25)
    scheduler.save_pretrained(tmp_path)
    for copy in (
        PyramidFlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path),
        PyramidFlowMatchEulerDiscreteScheduler.from_config(scheduler.config),
    ):
        assert {key: copy.config[key] for key in config} == config
        assert copy.config["gamma"] == 0.25
        assert copy.start_sigmas == scheduler.start_sigmas
        assert len(copy) == 500


def test_bad_settings():
    cases = [
        ({"num_train_timesteps": 0}, "num_train_timesteps must be at least 1, got 0"),
        ({"shift": 0.0}, "shift must be above 0 and finite, got 0.0"),
        ({"shift": math.nan}, "shift must be above 0 and finite, got nan"),
        ({"gamma": 0.0}, r"gamma must be in \(0, 1/3\], got 0.0"),
        ({"gamma": 0.34}, r"gamma must be in \(0, 1/3\], got 0.34"),
        ({"stages": 0}, "stages must be in 1 .. num_train_timesteps"),
        ({"stages": 2, "stage_range": [0, 1 / 3, 2 / 3, 1]}, r"stage_range must have 3 values"),
        ({"stage_range": [0, 0.5, 0.5, 1]}, "stage_range must rise from 0 to 1"),
        ({"stage_range": [0.1, 0.3, 0.5, 1]}, "stage_range must rise from 0 to 1"),
        ({"stage_range": [0, 0.3, 0.5, 0.9]}, "stage_range must rise from 0 to 1"),
    ]

    def rule(config, message):
        with pytest.raises(ValueError, match=message):
            PyramidFlowMatchEulerDiscreteScheduler(**config)

    check_cases(cases, rule)


def test_bad_stages():
    def rule(stage):
        scheduler = PyramidFlowMatchEulerDiscreteScheduler()
        with pytest.raises(ValueError, match=r"stage_index must be an int in 0 .. 2"):
            scheduler.set_timesteps(2, stage)
        with pytest.raises(ValueError, match=r"stage_index must be an int in 0 .. 2"):
            scheduler.renoise_coefficients(stage)
        with pytest.raises(ValueError, match="no jump into it"):
            scheduler.renoise_coefficients(0)

    check_cases([-1, 3, 1.0, True], rule)


def test_bad_step_counts():
    def rule(num_inference_steps):
        with pytest.raises(ValueError, match="num_inference_steps must be"):
            PyramidFlowMatchEulerDiscreteScheduler().set_timesteps(num_inference_steps, 0)

    check_cases([0, -2, 2.0, True], rule)


def test_bad_steps():
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    latent = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="call set_timesteps first"):
        scheduler.step(latent, 1000.0, latent)
    scheduler.set_timesteps(2, 0)
    with pytest.raises(ValueError, match=r"timestep must be one of \[1000"):
        scheduler.step(latent, 1.0, latent)
    with pytest.raises(ValueError, match=r"got a tensor of shape \(2,\)"):
        scheduler.step(latent, scheduler.timesteps, latent)
    with pytest.raises(ValueError, match=r"same shape, got \(1, 2\) and \(2, 2\)"):
        scheduler.step(latent, 1000.0, latent.expand(2, 2))
