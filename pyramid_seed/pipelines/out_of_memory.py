"""When memory runs out: which memory modes would have fitted, and how to ask for them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any

import psutil
import torch
from torch import nn

from ..models import autoencoder_kl_causal_video

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_ASKED = re.compile(rf"allocate ([\d.]+) ({'|'.join(_UNITS)})", re.IGNORECASE)
_WORDS = ("out of memory", "can't allocate memory")


class GenerationOutOfMemoryError(torch.OutOfMemoryError, MemoryError):
    """Memory ran out; the message names what would fit, the cause is the error of torch."""


@dataclass(frozen=True)
class MemoryNeed:
    """What a generation takes and may take on its device, in bytes.

    Attributes:
        weights: of each component.
        largest_block: weights of the largest block that is run in one go, such as one transformer block.
        largest_layer: weights of the largest single layer.
        text_encoders: names among `weights` that are not needed once the text is encoded.
        work: everything but weights, at the moment when memory ran out, with what was asked for then.
        available: what weights and work may take together; None if that cannot be known.
    """

    weights: Mapping[str, int]
    largest_block: int
    largest_layer: int
    text_encoders: tuple[str, ...]
    work: int
    available: int | None

    def fits(self, peak: float) -> bool:
        """Whether so much can be had; what cannot be known is taken to fit."""
        return self.available is None or peak <= self.available


@dataclass(frozen=True)
class Situation:
    """What the choice of a memory mode depends on, besides sizes.

    Attributes:
        on_accelerator: whether there is a CPU to which weights can go.
        is_float32: whether the models compute in float32.
        tile_share: what part of the VAE's work one tile takes; 1 where tiles would not help.
        size: (height, width) of the clip, None if not known.
        size_multiple: what height and width must be multiples of.
    """

    on_accelerator: bool
    is_float32: bool
    tile_share: float
    size: tuple[int, int] | None
    size_multiple: int


@dataclass(frozen=True)
class MemoryMode:
    """A way to need less, the call that asks for it, and the peak in bytes to expect then."""

    call: str
    peak: float


def memory_modes(need: MemoryNeed, situation: Situation) -> tuple[MemoryMode, ...]:
    """The modes that lower the peak, cheapest in time first, with plain estimates.

    With W the weights of all components, A the work, and t the share of a tile:

        now                     W + A
        text encoders freed     W - W_text + A
        VAE in tiles            W + t A             (only where the VAE ran out)
        bfloat16                (W + A) / 2         (only from float32)
        model offload           max W_c + A         (one component at a time; accelerators only)
        group offload           2 max W_block + A   (one block computes, the next one loads)
        sequential offload      max W_layer + A
        a smaller picture       W + A h w / (H W)   (work grows at least with the number of pixels)

    The size proposed is the largest one of about the same shape that fits, if any does.
    """
    total, work = sum(need.weights.values()), need.work
    modes = []
    if text := sum(need.weights[name] for name in need.text_encoders):
        modes.append(MemoryMode('text_encoders="free"', total - text + work))
    if situation.tile_share < 1:
        modes.append(MemoryMode("pipeline.vae.enable_tiling()", total + situation.tile_share * work))
    if situation.is_float32:
        modes.append(MemoryMode("load_pipeline(..., dtype=torch.bfloat16)", (total + work) / 2))
    if situation.on_accelerator:
        group = 'pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1)'
        modes += [
            MemoryMode("pipeline.enable_model_cpu_offload()", max(need.weights.values()) + work),
            MemoryMode(group, 2 * need.largest_block + work),
            MemoryMode("pipeline.enable_sequential_cpu_offload()", need.largest_layer + work),
        ]
    if (smaller := _smaller_size(need, situation)) is not None:
        height, width = smaller
        assert situation.size is not None
        share = height * width / math.prod(situation.size)
        modes.append(MemoryMode(f"height={height}, width={width}", total + work * share))
    return tuple(modes)


def _smaller_size(need: MemoryNeed, situation: Situation) -> tuple[int, int] | None:
    room = None if need.available is None else need.available - sum(need.weights.values())
    if situation.size is None or room is None or not 0 < room < need.work:
        return None
    multiple, scale = situation.size_multiple, math.sqrt(room / need.work)
    height, width = (int(side * scale) // multiple * multiple for side in situation.size)
    return (height, width) if height and width else None


def advice(need: MemoryNeed, situation: Situation) -> str:
    """What would fit, for people; or, where nothing does alone, what comes closest."""
    modes = memory_modes(need, situation)
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


@contextmanager
def out_of_memory_advice(
    pipeline: Any, size: tuple[int, int] | None = None, first: str = ""
) -> Iterator[None]:
    """Say which memory modes would fit when memory runs out in the body.

    Args:
        pipeline: whose components take the memory.
        size: (height, width) of the clip, None if not known.
        first: what is to be done before any of the modes.

    Raises:
        GenerationOutOfMemoryError: in place of what torch or NumPy raised, which is its cause.
    """
    try:
        yield
    except GenerationOutOfMemoryError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        device = pipeline._execution_device
        need = memory_need(pipeline, device, bytes_asked(str(error)))
        situation = _situation(pipeline, device, size, _ran_in_vae(error.__traceback__))
        limit = "" if need.available is None else f", {gib(need.available)} can be had"
        raise GenerationOutOfMemoryError(
            f"out of memory on {device}: weights take {gib(sum(need.weights.values()))} and the work at "
            f"least {gib(need.work)}{limit}; {first}{advice(need, situation)}"
        ) from error


def with_out_of_memory_advice(call: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's call under `out_of_memory_advice`, with the size that its arguments give."""
    parameters = inspect.signature(call)

    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs).arguments
        height, width = given.get("height"), given.get("width")
        size = None if height is None or width is None else (height, width)
        with out_of_memory_advice(given["self"], size):
            return call(*args, **kwargs)

    return wrapped


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on the CPU, torch has no class of its own for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def bytes_asked(message: str) -> int:
    """How much was asked for when memory ran out, read from the message of torch or NumPy; 0 if not told."""
    found = _ASKED.search(message)
    if found is None:
        return 0
    factors = {name.lower(): factor for name, factor in _UNITS.items()}
    return int(float(found[1]) * factors[found[2].lower()])


