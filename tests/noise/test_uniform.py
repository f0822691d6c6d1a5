from __future__ import annotations

import pytest
import torch

from pyramid_seed.noise import NoiseKey, NoiseStreams, uniform


def test_closed_form():
    """The normal distribution function at quantiles that tables list."""
    quantiles = [[-1.959963984540054, -0.6744897501960817, 0.0, 1.2815515655446004]]
    found = uniform(torch.tensor(quantiles, dtype=torch.float64))
    assert found.dtype == torch.float64
    torch.testing.assert_close(
        found, torch.tensor([[0.025, 0.25, 0.5, 0.9]], dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_never_one_and_never_below_zero():
    found = uniform(torch.tensor([-40.0, -9.0, 8.0, 9.0, 40.0])).tolist()
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] == 1 - 2**-53 < 1


def test_white_noise_becomes_uniform():
    values = uniform(NoiseStreams(5).draw(NoiseKey("history_sigma", 0, 0), (1, 1, 100_000, 1, 1))).sort(2)[0]
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert values.shape == (1, 1, 100_000, 1, 1)
    # Kolmogorov and Smirnov: above 0.006 with a probability of 1 in 700.
    assert (values.flatten() - grid).abs().max() < 0.006


def test_vectors():
    """What a scheme promises: root and key give the same value for ever."""
    cases = {(1, "image_sigma"): 0.4086287646612441, (2**64 - 1, "history_sigma"): 0.5041143022405072}
    for (root, stream), value in cases.items():
        white = NoiseStreams(root).draw(NoiseKey(stream, 0, 0), (1, 1, 1, 1, 1))
        assert uniform(white).item() == pytest.approx(value, rel=0, abs=1e-15)
