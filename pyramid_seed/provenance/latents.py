"""Latents kept beside a clip, from which it can be continued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..files import write_file
from ..noise import noise_digest
from .manifest import unit_digests


def write_latents(path: Path, latents: torch.Tensor, *, overwrite: bool = False) -> None:
    """Write latents (1, C, t, h, w) with their SHA-256 as metadata; whole or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
    """
    kept = latents.detach().to("cpu", torch.float32).contiguous()
    # Not save_file: other users could not read the file it makes.
    data = save({"latents": kept}, metadata={"sha256": noise_digest(kept)})
    write_file(path, data, overwrite=overwrite)


def read_latents(path: Path, digests: Sequence[str] | None = None, frames_per_unit: int = 1) -> torch.Tensor:
    """Read latents (1, C, t, h, w) that `write_latents` wrote.

    Args:
        path: the file.
        digests, frames_per_unit: those of the units that it must hold, from a manifest, and their latent
            frames; see `manifest.unit_digests`.

    Raises:
        ValueError: it is not such a file, it is damaged, or its units do not match `digests`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            latents = file.get_tensor("latents")
            recorded = (file.metadata() or {}).get("sha256")
    except SafetensorError as error:
        raise ValueError(f"{path} holds no latents: {error}") from error
    if latents.ndim != 5 or latents.dtype != torch.float32 or noise_digest(latents) != recorded:
        raise ValueError(f"{path} is damaged: its latents are not those that were written")
    if digests is None:
        return latents
    found = unit_digests(latents, frames_per_unit)
    if len(found) != len(digests):
        raise ValueError(f"{path} holds {len(found)} units, the clip has {len(digests)}")
    for unit, (here, there) in enumerate(zip(found, digests, strict=True)):
        if here != there:
            raise ValueError(
                f"{path} does not belong to the clip: unit {unit} has SHA-256 {here[:16]}..., the manifest "
                f"says {there[:16]}...; remove the file to regenerate the clip instead"
            )
    return latents
