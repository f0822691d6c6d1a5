"""Finished units of an unfinished clip: one file each, so that a killed run continues after the last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..files import check_readable, write_file
from ..geometry import ImageRole
from ..noise import noise_digest
from ..pipelines.beginning import Beginning
from .errors import refuse_too_many_files


def save_unit(
    folder: Path, unit: int, latents: torch.Tensor, stage_digests: Sequence[str], origin: Mapping[str, Any]
) -> None:
    """Write the latents (1, C, n, h, w) of one unit, whole or not at all.

    Args:
        folder: the clip's work folder.
        unit: its index.
        latents: float32, normalised.
        stage_digests: SHA-256 of the unit's latents after each stage.
        origin: what made them, in types that JSON supports; `load_units` compares it.
    """
    kept = latents.detach().to("cpu", torch.float32).contiguous()
    stages = " ".join(stage_digests)
    metadata = {
        "sha256": _digest(kept, stages),
        "unit": str(unit),
        "stages": stages,
        "origin": _text(origin),
    }
    write_file(_path(folder, unit), safetensors.torch.save({"latents": kept}, metadata), overwrite=True)


def load_units(
    folder: Path,
    limit: int,
    origin: Mapping[str, Any],
    image_digest: str | None = None,
    frames_per_unit: int = 1,
    image_role: ImageRole = "unit",
) -> tuple[Beginning | None, str | None]:
    """The clip's first units, as many as can be continued from.

    Args:
        folder: the clip's work folder.
        limit: read at most this many.
        origin: what must have made them.
        image_digest: digest of the clip's image, see `Beginning`; None if no image was given.
        frames_per_unit: latent frames of a unit.
        image_role: what an image is to the clip.

    Returns:
        The units or None; and why an existing unit was refused, if one was.
    """
    latents: list[torch.Tensor] = []
    stage_digests: list[tuple[str, ...]] = []
    refusal = None
    for unit in range(limit):
        path = _path(folder, unit)
        if not os.path.lexists(path):
            break
        try:
            is_image = unit == 0 and image_digest is not None and image_role == "unit"
            values, stages = _read(path, unit, _text(origin), is_image, frames_per_unit)
            if latents and values.shape != latents[0].shape:
                raise ValueError(
                    f"its latents have another shape than those of unit 0: {tuple(values.shape)}"
                )
        except (ValueError, OSError) as error:
            refuse_too_many_files(error)
            refusal = f"{path}: {error}"
            break
        latents.append(values)
        stage_digests.append(stages)
    if not latents:
        return None, refusal
    beginning = Beginning(
        torch.cat(latents, dim=2),
        tuple(stage_digests),
        image_digest=image_digest,
        frames_per_unit=frames_per_unit,
    )
    return beginning, refusal


def _read(
    path: Path, unit: int, origin: str, is_image: bool, frames_per_unit: int
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Latents (1, C, n, h, w) and stage digests of a unit; ValueError says why it cannot be used."""
    try:
        check_readable(path)
        path.open("rb").close()  # so that a system error is raised as Python's
        with safetensors.safe_open(path, framework="pt") as file:
            latents = file.get_tensor("latents")
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is damaged ({error})") from error
    is_unit = latents.ndim == 5 and (latents.shape[0], latents.shape[2]) == (1, frames_per_unit)
    if latents.dtype != torch.float32 or not is_unit:
        raise ValueError(
            f"its latents are not those of a unit: {latents.dtype} of shape {tuple(latents.shape)}"
        )
    if not torch.isfinite(latents).all():
        raise ValueError("its latents are not finite")
    stages = metadata.get("stages", "")
    if metadata.get("sha256") != _digest(latents, stages) or metadata.get("unit") != str(unit):
        raise ValueError("its latents or digests are not the ones that were written")
    if metadata.get("origin") != origin:
        raise ValueError("it was made on another machine, device or with other versions")
    if (stages == "") != is_image:
        raise ValueError("it does not belong to this clip: only unit 0 of a clip with an image has no stages")
    return latents, tuple(stages.split())


def _digest(latents: torch.Tensor, stages: str) -> str:
    return hashlib.sha256(f"{noise_digest(latents)} {stages}".encode()).hexdigest()


def _path(folder: Path, unit: int) -> Path:
    return folder / f"unit-{unit:04d}.safetensors"


def _text(origin: Mapping[str, Any]) -> str:
    return json.dumps(origin, sort_keys=True)
