"""The two published families of Pyramid Flow (arXiv 2410.05954)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..choices import DEFAULT_PATH, AttentionPath
from ..geometry import PyramidGeometry
from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..models.transformer_pyramid_flux import PyramidFluxTransformer3DModel
from ..models.transformer_pyramid_sd3 import PyramidSD3Transformer3DModel
from .family import ReadConfig, class_in

VAE_PART = "causal_video_vae"
"""The folder of the autoencoder in the original's layout."""


@dataclass(frozen=True)
class PyramidFlowFamily:
    """One of the two published families of Pyramid Flow, see `Family` for what all families say.

    Attributes:
        name: as `load_components` reports it.
        transformer_class: ours, as model_index.json names it; its arguments default to the published sizes.
        original_transformer: `_class_name` in the original's transformer config.
        text_encoders, tokenizers: from folder to class in transformers.
        shift_factor, scaling_factor: latent statistics of the first frame, (latent - shift) * scaling; those
            of later frames are the same in both families.
    """

    name: str
    transformer_class: type[PyramidFluxTransformer3DModel] | type[PyramidSD3Transformer3DModel]
    original_transformer: str
    text_encoders: Mapping[str, str]
    tokenizers: Mapping[str, str]
    shift_factor: float
    scaling_factor: float
    pipeline = "PyramidFlowPipeline"
    vae_class = AutoencoderKLCausalVideo
    attention: AttentionPath = DEFAULT_PATH
    float32_parts: frozenset[str] = frozenset()
    published_geometry = PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders that a checkpoint has, whatever its variant."""
        return (VAE_PART, *self.text_encoders, *self.tokenizers)

    def made(self, index: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return class_in(index, "transformer") == self.transformer_class.__name__

    def geometry(self, config: ReadConfig) -> PyramidGeometry:
        """See `Family`."""
        vae = config("vae/config.json", "spatial_down_sample", "temporal_down_sample")
        patch_size = config("transformer/config.json", "patch_size")["patch_size"]
        stages = config("scheduler/scheduler_config.json", "stages")["stages"]
        return geometry_of_configs(vae, patch_size, stages)

    def text_widths(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """See `Family`."""
        return config["joint_attention_dim"], config["pooled_projection_dim"]


# Statistics: the constants of the original's pipeline.
MINIFLUX = PyramidFlowFamily(
    name="miniflux",
    transformer_class=PyramidFluxTransformer3DModel,
    original_transformer="PyramidFluxTransformer",
    text_encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
    tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5Tokenizer"},
    shift_factor=-0.04,
    scaling_factor=1 / 1.8726,
)
SD3 = PyramidFlowFamily(
    name="sd3",
    transformer_class=PyramidSD3Transformer3DModel,
    original_transformer="PyramidDiffusionMMDiT",
    text_encoders={
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    },
    tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5Tokenizer"},
    shift_factor=0.1490,
    scaling_factor=1 / 1.8415,
)
FAMILIES = (MINIFLUX, SD3)
"""Those in the layout of the original."""


def geometry_of_configs(vae: Mapping[str, Any], patch_size: int, stages: int) -> PyramidGeometry:
    """The geometry of a model from the arguments of its autoencoder, and what else decides it."""
    return PyramidGeometry(
        spatial_factor=2 ** sum(map(bool, vae["spatial_down_sample"])),
        temporal_factor=2 ** sum(map(bool, vae["temporal_down_sample"])),
        patch_size=patch_size,
        num_stages=stages,
    )
