"""The files that a model is read from, and whether they are still the ones that were loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..pipelines import PyramidFlowPipeline
from .digests import weight_digests
from .layout import layout_of, list_files
from .load import read_original
from .original import read_config

_ENDINGS = (".safetensors", ".json", ".txt", ".model")


def weight_files_of(folder: Path, variant: str | None) -> tuple[str, ...]:
    """The files in a model's folder that loading it reads: weights, configs, tokenizers.

    Raises:
        ValueError: see `load_pipeline`.
    """
    files = list_files(folder)
    if layout_of(files, str(folder)) != "diffusers":
        return read_original(folder, variant).files
    parts = read_config(folder / "model_index.json")
    mine = (name for name in files if name.partition("/")[0] in parts and name.endswith(_ENDINGS))
    return ("model_index.json", *sorted(name for name in mine if "/" in name))


def stamps_of(folder: Path, variant: str | None) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of the last change in nanoseconds of each of these files; raises as above."""
    status = {name: (folder / name).stat() for name in weight_files_of(folder, variant)}
    return {name: (each.st_size, each.st_mtime_ns) for name, each in status.items()}


def changed_files(pipeline: PyramidFlowPipeline) -> list[str]:
    """The files that were written, removed or added since `load_pipeline` read them; none if it did not."""
    folder, loaded = pipeline.source_folder, pipeline.source_stamps
    if folder is None or loaded is None:
        return []
    try:
        now = stamps_of(folder, pipeline.source_variant)
    except (ValueError, OSError):  # not even a model any more
        return sorted(loaded)
    return sorted(name for name in loaded.keys() | now.keys() if loaded.get(name) != now.get(name))


def weights_of(pipeline: PyramidFlowPipeline) -> tuple[dict[str, Any], ...] | None:
    """Name, size and SHA-256 of the files that the pipeline was loaded from; None if they are not known.

    Raises:
        ValueError: they are others now, so that nobody can say any more what was loaded.
        OSError: a file cannot be read.
    """
    folder = pipeline.source_folder
    if folder is None:
        return None
    rows = weight_digests(folder, weight_files_of(folder, pipeline.source_variant))
    if changed := changed_files(pipeline):
        raise ValueError(
            f"{folder} has changed since the model was loaded ({', '.join(changed)}); load it again"
        )
    return tuple(rows)
