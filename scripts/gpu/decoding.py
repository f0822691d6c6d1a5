"""`decoding`: the VAE against overlapping tiles, and beside the next unit or after it."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from benchmarks import vae
from benchmarks.measure import Result, Row, in_turn
from benchmarks.sizes import call_settings, make_pipeline

from pyramid_seed.pipelines import decode

from .plan import Plan
from .report import Section

BESIDE, AFTER = "beside", "one stream"


def measure(section: Section, plan: Plan) -> None:
    """Times in turn; frames of both ways must be equal."""
    section.how = (
        "Decoding alone against the baseline; then a whole clip whose units are decoded on a stream of their "
        "own beside the next unit (the product on CUDA), and on the one stream."
    )
    section.add_result(section.run("decode", lambda: plan.benchmark(vae.measure, no_memory=True)))
    section.add_result(section.run("with and without a stream of its own", lambda: _streams(section, plan)))


def _streams(section: Section, plan: Plan) -> Result:
    size, device = plan.size, plan.device
    pipeline = make_pipeline(size, device, with_text=size.name == "tiny")
    settings = call_settings(pipeline, size) | {"output_type": "uint8"}
    frames = {}

    def beside() -> None:
        frames[BESIDE] = pipeline(**settings).frames

    def after() -> None:
        with patch.object(decode, "can_run_beside", lambda *_: False):
            frames[AFTER] = pipeline(**settings).frames

    times = in_turn([beside, after], plan.clip_repeats, device)
    section.facts["frames of both ways are equal"] = bool(np.array_equal(frames[BESIDE], frames[AFTER]))
    row = Row(f"{size.num_units} units", dict(zip((BESIDE, AFTER), times, strict=True)), (AFTER, BESIDE))
    what = f"{size.description}; {size.num_units} units, steps {size.num_steps} a stage, to frames"
    return Result("decoding", what, "decoding on the stream of the transformer", [row], device=device)
