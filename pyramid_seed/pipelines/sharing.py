"""The pieces into which the steps of a clip are cut, and who computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..checks import check_int
from ..choices import MAX_SHARDS, MAX_WORKERS
from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..models.transformer_pyramid_base import PyramidTransformer3DModel
from ..noise import NoiseSource, NoiseStreams, noise_digest
from ..pieces.processes import Processes
from ..pieces.workers import Workers, usable_cores
from ..private_apis import diffusers_hooks
from .hooks import has_hooks
from .sampler import KnownLatents
from .text import TextEmbeddings, text_digests


@dataclass(frozen=True)
class Sharing:
    """How the steps of a clip are cut into pieces, and who computes them.

    Attributes:
        workers: those of this process.
        shards: pieces of the sequence of each half of guidance; None: both halves in one batch.
        processes: those that make the clip together; None: this one alone.
    """

    workers: Workers
    shards: int | None = None
    processes: Processes | None = None


def check_shards(shards: int | None, transformer: PyramidTransformer3DModel) -> None:
    """Refuse shards into which the transformer, with whatever acts on it, cannot be cut.

    Raises:
        ValueError, TypeError: the message names values that can be used.
    """
    if shards is None:
        return
    check_int("shards", shards, minimum=1)
    num_heads = transformer.config.num_attention_heads
    if shards > MAX_SHARDS or num_heads % shards:
        good = [count for count in range(1, MAX_SHARDS + 1) if num_heads % count == 0]
        raise ValueError(
            f"shards must divide the {num_heads} heads of the transformer, got {shards}; "
            f"use one of {', '.join(map(str, good))}"
        )
    reasons = {
        "attention 'reference' is one call for all": transformer.attention_path == "reference",
        "a step cache decides for a whole step at a time": transformer.cache_in_use is not None,
        "the transformer is compiled": transformer.is_compiled,
        "group offload moves the weights of a block while others still need them": any(
            "group_offloading" in name for module in transformer.modules() for name in diffusers_hooks(module)
        ),
    }
    for reason, holds in reasons.items():
        if shards > 1 and holds:
            raise ValueError(f"shards must be 1 here, got {shards}: {reason}; use 1")


def check_processes(number: int, shards: int | None, *, is_guided: bool) -> None:
    """Refuse more processes for one clip than it has pieces, or a number that does not divide them.

    Raises:
        ValueError: the message names values that can be used.
    """
    if number == 1:
        return
    if shards is None:
        raise ValueError(
            f"a clip that {number} processes make must be in pieces: give shards=1 for the two halves of "
            "guidance, or more"
        )
    num_pieces = shards * (2 if is_guided else 1)
    good = [count for count in range(1, num_pieces + 1) if num_pieces % count == 0]
    if number not in good:
        raise ValueError(
            f"processes of one clip must divide its {num_pieces} pieces (shards{' x 2' * is_guided}), got "
            f"{number}; use {' or '.join(map(str, good))} processes, or other shards"
        )


def check_agreement(
    processes: Processes,
    settings: tuple[object, ...],
    sources: Sequence[NoiseSource],
    positives: Sequence[TextEmbeddings],
    negatives: Sequence[TextEmbeddings | None],
    known: Sequence[KnownLatents],
) -> None:
    """Refuse to continue unless all processes will make the same clips: RuntimeError on each of them.

    Args:
        processes: those that make the clips.
        settings: of all clips.
        sources, positives, negatives, known: noise, text and known latents of each clip.
    """
    clips = [
        (
            source.root if isinstance(source, NoiseStreams) else None,
            text_digests(positive, negative),
            [
                None if latents is None else noise_digest(latents)
                for latents in (of_clip.units, of_clip.image)
            ],
        )
        for source, positive, negative, of_clip in zip(sources, positives, negatives, known, strict=True)
    ]
    processes.check_same("seed, text and settings", (clips, settings))


def worker_count(
    requested: int | None,
    device: torch.device,
    transformer: PyramidTransformer3DModel,
    vae: AutoencoderKLCausalVideo | None,
    *,
    is_strict: bool,
) -> int:
    """How many threads may compute at a time.

    More than one only on a CPU at level strict, where each kernel has one thread: elsewhere a kernel uses all
    cores, or the device. Only one, too, where hooks move weights, a step cache acts or blocks are compiled:
    these allow only one call of a model at a time.

    Raises:
        ValueError, TypeError: more were requested than are possible.
    """
    if requested is not None:
        check_int("workers", requested, minimum=1, maximum=MAX_WORKERS)
        if requested > 1 and not (is_strict and device.type == "cpu"):
            raise ValueError(
                f"workers are for determinism strict on a CPU, got {requested} on {device.type} at "
                f"{'strict' if is_strict else 'relaxed'}, where kernels share the work out; leave workers out"
            )
    is_free = (
        is_strict
        and device.type == "cpu"
        and not transformer.is_compiled
        and not has_hooks(transformer)
        and not (vae is not None and has_hooks(vae))
    )
    if not is_free:
        return 1
    return min(usable_cores(), MAX_WORKERS) if requested is None else requested
