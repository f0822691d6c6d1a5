"""The geometry of a model, from its configs alone: what it refuses is known before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..geometry import PyramidGeometry
from ..resources import resolve_model
from .configs import naming, read_config
from .layout import MINIFLUX, SD3

PUBLISHED_MODELS = {"rain1011/pyramid-flow-miniflux": MINIFLUX, "rain1011/pyramid-flow-sd3": SD3}
"""The published checkpoints on the hub."""
PUBLISHED_GEOMETRY = PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)
"""The geometry of the published checkpoints: it says what fits before the hub is asked."""


def known_geometry(model: str) -> PyramidGeometry | None:
    """The geometry of a published or embedded model; None for others, whose files must be found first."""
    if model in PUBLISHED_MODELS:
        return PUBLISHED_GEOMETRY
    if not model.startswith("embedded:"):
        return None
    folder = Path(resolve_model(model))
    return saved_geometry(folder, lambda file, *_: read_config(folder / file))


def saved_geometry(folder: Path, config: Callable[..., Mapping[str, Any]]) -> PyramidGeometry:
    """The geometry of a model in the layout of diffusers.

    Args:
        folder: the model's.
        config: called with the name of a config and the keys that it must have, returns it.

    Raises:
        ValueError: a config describes a model that we do not implement.
    """
    vae = config("vae/config.json", "spatial_down_sample", "temporal_down_sample")
    patch_size = config("transformer/config.json", "patch_size")["patch_size"]
    stages = config("scheduler/scheduler_config.json", "stages")["stages"]
    return geometry_of(folder, vae, patch_size, stages)


def geometry_of(folder: Path, vae: Mapping[str, Any], patch_size: Any, stages: Any) -> PyramidGeometry:
    """The geometry of the model in a folder; ValueError, which names the folder, if there is none."""
    with naming(folder):
        return PyramidGeometry(
            spatial_factor=2 ** sum(map(bool, vae["spatial_down_sample"])),
            temporal_factor=2 ** sum(map(bool, vae["temporal_down_sample"])),
            patch_size=patch_size,
            num_stages=stages,
        )
