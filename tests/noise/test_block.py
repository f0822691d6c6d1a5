from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pyramid_seed.noise import block_noise
from tests.cases import check_cases

REFERENCE = Path(__file__).parents[1] / "reference" / "miniflux_t2v.safetensors"


def test_covariance_in_closed_form():
    def rule(gamma):
        height, width = 4, 6
        basis = torch.eye(height * width, dtype=torch.float64).reshape(-1, height, width)
        image = block_noise(basis, gamma).reshape(height * width, height * width)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        block = (rows // 2 * width + columns // 2).flatten()
        same_block = (block[:, None] == block[None, :]).double()
        expected = (1 + gamma) * torch.eye(height * width, dtype=torch.float64) - gamma * same_block
        torch.testing.assert_close(image.T @ image, expected, atol=1e-14, rtol=0)
        torch.testing.assert_close(image, image.T, atol=0, rtol=0)

    check_cases([0.0, 0.1, 0.25, 1 / 3], rule)


def test_gamma_zero_changes_nothing_but_rounding():
    white = torch.randn(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block_noise(white, 0.0), white, atol=1e-6, rtol=0)


def test_blocks_sum_to_zero_at_one_third():
    white = torch.randn(1, 16, 1, 8, 16, generator=torch.Generator().manual_seed(0))
    noise = block_noise(white, 1 / 3)
    sums = torch.nn.functional.avg_pool2d(noise[:, :, 0], 2, divisor_override=1)
    assert noise.shape == white.shape
    assert noise.dtype == torch.float32
    assert sums.abs().max() < 1e-6


def test_recorded_block_noise_comes_back_from_its_white_noise():
    vectors = load_file(REFERENCE)
    jumps = [values for name, values in vectors.items() if name.startswith("noise.jump.")]
    assert len(jumps) == 10
    for recorded in jumps:
        torch.testing.assert_close(
            block_noise(recorded * math.sqrt(3) / 2, 1 / 3), recorded, atol=1e-6, rtol=0
        )


def test_odd_sizes():
    def rule(*shape):
        with pytest.raises(ValueError, match="even height and width"):
            block_noise(torch.zeros(shape), 1 / 3)

    check_cases([(1, 3, 4), (1, 4, 3), (4,)], rule)


def test_gamma_out_of_range():
    def rule(gamma):
        with pytest.raises(ValueError, match=r"gamma must be in \[0, 1/3\]"):
            block_noise(torch.zeros(1, 2, 2), gamma)

    check_cases([-0.1, 0.34, math.nan], rule)