def memory_need(pipeline: Any, device: torch.device, asked: int) -> MemoryNeed:
    """What a pipeline takes on a device now.

    The work is what torch has allocated there besides the weights, plus what it was asked for last; torch
    does not count on the CPU, where the work is at least what was asked for. Available is what is free, plus
    what torch holds (on the CPU: plus the weights, which have their place already).
    """
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    weights = {name: _bytes_of(module) for name, module in modules.items()}
    if device.type == "cuda":
        here = sum(_bytes_of(module, device) for module in modules.values())
        free, _ = torch.cuda.mem_get_info(device)
        available: int | None = free + torch.cuda.memory_reserved(device)
        work = max(torch.cuda.memory_allocated(device) - here, 0) + asked
    elif device.type == "cpu":
        available, work = psutil.virtual_memory().available + sum(weights.values()), asked
    else:
        available, work = None, asked
    blocks = [
        _bytes_of(block)
        for module in modules.values()
        for each in module.modules()
        if isinstance(each, nn.ModuleList)
        for block in each
    ]
    layers = [
        _bytes_of(each) for module in modules.values() for each in module.modules() if not [*each.children()]
    ]
    text_encoders = tuple(name for name in modules if name.startswith("text_encoder"))
    return MemoryNeed(weights, max(blocks, default=0), max(layers, default=0), text_encoders, work, available)


def gib(num_bytes: float) -> str:
    """For people, in GiB."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes < 10 * 2**30 else f"{num_bytes / 2**30:.0f} GiB"


def _situation(pipeline: Any, device: torch.device, size: tuple[int, int] | None, in_vae: bool) -> Situation:
    vae, share = pipeline.vae, 1.0
    if in_vae and size is not None and not vae.use_tiling:
        tile = vae.tile_sample_min_height, vae.tile_sample_min_width
        share = math.prod(min(edge / side, 1.0) for edge, side in zip(tile, size, strict=True))
    return Situation(
        on_accelerator=device.type != "cpu",
        is_float32=pipeline.transformer.dtype == torch.float32,
        tile_share=share,
        size=size,
        size_multiple=pipeline.geometry.size_multiple,
    )


def _bytes_of(module: nn.Module, device: torch.device | None = None) -> int:
    """Bytes of the weights of a module, or of those on a device."""
    return sum(
        each.nbytes
        for each in (*module.parameters(), *module.buffers())
        if device is None or each.device == device
    )


def _ran_in_vae(place: TracebackType | None) -> bool:
    while place is not None:
        if place.tb_frame.f_globals.get("__name__") == autoencoder_kl_causal_video.__name__:
            return True
        place = place.tb_next
    return False
