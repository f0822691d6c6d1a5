"""The geometry of a model whose configs are at hand: what it refuses is known before torch is imported."""

from __future__ import annotations

from pathlib import Path

from ..families import PUBLISHED_MODELS, family_of_saved
from ..geometry import PyramidGeometry
from ..resources import resolve_model
from .configs import naming, read_config


def known_geometry(model: str) -> PyramidGeometry | None:
    """The geometry of a published or embedded model; None for others, whose files must be found first."""
    if model in PUBLISHED_MODELS:
        return PUBLISHED_MODELS[model].published_geometry
    if not model.startswith("embedded:"):
        return None
    folder = Path(resolve_model(model))
    family = family_of_saved(read_config(folder / "model_index.json"), str(folder))
    with naming(folder):
        return family.geometry(lambda file, *_: read_config(folder / file))
