"""diffusers' transformer of Helios, which remembers the files of its LoRAs."""

from __future__ import annotations

import diffusers

from .lora import LoraMixin


class HeliosTransformer3DModel(LoraMixin, diffusers.HeliosTransformer3DModel):
    """diffusers' class of the same name with the LoRA methods of `LoraMixin`."""


def remember_loras(transformer: object) -> None:
    """Give a transformer of diffusers, as its own loader makes one, these methods, in place."""
    if type(transformer) is diffusers.HeliosTransformer3DModel:
        transformer.__class__ = HeliosTransformer3DModel
