"""`noise`: block noise against a loop over the blocks."""

from __future__ import annotations

import argparse

import torch

from pyramid_seed.noise import NoiseKey, NoiseStreams, block_noise

from .baseline import block_gaussian, block_noise_loop, block_noise_loop_of
from .measure import CPU, Bar, Result, compared

GAMMA = 1 / 3
KEY = NoiseKey("renoise", 0, 2)


def measure(options: argparse.Namespace) -> Result:
    """Block noise of one unit at its finest stage: made of given white noise, and with the drawing of it."""
    height, width = (64, 64) if options.size == "tiny" else (768, 1280)
    shape = (1, 16, 1, height // 8, width // 8)
    streams, gaussian = NoiseStreams(0), block_gaussian(GAMMA)
    white = streams.draw(KEY, shape)
    with torch.random.fork_rng():
        made = compared(
            f"made of given white noise {shape}",
            lambda: block_noise(white, GAMMA),
            lambda: block_noise_loop_of(white, GAMMA),
            options.repeats,
            CPU,
        )
        drawn = compared(
            "drawn and made",
            lambda: block_noise(streams.draw(KEY, shape), GAMMA),
            lambda: block_noise_loop(gaussian.sample, shape),
            options.repeats,
            CPU,
        )
    return Result(
        command="noise",
        what=f"block noise of one unit at the finest stage of {height}x{width}, on the CPU",
        baseline="a 4x4 Gaussian for every 2x2 block, one after another (Python loop); it draws float32 from "
        "the global generator, the product float64 by key",
        rows=[made, drawn],
        bars=[Bar("block noise at 768p", made.median_ratio, 300)] if height == 768 else [],
    )
