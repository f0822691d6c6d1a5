"""Finished units of an unfinished clip: one file each, so that a killed run goes on after the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..noise import noise_digest
from .files import replacing


def save_unit(folder: Path, unit: int, latents: torch.Tensor, origin: Mapping[str, Any]) -> None:
    """Write the latents (1, C, 1, h, w) of one unit, whole or not at all.

    Args:
        folder: of the clip.
        unit: its index.
        latents: float32, normalised.
        origin: what they were made by, in types that JSON knows; `load_units` compares it.
    """
    kept = latents.detach().to("cpu", torch.float32).contiguous()
    metadata = {"sha256": noise_digest(kept), "unit": str(unit), "origin": _text(origin)}
    data = safetensors.torch.save({"latents": kept}, metadata)
    with replacing(_path(folder, unit), overwrite=True) as temporary:
        temporary.write_bytes(data)


def load_units(folder: Path, limit: int, origin: Mapping[str, Any]) -> tuple[torch.Tensor | None, str | None]:
    """The clip's first units, as many as can be gone on from.

    Args:
        folder: of the clip.
        limit: read no more than these.
        origin: what they must have been made by.

    Returns:
        Latents (1, C, k, h, w) or None; and why a unit that is there was refused, if one was.
    """
    units: list[torch.Tensor] = []
    for unit in range(limit):
        path = _path(folder, unit)
        if not path.is_file():
            break
        latents, reason = _read(path, unit, _text(origin))
        if latents is None:
            return _joined(units), f"{path}: {reason}"
        units.append(latents)
    return _joined(units), None


def _read(path: Path, unit: int, origin: str) -> tuple[torch.Tensor | None, str]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            latents = file.get_tensor("latents")
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        return None, f"it is damaged ({error})"
    if metadata.get("sha256") != noise_digest(latents) or metadata.get("unit") != str(unit):
        return None, "its latents are not those that were written"
    if metadata.get("origin") != origin:
        return None, "it was made on another machine, device or with other versions"
    return latents, ""


def _joined(units: list[torch.Tensor]) -> torch.Tensor | None:
    return torch.cat(units, dim=2) if units else None


def _path(folder: Path, unit: int) -> Path:
    return folder / f"unit-{unit:04d}.safetensors"


def _text(origin: Mapping[str, Any]) -> str:
    return json.dumps(origin, sort_keys=True)
