"""`attention`: the attention of one layer at the length of a late unit, against a dense mask."""

from __future__ import annotations

import argparse
from itertools import accumulate

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from pyramid_seed.models.attention import planned_attention
from pyramid_seed.models.attention_plan import attention_plan
from pyramid_seed.models.token_geometry import causal_attention_mask

from .measure import Bar, Result, Row, compared
from .sequence import attended_pairs, frame_tokens, published_geometry
from .sizes import NUM_REAL_TEXT, NUM_TEXT, SIZES, device_for

HEAD_DIM = 64
UNIT = 15
"""The last unit of 121 frames: the longest sequence."""
PICTURES = {"384p": (384, 640), "768p": (768, 1280)}
TOLERANCE = 1e-4


def measure(options: argparse.Namespace) -> Result:
    """Queries, keys and values to attended values; 24 of 128 text tokens are real, the rest is padding."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    pictures = {"64x128": (64, 128)} if size.name == "tiny" else PICTURES
    heads = 30 if size.name == "full" else 2
    rows, facts = [], {}
    for name, (height, width) in pictures.items():
        frames = frame_tokens(published_geometry(), height, width, UNIT, stage=2)
        row, difference = _layer(name, frames, heads, size.dtype, options.repeats, device)
        rows.append(row)
        facts[f"{name}: largest difference"] = difference
        computed = (sum(frames) + NUM_TEXT) ** 2 / attended_pairs(frames, NUM_REAL_TEXT)
        facts[f"{name}: pairs, dense / allowed"] = round(computed, 2)
    bars = [Bar("attention at 768p lengths", rows[-1].median_ratio, 1.9)]
    return Result(
        command="attention",
        what=f"attention of one layer, {heads} heads of {HEAD_DIM}, unit {UNIT}, last stage, {size.dtype}",
        baseline="one call with a dense boolean mask over the padded sequence",
        rows=rows,
        bars=[] if size.name == "tiny" else bars,
        facts=facts,
        device=device,
    )


def _layer(
    name: str, frames: tuple[int, ...], heads: int, dtype: torch.dtype, repeats: int, device: torch.device
) -> tuple[Row, float]:
    length = sum(frames) + NUM_TEXT
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, length, heads, HEAD_DIM, generator=generator).to(device, dtype) for _ in range(3)
    )
    text_mask = torch.arange(NUM_TEXT) >= NUM_TEXT - NUM_REAL_TEXT  # padding in front, as the product has it
    times = torch.cat([torch.full((count,), time) for time, count in enumerate(frames)])
    mask = causal_attention_mask(text_mask[None], times.float()).to(device)
    padding = NUM_TEXT - NUM_REAL_TEXT
    real_query, real_key, real_value = (each[:, padding:].contiguous() for each in (query, key, value))
    stops = [*accumulate(frames, initial=NUM_REAL_TEXT)][1:]
    plan = attention_plan(stops, torch.zeros(1, dtype=torch.int64), frames[-1], real_query, grouped=True)

    def product() -> torch.Tensor:
        return planned_attention(real_query, real_key, real_value, plan.calls)

    def baseline() -> torch.Tensor:
        return dispatch_attention_fn(query, key, value, attn_mask=mask)

    difference = (product() - baseline()[:, padding:]).abs().max().item()
    if dtype == torch.float32 and difference > TOLERANCE:
        raise AssertionError(f"the two ways differ by {difference}")
    return compared(f"{name}, {length} tokens", product, baseline, repeats, device), difference
