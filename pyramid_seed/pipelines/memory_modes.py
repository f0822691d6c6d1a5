"""Which memory modes would fit after memory ran out: arithmetic over sizes, without tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that a generation takes, and may take, on its device, in bytes.

    Attributes:
        weights: those of each component.
        largest_block: weights of the largest block that runs in one go, such as one transformer block.
        largest_layer: weights of the largest single layer.
        text_encoders: names among `weights` that are not needed once the text is encoded.
        work: everything but weights when memory ran out, including the allocation that failed.
        available: how much weights and work may take together; None if unknown.
        on_accelerator: whether there is a CPU to which weights can be moved.
        is_float32: whether the models compute in float32.
        tile_share: the share of the VAE's work that is left with tiles; 1 where they would not help.
        size: (height, width) of the clip, None if unknown.
        size_multiple: height and width must be multiples of this.
        at_work: the component in which memory ran out; None if unknown.
    """

    weights: Mapping[str, int]
    largest_block: int
    largest_layer: int
    text_encoders: tuple[str, ...]
    work: int
    available: int | None
    on_accelerator: bool
    is_float32: bool
    tile_share: float
    size: tuple[int, int] | None
    size_multiple: int
    at_work: str | None = None

    def fits(self, peak: float) -> bool:
        """Whether this much memory can be had; if that is unknown, it is taken to fit."""
        return self.available is None or peak <= self.available


@dataclass(frozen=True)
class MemoryMode:
    """A way to need less memory: the call that asks for it, and the peak to expect, in bytes."""

    call: str
    peak: float


def memory_modes(need: MemoryNeed) -> tuple[MemoryMode, ...]:
    """The modes that lower the peak, cheapest in time first, with rough estimates.

    With W the weights of all components, A the work, and t the share that is left with tiles:

        now                     W + A
        text encoders freed     W - W_text + A
        VAE in tiles            W + t A             (only where the VAE ran out)
        bfloat16                (W + A) / 2         (only from float32)
        model offload           max(W_c, W_r + A)   (one component at a time; accelerators only)
        group offload           2 max W_block + A   (one block computes, the next one loads)
        sequential offload      max W_layer + A
        a smaller size          W + A h w / (H W)   (work grows at least with the number of pixels)

    W_r is the component in which memory ran out; if unknown, it may have been the largest one.

    The size proposed is the largest one of about the same shape that fits, if there is one.
    """
    total, work = sum(need.weights.values()), need.work
    modes = []
    if text := sum(need.weights[name] for name in need.text_encoders):
        modes.append(MemoryMode('text_encoders="free"', total - text + work))
    if need.tile_share < 1:
        modes.append(MemoryMode("pipeline.vae.enable_tiling()", total + need.tile_share * work))
    if need.is_float32:
        modes.append(MemoryMode("load_pipeline(..., dtype=torch.bfloat16)", (total + work) / 2))
    if need.on_accelerator:
        group = 'pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1)'
        largest = max(need.weights.values())
        at_work = largest if need.at_work is None else need.weights[need.at_work]
        modes += [
            MemoryMode("pipeline.enable_model_cpu_offload()", max(largest, at_work + work)),
            MemoryMode(group, 2 * need.largest_block + work),
            MemoryMode("pipeline.enable_sequential_cpu_offload()", need.largest_layer + work),
        ]
    room = 0 if need.available is None else need.available - total
    if need.size is not None and 0 < room < work:
        multiple, scale = need.size_multiple, math.sqrt(room / work)
        height, width = (int(side * scale) // multiple * multiple for side in need.size)
        if share := height * width / math.prod(need.size):
            modes.append(MemoryMode(f"height={height}, width={width}", total + work * share))
    return tuple(modes)


def advice(need: MemoryNeed) -> str:
    """A message that says what would fit; or, if nothing does alone, what comes closest."""
    modes = memory_modes(need)
    fitting = [mode for mode in modes if need.fits(mode.peak)]
    if fitting:
        return "would fit, by estimate: " + "; ".join(f"{m.call} (about {gib(m.peak)})" for m in fitting)
    if not modes:
        return "no memory mode helps here: use a smaller height and width, or fewer frames"
    best = min(modes, key=lambda mode: mode.peak)
    return (
        f"no memory mode fits alone; {best.call} comes closest, with about {gib(best.peak)}: use it with a "
        "smaller height and width"
    )


def gib(num_bytes: float) -> str:
    """A number of bytes as text, in GiB."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes < 10 * 2**30 else f"{num_bytes / 2**30:.0f} GiB"
