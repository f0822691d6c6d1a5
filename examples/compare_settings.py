"""Compare two settings on the same seeds, so that the setting differs and the noise does not.

python examples/compare_settings.py
"""

import numpy as np

from pyramid_seed import generate

PROMPT = "a blue square grows on a black background"
SEEDS = range(8)


def contrast(guidance_scale: float, seed: int) -> float:
    """The standard deviation of the last frame's pixels, in grey levels."""
    settings = {"guidance_scale": guidance_scale, "preset": "tiny-fast", "progress": False}
    return float(generate(PROMPT, seed=seed, **settings).frames[-1].std())


low, high = (np.array([contrast(scale, seed) for seed in SEEDS]) for scale in (2.0, 5.0))
paired, unpaired = (high - low).std(ddof=1), np.hypot(high.std(ddof=1), low.std(ddof=1))
print(f"guidance 5 against 2: contrast {(high - low).mean():+.2f} grey levels")
print(f"standard deviation of a difference: {paired:.2f} on the same seed, {unpaired:.2f} on two seeds")
