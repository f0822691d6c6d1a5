"""`PyramidFlowPipeline`: text-to-video, image-to-video and text-to-image with Pyramid Flow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.video_processor import VideoProcessor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from ..choices import AttentionPath
from ..geometry import LatentShape, PyramidGeometry
from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..models.transformer_pyramid_flux import PyramidFluxTransformer3DModel
from ..models.transformer_pyramid_sd3 import PyramidSD3Transformer3DModel
from ..noise import NoiseSource
from ..pieces.workers import Workers
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler
from .call_progress import tokens_of_step
from .clip_pipeline import ClipPipeline
from .current_step import TrackedTransformer
from .decode import ClipDecoder, encode_image
from .denoise import OnStep, UnitSettings, denoise_clip
from .first_frames import Given
from .frame_collector import MakeDecoder
from .inputs import Request
from .sampler import KnownLatents
from .sharing import Sharing, check_shards, worker_count
from .step_graph import check_graphs
from .text import TextEmbeddings

CODE_FILE = "pipeline.py"
"""Beside model_index.json: in this file diffusers finds the class of a pipeline that is not its own."""
CODE = '''"""The pipeline of this folder, of the package pyramid-seed."""

from pyramid_seed.pipelines import PyramidFlowPipeline

__all__ = ["PyramidFlowPipeline"]
'''


class PyramidFlowPipeline(ClipPipeline):
    """Text-to-video, image-to-video and text-to-image with Pyramid Flow (arXiv 2410.05954).

    Every clip is a pure function of weights, prompt, settings and root seed; a list of prompts is a loop over
    clips, so that a clip does not depend on its neighbours.

    Args:
        scheduler: stages, timesteps and renoise coefficients.
        vae: pixels to latents and back.
        transformer: the velocity model, miniFLUX or SD3.
        text_encoder, tokenizer: CLIP.
        text_encoder_2, tokenizer_2: T5 (miniFLUX), or the second CLIP (SD3).
        text_encoder_3, tokenizer_3: T5 (SD3), or None.
        preset: the settings that the model is made for, see `presets.preset_config`; `save_pretrained` writes
            them into model_index.json, and `generate(pipeline=...)` uses them if no preset is named.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->transformer->vae"
    _optional_components = ["text_encoder_3", "tokenizer_3"]  # noqa: RUF012
    _uses_cuda_graphs = False

    def __init__(
        self,
        scheduler: PyramidFlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLCausalVideo,
        transformer: PyramidFluxTransformer3DModel | PyramidSD3Transformer3DModel,
        text_encoder: CLIPTextModel | CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel | CLIPTextModelWithProjection,
        tokenizer_2: T5Tokenizer | CLIPTokenizer,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: T5Tokenizer | None = None,
        preset: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            transformer=transformer,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.register_to_config(preset=preset)
        self.video_processor = VideoProcessor(do_resize=False)

    def enable_cuda_graphs(self) -> None:
        """Record the steps of small stages as CUDA graphs: the same bits, faster where launching is slow.

        Off by default, since a step is recorded once per stage, and a callback must not change the
        transformer within a stage. A call refuses what cannot be recorded, such as offloaded weights.

        Raises:
            ValueError: see `step_graph.check_graphs`.
        """
        check_graphs(self.transformer, self._execution_device)
        self._uses_cuda_graphs = True

    def disable_cuda_graphs(self) -> None:
        """Launch every kernel of every step separately again."""
        self._uses_cuda_graphs = False

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; but the class is always this one, and no code from the folder is needed."""
        config = super().load_config(*args, **kwargs)
        values = config[0] if isinstance(config, tuple) else config
        if values.get("_class_name") == [CODE_FILE.removesuffix(".py"), cls.__name__]:
            values["_class_name"] = cls.__name__
        return config

    def save_config(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write model_index.json, and the file in which `DiffusionPipeline.from_pretrained` finds the class.

        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` then makes this pipeline; without
        that argument, it says that it is needed.
        """
        super().save_config(save_directory, *args, **kwargs)
        index = Path(save_directory) / self.config_name
        values = json.loads(index.read_text(encoding="utf-8"))
        values["_class_name"] = [CODE_FILE.removesuffix(".py"), type(self).__name__]
        index.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        (index.parent / CODE_FILE).write_text(CODE, encoding="utf-8")

    # What a family says, see `ClipPipeline`.

    def _own_geometry(self) -> PyramidGeometry:
        return PyramidGeometry(
            spatial_factor=self.vae.spatial_compression_ratio,
            temporal_factor=self.vae.temporal_compression_ratio,
            patch_size=self.transformer.config.patch_size,
            num_stages=self.scheduler.config.stages,
        )

    @property
    def text_widths(self) -> tuple[int, int]:
        config = self.transformer.config
        return config.joint_attention_dim, config.pooled_projection_dim

    @property
    def attention_path(self) -> AttentionPath:
        return self.transformer.attention_path

    def attention_path_set(self, path: AttentionPath | None) -> AbstractContextManager[None]:
        return self.transformer.attention_path_set(path)

    @property
    def attention_backend(self) -> str | None:
        return self.transformer.attention_backend

    @property
    def cache_in_use(self) -> dict[str, Any] | None:
        return self.transformer.cache_in_use

    @property
    def vae_tiling(self) -> tuple[int, ...] | None:
        return self.vae.tiling

    def vae_tiling_set(self, tiling: Sequence[int] | None) -> AbstractContextManager[None]:
        return self.vae.tiling_set(tiling)

    @classmethod
    def check_shards_of(cls, shards: int | None, transformer: Any) -> None:
        check_shards(shards, transformer)

    def check_shards(self, shards: int | None) -> None:
        if self._uses_cuda_graphs:
            check_graphs(self.transformer, self._execution_device, shards)
        super().check_shards(shards)

    def worker_count(self, requested: int | None, device: torch.device, *, is_strict: bool) -> int:
        return worker_count(requested, device, self.transformer, self.vae, is_strict=is_strict)

    def tokens_of_step(self, shape: LatentShape, text: TextEmbeddings, unit: int, stage: int) -> float:
        config, num_text = self.transformer.config, int(text.prompt_attention_mask.sum())
        hidden = config.num_attention_heads * config.attention_head_dim
        return tokens_of_step(self.geometry, shape.height, shape.width, unit, stage, num_text, hidden)

    def encode_image(self, image: Given, noise: NoiseSource) -> torch.Tensor:
        assert isinstance(image, torch.Tensor)  # `check_call` refuses a video
        return encode_image(self.vae, image, noise)

    def unit_decoder(self, team: Workers) -> MakeDecoder:
        return partial(ClipDecoder, self.vae, workers=team)

    def sampler(
        self,
        request: Request,
        clip: int,
        positive: TextEmbeddings,
        negative: TextEmbeddings | None,
        noise: NoiseSource,
        sharing: Sharing,
        attention_kwargs: dict[str, Any] | None,
    ) -> PyramidSampler:
        device = self._execution_device
        model = TrackedTransformer(
            self.transformer,
            positive,
            negative,
            attention_kwargs,
            device,
            self._uses_cuda_graphs,
            sharing,
            clip=clip,
            first_unit=request.num_known_units,
            on_begin=self._begin_step,
        )
        return PyramidSampler(model, self.scheduler, noise, request.shape, device)


@dataclass(frozen=True)
class PyramidSampler:
    """Makes the units of a clip, see `denoise.denoise_clip`."""

    model: TrackedTransformer
    scheduler: PyramidFlowMatchEulerDiscreteScheduler
    noise: NoiseSource
    shape: LatentShape
    device: torch.device

    @property
    def guidance_scale(self) -> float:
        """That of the unit in progress."""
        return self.model.guidance_scale

    def set_guidance_scale(self, guidance_scale: float) -> None:
        """Use another one for the rest of the unit."""
        self.model.guidance_scale = guidance_scale

    def units(
        self, known: KnownLatents, settings: Sequence[UnitSettings], on_step: OnStep
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """See `sampler.Sampler`."""
        return denoise_clip(
            known.units, self.model, self.scheduler, self.noise, self.shape, self.device, settings, on_step
        )
