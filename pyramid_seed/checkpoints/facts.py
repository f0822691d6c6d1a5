"""What is known of a model before it is loaded: its files and the sizes that its configs allow."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoints.digests import weights_key
from ..geometry import PyramidGeometry
from ..resources import resolve_model
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler
from .digests import weight_digests
from .load import fetch_checkpoint, find_layout, read_original
from .original import read_config
from .original_configs import transformer_config_from_original, vae_config_from_original
from .source import weight_files_of


@lru_cache
def model_folder(model: str, variant: str | None) -> Path:
    """The local folder of a model; see `load_pipeline` for what is downloaded and raised."""
    return fetch_checkpoint(resolve_model(model), variant=variant)


@lru_cache
def model_geometry(model: str, variant: str | None) -> PyramidGeometry:
    """Sizes and counts that the model allows, read from its configs; weights are not touched.

    Raises:
        ValueError: a config is missing or broken, the layout is none that is known, or there is no such
            variant.
        OSError: there is no such model.
    """
    folder = model_folder(model, variant)
    if find_layout(folder) == "diffusers":
        if variant is not None:  # as `load_pipeline` says it, but before anything is loaded
            raise ValueError(
                f"{folder} was written by save_pretrained and has one transformer; leave variant out"
            )
        vae = _config(folder / "vae" / "config.json", "spatial_down_sample", "temporal_down_sample")
        transformer = _config(folder / "transformer" / "config.json", "patch_size")
        scheduler = _config(folder / "scheduler" / "scheduler_config.json", "stages")
        patch_size, stages = transformer["patch_size"], scheduler["stages"]
    else:
        checkpoint = read_original(folder, variant)
        transformer = read_config(folder / checkpoint.transformer / "config.json")
        vae_config = read_config(folder / "causal_video_vae" / "config.json")
        vae = vae_config_from_original(vae_config)
        patch_size = transformer_config_from_original(checkpoint.family, transformer)["patch_size"]
        stages = PyramidFlowMatchEulerDiscreteScheduler().config.stages
    return PyramidGeometry(
        spatial_factor=2 ** sum(vae["spatial_down_sample"]),
        temporal_factor=2 ** sum(vae["temporal_down_sample"]),
        patch_size=patch_size,
        num_stages=stages,
    )


def model_weights_key(model: str, variant: str | None) -> str:
    """SHA-256 (hex) that names the model's files by their content now, see `batch.identity.weights_key`.

    Reads every file the first time; digests are kept, see `runs.weights`.
    """
    folder = model_folder(model, variant)
    return weights_key(weight_digests(folder, weight_files_of(folder, variant)))


def _config(path: Path, *names: str) -> dict[str, Any]:
    config = read_config(path)
    if missing := [name for name in names if name not in config]:
        raise ValueError(f"{path} must have {', '.join(missing)}")
    return config
