"""LoRAs as named on a command line or in a list: `FILE`, or `FILE:SCALE`."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from pathlib import Path


def named_loras(texts: Iterable[str], folder: Path = Path()) -> dict[str | Path, float]:
    """Files and scales of LoRAs, in the order in which they are named.

    Args:
        texts: each names a .safetensors, or a folder or hub id that holds it, as "style.safetensors:0.7"; the
            default scale is 1.0.
        folder: where relative paths start.

    Raises:
        ValueError: a scale is not finite, or a file is named twice.
    """
    scales: dict[str | Path, float] = {}
    for text in texts:
        file, scale = _file_and_scale(text, folder)
        if file in scales:
            raise ValueError(f"the LoRA {file} is given twice; give it once, with one scale")
        scales[file] = scale
    return scales


def _file_and_scale(text: str, folder: Path) -> tuple[str, float]:
    """A LoRA's file and its scale; a colon may also be part of the file's name."""
    if not text.strip():
        raise ValueError(f"a LoRA must be named as FILE or FILE:SCALE, got {text!r}")
    file, colon, scale = text.rpartition(":")
    if not colon or (folder / text).exists():
        return _here(text, folder), 1.0
    try:
        factor = float(scale)
    except ValueError:
        if not (folder / file).exists():
            return text, 1.0
        factor = float("nan")
    if not isfinite(factor):
        raise ValueError(f"the scale of the LoRA {file} must be a finite number, got {scale!r}; use 1.0")
    return _here(file, folder), factor


def _here(file: str, folder: Path) -> str:
    """The path of an existing file or folder; anything else, such as a hub id, unchanged."""
    return str(folder / file) if (folder / file).exists() else file
