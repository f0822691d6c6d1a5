"""diffusers' transformer of Helios, which remembers the files of its LoRAs."""

from __future__ import annotations

import diffusers

from .lora import LoraMixin


class HeliosTransformer3DModel(LoraMixin, diffusers.HeliosTransformer3DModel):
    """diffusers' class of the same name with the LoRA methods of `LoraMixin`."""

    # diffusers writes module and name into model_index.json: its own, so that it reads the folder.
    __module__ = diffusers.HeliosTransformer3DModel.__module__


def remember_loras(transformer: object) -> None:
    """Give a transformer of diffusers, as its own loader makes one, these methods, in place."""
    if type(transformer) is diffusers.HeliosTransformer3DModel:
        transformer.__class__ = HeliosTransformer3DModel
