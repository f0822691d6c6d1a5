"""When memory runs out: which memory modes would have fitted, and how to ask for them."""

from __future__ import annotations

import logging
import math
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import torch
from torch import nn

from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from .memory_modes import MemoryNeed, advice, gib
from .working_memory import decode_bytes

logger = logging.getLogger(__name__)

_ASKED = re.compile(r"to allocate (?P<number>[\d.]+) (?P<unit>\w+)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_WORDS = ("out of memory", "can't allocate memory")


class GenerationOutOfMemoryError(torch.OutOfMemoryError, MemoryError):
    """Memory ran out; the message names the modes that would fit, the cause is torch's error."""


@contextmanager
def out_of_memory_advice(
    pipeline: Any, size: tuple[int, int] | None = None, first: str = "", *, is_clip: bool = True
) -> Iterator[None]:
    """Say which memory modes would fit when memory runs out in the body.

    Args:
        pipeline: the one whose components take the memory.
        size: (height, width) of the clip, None if unknown.
        first: what to do before any of the modes.
        is_clip: whether there is more than one latent frame.

    Raises:
        GenerationOutOfMemoryError: replaces the error of torch or NumPy, which is its cause.
    """
    try:
        yield
    except GenerationOutOfMemoryError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        device = pipeline._execution_device
        need = memory_need(
            pipeline, device, bytes_asked(str(error)), size, _at_work(error, pipeline), is_clip
        )
        limit = "" if need.available is None else f", {gib(need.available)} are available"
        raise GenerationOutOfMemoryError(
            f"out of memory on {device}: weights take {gib(sum(need.weights.values()))} and the work at "
            f"least {gib(need.work)}{limit}; {first}{advice(need)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch has no error class for that on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def bytes_asked(message: str) -> int:
    """The bytes requested when memory ran out, from the message of torch or NumPy; 0 if it names none."""
    asked = _ASKED.search(message)
    return 0 if asked is None else int(float(asked["number"]) * _UNITS.get(asked["unit"], 0))


def memory_need(
    pipeline: Any,
    device: torch.device,
    asked: int,
    size: tuple[int, int] | None = None,
    at_work: str | None = None,
    is_clip: bool = True,
) -> MemoryNeed:
    """The memory that a pipeline takes on a device, for clips of a size, when it ran out in a component.

    The work is what torch has allocated there besides the weights, plus the request that failed; on the CPU,
    where torch does not count, at least that request. For a clip that is decoded, it is at least
    `decode_bytes`. Available is what is free, plus what torch holds (on the CPU: plus the weights, already in
    place).
    """
    models = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    weights = {name: num_bytes(model) for name, model in models.items()}
    modules = [module for model in models.values() for module in model.modules()]
    # Each entry of a module list runs in one go.
    blocks = [block for module in modules if isinstance(module, nn.ModuleList) for block in module]
    layers = [module for module in modules if next(module.children(), None) is None]
    available: int | None = None
    work = asked
    if device.type == "cuda":
        here = sum(num_bytes(model, device) for model in models.values())
        free, _ = torch.cuda.mem_get_info(device)
        available = free + torch.cuda.memory_reserved(device)
        work += max(torch.cuda.memory_allocated(device) - here, 0)
    elif device.type == "cpu":
        available = psutil.virtual_memory().available + sum(weights.values())
    vae, tile_share = pipeline.vae, 1.0
    if at_work == "vae" and size is not None and not vae.use_tiling:
        if is_clip:
            whole, tiled = decoding_needs(vae, size, device)
            work, tile_share = max(work, whole), tiled / whole
        else:
            tile = vae.tile_grid.size
            tile_share = math.prod(min(edge / side, 1.0) for edge, side in zip(tile, size, strict=True))
    return MemoryNeed(
        weights=weights,
        largest_block=max(map(num_bytes, blocks), default=0),
        largest_layer=max(map(num_bytes, layers), default=0),
        text_encoders=tuple(name for name in models if name.startswith("text_encoder")),
        work=work,
        available=available,
        on_accelerator=device.type != "cpu",
        is_float32=pipeline.dtype == torch.float32,
        tile_share=tile_share,
        size=size,
        size_multiple=pipeline.geometry.size_multiple,
        at_work=at_work,
    )


def decoding_needs(
    vae: AutoencoderKLCausalVideo, size: tuple[int, int], device: torch.device
) -> tuple[int, int]:
    """Bytes that decoding a clip of (height, width) pixels takes besides weights: whole, and in tiles."""
    need = partial(decode_bytes, vae.config, *size, vae.dtype.itemsize, kernel_copies=device.type == "cuda")
    return need(), need(tiles=vae.tile_grid)


def warn_of_decoding(pipeline: Any, size: tuple[int, int]) -> None:
    """Warn, before any step, if decoding a clip of (height, width) will hardly fit on a GPU."""
    vae, device = pipeline.vae, pipeline._execution_device
    if device.type != "cuda" or vae.use_tiling:
        return
    whole, tiled = decoding_needs(vae, size, device)
    free, _ = torch.cuda.mem_get_info(device)
    room = free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if whole > room:
        logger.warning(
            f"decoding {size[0]}x{size[1]} as a whole takes about {gib(whole)}, {gib(room)} are free on "
            f"{device}; with pipeline.vae.enable_tiling() it takes about {gib(tiled)}"
        )


def num_bytes(module: nn.Module, device: torch.device | None = None) -> int:
    """Bytes of the weights of a module, or of those on one device."""
    weights = (*module.parameters(), *module.buffers())
    return sum(weight.nbytes for weight in weights if device is None or weight.device == device)


def _at_work(error: BaseException, pipeline: Any) -> str | None:
    """The component in which the error was raised, from the modules of the innermost calls."""
    owners = {
        module: name
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module)
        for module in part.modules()
    }
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    selves = [frame.f_locals.get("self") for frame in reversed(frames)]
    return next((owners[own] for own in selves if isinstance(own, nn.Module) and own in owners), None)
