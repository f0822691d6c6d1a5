"""`workers`: a clip by one worker and by two, with equal bits; and what shards cost one worker."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256

import torch

from pyramid_seed.noise import noise_digest

from .fresh import reset_peak_memory, run_fresh
from .measure import CPU, Bar, Result, Row, Work, check_equal, in_turn
from .sizes import MID, SIZES, Size, call_settings, make_pipeline

COUNTS = (1, 2)
SHARDS = {"tiny": None, "mid": 1}
"""With which the clip is made: two calls of guidance cost the embedded model more than two workers gain."""
CUT = replace(
    MID,
    description="mid with 8 heads, 384x640, 2 units: latents",
    height=384,
    width=640,
    num_units=2,
    transformer={**MID.transformer, "num_attention_heads": 8},
)
"""Long enough that the last stage is cut into 4 pieces, and heads that 4 divides."""


@torch.no_grad()
def measure(options: argparse.Namespace) -> Result:
    """Embeddings (tiny: a prompt) to frames of 8 bits, level strict."""
    size = SIZES[options.size]
    rows = [_workers_row(size, options.repeats)]
    gained = rows[0].median_ratio
    bars = []
    if size.name == "mid":
        rows.append(shards_row(CUT, options.repeats))
        bars.append(Bar("two workers, times as fast as one", gained, 1.75))
        bars.append(Bar("4 shards / 1, one worker", rows[1].median_ratio, 1.1, is_lower_limit=False))
    else:
        bars.append(Bar("two workers / one", 1 / gained, 1.03, is_lower_limit=False))
    peaks = {}
    if not options.no_memory:
        for count in COUNTS:
            peaks[f"peak bytes, {_workers(count)}"] = run_fresh(
                "benchmarks.workers", "make_once", [size.name, count]
            )["peak"]
    return Result(
        command="workers",
        what=f"{size.description}; shards {SHARDS[size.name] or 'none'}, text to frames, determinism strict",
        baseline="one worker, and shards 1: the same clip in the same bits where only the workers differ",
        rows=rows,
        bars=bars,
        facts=peaks,
    )


def _workers_row(size: Size, repeats: int) -> Row:
    warm_up, make, digests = _maker(size, SHARDS[size.name])
    one, two = map(_workers, COUNTS)
    works = [partial(make, count) for count in COUNTS]
    times = in_turn(works, repeats, CPU, warm_ups=[warm_up])
    check_equal("one clip by another number of workers", digests)
    return Row(
        f"{size.num_units} units, steps {size.num_steps} a stage",
        dict(zip((one, two), times, strict=True)),
        (one, two),
    )


def shards_row(size: Size, repeats: int) -> Row:
    """Latents of a clip by one worker: 4 shards over 1."""
    pipeline = make_pipeline(size, CPU, with_text=False)
    settings = call_settings(pipeline, size) | {"output_type": "latent", "workers": 1}
    works = [partial(pipeline, **settings, shards=shards) for shards in (1, 4)]
    warm_up = partial(pipeline, **settings | {"num_frames": 1}, shards=4)
    times = in_turn(works, repeats, CPU, warm_ups=[warm_up])
    return Row(
        size.description, dict(zip(("1 shard", "4 shards"), times, strict=True)), ("4 shards", "1 shard")
    )


def make_once(size_name: str, count: int) -> None:
    """What a fresh process does whose peak is taken, from after the weights are there."""
    size = SIZES[size_name]
    _, make, _ = _maker(size, SHARDS[size_name])
    reset_peak_memory()
    make(count)


def _maker(size: Size, shards: int | None) -> tuple[Work, Callable[[int], None], set[str]]:
    """A warm-up, what makes the clip by so many workers, and the digests of all clips that it has made."""
    pipeline = make_pipeline(size, CPU, with_text=size.name == "tiny")
    settings = call_settings(pipeline, size) | {"output_type": "uint8", "shards": shards}
    digests = set()

    def make(count: int) -> None:
        output = pipeline(**settings, workers=count)
        digests.add(noise_digest(output.latents) + sha256(output.frames.tobytes()).hexdigest())

    return partial(pipeline, **settings | {"num_frames": 1}), make, digests


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
