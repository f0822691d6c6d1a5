"""`invariances`: what docs/reproducibility.md promises, and what it does not, of tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from pyramid_seed.choices import ATTENTION_PATHS, AttentionPath
from pyramid_seed.noise import noise_digest
from pyramid_seed.pipelines import PyramidFlowPipelineOutput, decode
from pyramid_seed.pipelines.clip_pipeline import ClipPipeline
from tests.invariance import clips

from .plan import Plan
from .report import Section

Make = Callable[..., PyramidFlowPipelineOutput]
Pair = tuple[PyramidFlowPipelineOutput, PyramidFlowPipelineOutput]
PROMISED, SEEN = "Promised: equal", "Seen, not promised"


def measure(section: Section, plan: Plan) -> None:
    """Two clips a check, of every model and dtype: what must be equal first, then what need not be."""
    section.how = (
        "Clips of two units of 64x64, steps 1, 2, 1, guidance 3, level strict unless said, of the embedded "
        "model (tiny) and of all families with random weights (`tests/reference`). Each check makes two "
        "clips: what part of their values differs, and by how much at most. Latents are float32, frames have "
        "256 levels."
    )
    if plan.device.type == "cpu":
        section.skip("sequential offload", "needs a GPU")  # accelerate cannot offload from cpu to cpu:0
    checks = [
        (model, dtype, *check)
        for model, dtype in plan.models
        for check in _checks(section, plan, model, dtype)
    ]
    for is_promised in (True, False):  # what is promised of all models comes first
        for model, dtype, table, what, work in checks:
            if (table == PROMISED) is is_promised:
                name = f"{model}, {str(dtype).removeprefix('torch.')}: {what}"
                pair = section.run(name, work)
                if pair is not None:
                    _tell(section, table, {"what": what, "model": model, "dtype": dtype}, *pair)


def _checks(
    section: Section, plan: Plan, model: str, dtype: torch.dtype
) -> list[tuple[str, str, Callable[[], Pair]]]:
    """(table, what is compared, what makes both clips)."""
    made: dict[str, PyramidFlowPipelineOutput] = {}

    def load(device: torch.device | str = plan.device) -> ClipPipeline:
        return clips.load(model, dtype=dtype, device=device)

    kept = cache(load)

    def make(*given: Any, **changes: Any) -> PyramidFlowPipelineOutput:
        return clips.make(kept(), *given, **changes)

    def first() -> PyramidFlowPipelineOutput:
        if "first" not in made:
            made["first"] = make()
            # What another machine's report can be compared with.
            section.facts[f"latents, {model}, {dtype}"] = noise_digest(made["first"].latents)
        return made["first"]

    def batch(place: int) -> Pair:
        if "batch" not in made:
            made["batch"] = make(clips.PROMPTS, seed=clips.SEEDS)
        return clips.clip_of(made["batch"], place), make(clips.PROMPTS[place], seed=clips.SEEDS[place])

    def prefix() -> Pair:
        longer = make(units=4)
        short = first()
        longer.latents = longer.latents[:, :, : short.latents.shape[2]]
        longer.frames = longer.frames[:, : short.frames.shape[1]]
        longer.ledgers = [ledger.first_units(2) for ledger in longer.ledgers]
        return longer, short

    def went_on() -> Pair:
        known = clips.beginning(kept(), make(units=1).latents, 1)
        return make(beginning=known), first()

    def offloaded(switch_on: Callable[[ClipPipeline], object]) -> Pair:
        own = load("cpu")
        switch_on(own)
        return clips.make(own), first()

    def after_relaxed() -> Pair:
        make(determinism="relaxed")
        return make(), first()

    device = plan.device
    modes: dict[str, Callable[[ClipPipeline], object]] = {
        "model": lambda p: p.enable_model_cpu_offload(device=device),
        "sequential": lambda p: p.enable_sequential_cpu_offload(device=device),
        "group": lambda p: p.enable_group_offload(device, offload_type="leaf_level"),
    }
    if device.type == "cpu":
        del modes["sequential"]
    checks: list[tuple[str, str, Callable[[], Pair]]] = [
        (PROMISED, "made again", lambda: (make(), first())),
        (PROMISED, "model loaded again", lambda: (clips.make(load()), first())),
        *(
            (PROMISED, f"batch of three, place {place}, and alone", partial(batch, place))
            for place in range(3)
        ),
        (PROMISED, "first two units of four, and two units", prefix),
        (PROMISED, "gone on with from its first unit", went_on),
        *((PROMISED, f"{name} offload and none", partial(offloaded, mode)) for name, mode in modes.items()),
        (PROMISED, "strict after relaxed", after_relaxed),
        (SEEN, "relaxed and strict", lambda: (make(determinism="relaxed"), first())),
        (SEEN, f"{device.type} and the CPU, same seed", lambda: (first(), clips.make(load("cpu")))),
        (SEEN, f"noise drawn on {device.type} and on the CPU", lambda: (make(noise_device=device), first())),
        (
            SEEN,
            "noise drawn there, made again",
            lambda: (make(noise_device=device), make(noise_device=device)),
        ),
    ]
    return checks if model.startswith("helios") else [*checks, *_pyramid_flow_checks(kept, make, first)]


def _pyramid_flow_checks(
    kept: Callable[[], ClipPipeline], make: Make, first: Callable[[], PyramidFlowPipelineOutput]
) -> list[tuple[str, str, Callable[[], Pair]]]:
    """Of what only Pyramid Flow has."""

    def smallest_cut() -> int:
        heads = kept().transformer.config.num_attention_heads
        return next(count for count in range(2, heads + 1) if heads % count == 0)

    def one_stream() -> Pair:
        with patch.object(decode, "can_run_beside", lambda *_: False):
            return make(), first()

    def against_reference(path: AttentionPath) -> Pair:
        return make(attention=path), make(attention="reference")

    paths = [path for path in ATTENTION_PATHS if path != "reference"]
    return [
        (PROMISED, "decoding on the one stream and beside", one_stream),
        (PROMISED, "shards 1, made again", lambda: (make(shards=1), make(shards=1))),
        (SEEN, "shards 1 and none", lambda: (make(shards=1), first())),
        (SEEN, "several shards and one", lambda: (make(shards=smallest_cut()), make(shards=1))),
        *((SEEN, f"attention {path} and reference", partial(against_reference, path)) for path in paths),
    ]


def _tell(
    section: Section,
    table: str,
    row: dict[str, Any],
    one: PyramidFlowPipelineOutput,
    other: PyramidFlowPipelineOutput,
) -> None:
    """A row of what is equal; a promise that is broken is a failure as well."""
    latents = (one.latents.double() - other.latents.double()).abs()
    levels = np.abs(np.asarray(one.frames).astype(int) - np.asarray(other.frames).astype(int))
    texts, noise = one.text_digests == other.text_digests, one.ledgers == other.ledgers
    same = texts and noise and torch.equal(one.latents, other.latents) and not levels.any()
    row = {
        **row,
        "dtype": str(row["dtype"]).removeprefix("torch."),
        "all equal": "yes" if same else "**no**" if table == PROMISED else "no",
        "text": "equal" if texts else "other",
        "noise": "equal" if noise else "other",
        "latents that differ": (latents > 0).double().mean().item(),
        "by at most": latents.max().item(),
        "largest latent": other.latents.abs().max().item(),
        "frame values that differ": float((levels > 0).mean()),
        "by at most, levels": int(levels.max()),
    }
    section.add_row(table, row)
    if table == PROMISED and not same:
        name = f"{row['model']}, {row['dtype']}: {row['what']}"
        section.fail(name, "promised to be equal, and is not", str(row))
