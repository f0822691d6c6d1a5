"""Wrappers of a pipeline's call: admission, and settings that hold while it runs."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ..determinism import determinism_level
from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..pieces.processes import processes_left_on_error
from .out_of_memory import out_of_memory_advice, warn_of_decoding

_at_work: set[int] = set()
"""Identities of the parts that calls in progress use."""
_admission = threading.Lock()
"""Held while `_at_work` is read or changed."""


def admitted(call: Callable[..., Any]) -> Callable[..., Any]:
    """Run a pipeline's call alone, at the determinism level and with the attention that it names.

    Whatever a call changes, it changes only once admitted, and restores when it ends.
    """
    signature = inspect.signature(call)

    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = bound.arguments
        pipeline, height, width = (named[name] for name in ("self", "height", "width"))
        is_decoded = named["output_type"] != "latent" or named["callback_on_chunk_end"] is not None
        is_clip = named["num_frames"] != 1
        with processes_left_on_error(named["processes"]):
            pipeline.check_parts(needs_vae=is_decoded or named["image"] is not None)
            size = None if height is None or width is None else (height, width)
            if not isinstance(pipeline.vae, AutoencoderKLCausalVideo | None):
                size = None  # what decoding takes is known of our own VAE alone
            with (
                _one_at_a_time(pipeline),
                determinism_level(named["determinism"]),
                pipeline.attention_path_set(named["attention"]),
                out_of_memory_advice(pipeline, size, is_clip=is_clip),
            ):
                if is_decoded and is_clip and size is not None:
                    warn_of_decoding(pipeline, size)
                return call(*args, **kwargs)

    return wrapped


@contextmanager
def _one_at_a_time(pipeline: Any) -> Iterator[None]:
    """Refuse a call while another uses the same scheduler or models: each would corrupt the other."""
    used = (pipeline.scheduler, pipeline.transformer, pipeline.vae)
    parts = {id(part) for part in used if part is not None}
    with _admission:
        if not parts.isdisjoint(_at_work):
            raise RuntimeError(
                "this pipeline is making a clip, in another thread or around this callback; wait for it, or "
                "use a process for each"
            )
        _at_work.update(parts)
    try:
        yield
    finally:
        with _admission:
            _at_work.difference_update(parts)
