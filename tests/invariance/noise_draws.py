"""A set of draws and what is made of them, as digests. Run as a program it prints them as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pyramid_seed.noise import NoiseKey, NoiseStreams, block_noise, initial_pyramid, noise_digest


def with_digests(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows (root as text, stream, unit, stage, shape) with their digests.

    `sha256` is the draw's. `used_sha256` is that of what the sampler makes of it: the coarsest level of the
    pyramid of an initial draw, block noise at gamma = 1/3 of a renoise draw.
    """
    done = []
    for row in rows:
        key = NoiseKey(row["stream"], row["unit"], row["stage"])
        white = NoiseStreams(int(row["root"])).draw(key, tuple(row["shape"]))
        asked = {name: row[name] for name in ("root", "stream", "unit", "stage", "shape")}
        done.append({**asked, "sha256": noise_digest(white), "used_sha256": _used(key, white)})
    return done


def _used(key: NoiseKey, white: torch.Tensor) -> str | None:
    if white.ndim != 5 or white.shape[-1] % 4 or key.stream == "posterior":
        return None
    return noise_digest(
        initial_pyramid(white, 3)[0] if key.stream == "initial" else block_noise(white, 1 / 3)
    )


if __name__ == "__main__":
    draws = with_digests(json.load(sys.stdin))
    json.dump({"capability": torch.backends.cpu.get_cpu_capability(), "draws": draws}, sys.stdout)
