"""`tokens`: how the sequence, and with it the cost, grows with a clip's length. Runs no model."""

from __future__ import annotations

import argparse

from .measure import Result
from .sequence import attended_pairs, frame_tokens, published_geometry
from .sizes import NUM_REAL_TEXT, NUM_TEXT

PICTURES = {"384p": (384, 640), "768p": (768, 1280)}
NUM_UNITS = 31
"""Units of 241 frames, ten seconds: the longest clip of the published models."""
NUM_STAGES = 3


def measure(options: argparse.Namespace) -> Result:  # noqa: ARG001 - the interface of all subcommands
    """Video tokens by unit and stage, and (query, key) pairs of the last stage, dense over allowed."""
    header = ("unit", *(f"{name}, stage {stage}" for name in PICTURES for stage in range(NUM_STAGES)))
    table: list[tuple[str, ...]] = [(*header, *(f"{name}, pairs dense / allowed" for name in PICTURES))]
    for unit in range(NUM_UNITS):
        counts = [sum(tokens(name, unit, stage)) for name in PICTURES for stage in range(NUM_STAGES)]
        pairs = [pairs_saved(name, unit) for name in PICTURES]
        table.append((str(unit), *map(str, counts), *(f"{ratio:.2f}" for ratio in pairs)))
    return Result(
        command="tokens",
        what=f"video tokens a step sees, by unit; {NUM_REAL_TEXT} of {NUM_TEXT} text tokens are real",
        table=table,
    )


def tokens(picture: str, unit: int, stage: int) -> tuple[int, ...]:
    """Video tokens of each latent frame, of the published models."""
    return frame_tokens(published_geometry(), *PICTURES[picture], unit, stage)


def pairs_saved(picture: str, unit: int) -> float:
    """(query, key) pairs of a dense mask over those that are needed, last stage."""
    frames = tokens(picture, unit, NUM_STAGES - 1)
    return (sum(frames) + NUM_TEXT) ** 2 / attended_pairs(frames, NUM_REAL_TEXT)
