"""The families of models: one file each, chosen by what a model's folder says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import Family, class_in
from .helios import HELIOS_BASE, HELIOS_DISTILLED, HELIOS_MID
from .pyramid_flow import MINIFLUX, SD3

FAMILIES: tuple[Family, ...] = (MINIFLUX, SD3, HELIOS_BASE, HELIOS_MID, HELIOS_DISTILLED)
PUBLISHED_MODELS: Mapping[str, Family] = {
    "rain1011/pyramid-flow-miniflux": MINIFLUX,
    "rain1011/pyramid-flow-sd3": SD3,
    "BestWishYsh/Helios-Base": HELIOS_BASE,
    "BestWishYsh/Helios-Mid": HELIOS_MID,
    "BestWishYsh/Helios-Distilled": HELIOS_DISTILLED,
}
"""The published checkpoints on the hub."""


def family_of_saved(index: Mapping[str, Any], where: str) -> Family:
    """The family of a model in the layout of diffusers, from its model_index.json.

    Raises:
        ValueError: its transformer is not one of ours, or its pipeline is not that of its transformer.
    """
    for family in FAMILIES:
        if family.made(index):
            return family
    name = class_in(index, "transformer")
    classes = dict.fromkeys(family.transformer_class.__name__ for family in FAMILIES)
    if name not in classes:
        raise ValueError(
            f"{where}/model_index.json must name a transformer {' or '.join(classes)}, got {name!r}"
        )
    raise ValueError(
        f"{where}/model_index.json must name a pipeline of diffusers for {name}, HeliosPipeline or "
        f"HeliosPyramidPipeline, got {index.get('_class_name')!r:.80}"
    )
