"""Helios (arXiv 2603.04379): chunks of nine latent frames, in the layout and the classes of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKLWan, HeliosTransformer3DModel

from ..choices import AttentionPath
from ..geometry import ChunkGeometry, PyramidGeometry
from .family import ReadConfig, class_in

UNIT_FRAMES = 9
"""Latent frames of a chunk, as in training: the default of diffusers' `num_latent_frames_per_chunk`."""
_PATCH_SIZE = (1, 2, 2)


@dataclass(frozen=True)
class HeliosFamily:
    """One of the three published models of Helios, which share their parts, see `Family`.

    Attributes:
        diffusers_class: the pipeline that its model_index.json names.
        is_distilled: what its model_index.json says.
        num_stages: of the published model; a saved one says it in the config of its scheduler.
    """

    name: str
    pipeline: str
    diffusers_class: str
    num_stages: int
    is_distilled: bool = False
    vae_class = AutoencoderKLWan
    transformer_class = HeliosTransformer3DModel
    attention: AttentionPath = "reference"
    # As in all examples of the authors and of diffusers; it is small, and what it makes is what is seen.
    float32_parts: frozenset[str] = frozenset({"vae"})

    @property
    def published_geometry(self) -> PyramidGeometry:
        """See `Family`."""
        return self._geometry({}, self.num_stages)

    def made(self, index: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return (
            class_in(index, "transformer") == self.transformer_class.__name__
            and index.get("_class_name") == self.diffusers_class
            and index.get("is_distilled", False) is self.is_distilled
        )

    def geometry(self, config: ReadConfig) -> PyramidGeometry:
        """See `Family`."""
        patch_size = tuple(config("transformer/config.json", "patch_size")["patch_size"])
        if patch_size != _PATCH_SIZE:
            raise ValueError(f"patch_size of a Helios transformer must be {_PATCH_SIZE}, got {patch_size}")
        # The class for models without a pyramid does not ask the scheduler for its stages.
        stages = config("scheduler/scheduler_config.json", "stages")["stages"] if self.num_stages > 1 else 1
        return self._geometry(config("vae/config.json"), stages)

    def _geometry(self, vae: Mapping[str, Any], num_stages: int) -> PyramidGeometry:
        return ChunkGeometry(
            # Left out by configs from before the class had them; these are its defaults.
            spatial_factor=vae.get("scale_factor_spatial", 8),
            temporal_factor=vae.get("scale_factor_temporal", 4),
            patch_size=_PATCH_SIZE[-1],
            num_stages=num_stages,
            unit_frames=UNIT_FRAMES,
        )

    def text_widths(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """See `Family`; nothing is pooled."""
        return config["text_dim"], 0


HELIOS_BASE = HeliosFamily("helios-base", "SeededHeliosPipeline", "HeliosPipeline", num_stages=1)
HELIOS_MID = HeliosFamily("helios-mid", "SeededHeliosPyramidPipeline", "HeliosPyramidPipeline", num_stages=3)
HELIOS_DISTILLED = HeliosFamily(
    "helios-distilled",
    "SeededHeliosPyramidPipeline",
    "HeliosPyramidPipeline",
    num_stages=3,
    is_distilled=True,
)
