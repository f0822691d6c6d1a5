"""`determinism`: the same clip at the levels strict and relaxed."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pyramid_seed.choices import DETERMINISM_LEVELS, DeterminismLevel

from .measure import Bar, Result, Row, in_turn
from .sizes import SIZES, call_settings, device_for, make_pipeline


def measure(options: argparse.Namespace) -> Result:
    """Strict over relaxed, pair by pair."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    pipeline = make_pipeline(size, device, with_text=size.name == "tiny")
    settings = call_settings(pipeline, size)

    def make(level: DeterminismLevel) -> Callable[[], object]:
        return lambda: pipeline(**settings, determinism=level, output_type="uint8")

    times = in_turn([make(level) for level in DETERMINISM_LEVELS], options.repeats, device)
    values: dict[str, list[float]] = dict(zip(DETERMINISM_LEVELS, times, strict=True))
    row = Row(f"{size.num_units} units, steps {size.num_steps} a stage", values, ("strict", "relaxed"))
    bars = [Bar("strict / relaxed on a GPU", row.median_ratio, 1.05, is_lower_limit=False)]
    return Result(
        command="determinism",
        what=f"{size.description}; text to frames",
        rows=[row],
        bars=bars if size.name == "full" else [],
        device=device,
    )
