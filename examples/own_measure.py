"""Apply a measure of your own to many seeds: which seed moves most, and how much do seeds differ?

python examples/own_measure.py
"""

import numpy as np

from pyramid_seed import generate

PROMPT = "a red circle moves to the right on a white background"
SEEDS = range(8)


def motion(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames, in grey levels; `frames` is (T, H, W, 3), uint8."""
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())


values = {
    seed: motion(generate(PROMPT, seed=seed, preset="tiny-fast", progress=False).frames) for seed in SEEDS
}
best = max(values, key=lambda seed: values[seed])
mean, deviation = np.mean([*values.values()]), np.std([*values.values()], ddof=1)
print(f"motion {mean:.2f} +- {deviation:.2f} over {len(values)} seeds; seed {best} moves most")

# A seed is an address: it gives the clip that was measured again whenever you want it.
assert motion(generate(PROMPT, seed=best, preset="tiny-fast", progress=False).frames) == values[best]
