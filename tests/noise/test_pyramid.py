from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pyramid_seed.noise import initial_pyramid
from tests.cases import check_cases

REFERENCE = Path(__file__).parents[1] / "reference" / "miniflux_t2v.safetensors"


def test_white_noise_stays_white_at_each_stage():
    basis = torch.eye(64, dtype=torch.float64).reshape(-1, 8, 8)
    pyramid = initial_pyramid(basis, 3)
    assert [level.shape[1:] for level in pyramid] == [(2, 2), (4, 4), (8, 8)]
    for level in pyramid:
        image = level.flatten(1)
        assert torch.equal(image.T @ image, torch.eye(image.shape[1], dtype=torch.float64))


def test_is_bilinear_interpolation_times_two():
    noise = load_file(REFERENCE)["noise.initial"]
    frames = noise[0].movedim(1, 0)  # (T, C, H, W)
    for level in reversed(initial_pyramid(noise, 3)):
        torch.testing.assert_close(level[0].movedim(1, 0), frames, atol=1e-6, rtol=0)
        frames = torch.nn.functional.interpolate(frames, scale_factor=0.5, mode="bilinear") * 2


def test_one_stage_is_the_noise_itself():
    noise = torch.ones(1, 3, 3)
    assert initial_pyramid(noise, 1) == (noise,)


def test_bad_sizes():
    cases = [
        ((1, 8, 6), 3, r"multiples of 4, got shape \(1, 8, 6\)"),
        ((1, 6, 8), 3, r"multiples of 4, got shape \(1, 6, 8\)"),
        ((8,), 1, r"got shape \(8,\)"),
        ((1, 8, 8), 0, "num_stages must be at least 1, got 0"),
    ]

    def rule(shape, num_stages, message):
        with pytest.raises(ValueError, match=message):
            initial_pyramid(torch.zeros(shape), num_stages)

    check_cases(cases, rule)
