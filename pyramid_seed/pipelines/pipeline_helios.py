"""`SeededHeliosPipeline`: Helios (arXiv 2603.04379) from a text, an image or a video, as by diffusers.

diffusers makes each chunk: its pipelines run for one chunk at a time, with the chunks before it given as
latents and with every draw taken from the clip's `NoiseSource`. So a chunk depends on nothing but these.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    HeliosDMDScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
)
from diffusers.pipelines.helios.pipeline_helios import prompt_clean
from diffusers.utils.torch_utils import get_module_execution_device
from diffusers.video_processor import VideoProcessor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from ..choices import AttentionPath
from ..families.helios import UNIT_FRAMES
from ..geometry import ChunkGeometry, LatentShape, PyramidGeometry
from ..models.transformer_helios import remember_loras
from ..noise import NoiseKey, NoiseSource, block_noise
from ..pieces.workers import Workers
from .call_progress import weighed
from .clip_pipeline import ClipPipeline
from .current_step import CurrentPlace
from .decode import UnitDecoder
from .denoise import OnStep, Place, StepCheck, UnitSettings, check_finite
from .first_frames import Given
from .frame_collector import MakeDecoder
from .helios_history import encode_history, latent_statistics
from .inputs import Request
from .memory import contiguous_copy
from .sampler import KnownLatents
from .sharing import Sharing
from .text import TextEmbeddings, cut_of, logger

_HISTORY_FRAMES = 19
"""Latent frames that a chunk is conditioned on: the sum of diffusers' `history_sizes`."""


class SeededHeliosPipeline(ClipPipeline):
    """Video with Helios-Base; a unit is a chunk of nine latent frames.

    Every clip is a pure function of weights, prompt, settings and root seed, see `ClipPipeline`.

    Args:
        tokenizer, text_encoder: UMT5.
        vae: pixels to latents and back; best in float32.
        scheduler: timesteps, and with a pyramid its stages.
        transformer: the velocity model; the pipeline takes it over: its LoRA methods become those of
            `models.lora.LoraMixin`.
        is_cfg_zero_star, is_distilled: see diffusers' `HeliosPyramidPipeline`.
        preset: see `PyramidFlowPipeline`.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["text_encoder", "tokenizer", "transformer", "vae"]  # noqa: RUF012
    native: type[HeliosPipeline | HeliosPyramidPipeline] = HeliosPipeline
    """The pipeline of diffusers that makes each chunk."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: HeliosScheduler | HeliosDMDScheduler,
        transformer: HeliosTransformer3DModel,
        is_cfg_zero_star: bool = False,
        is_distilled: bool = False,
        preset: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        remember_loras(transformer)
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            scheduler=scheduler,
            transformer=transformer,
        )
        self.register_to_config(is_cfg_zero_star=is_cfg_zero_star, is_distilled=is_distilled, preset=preset)
        self.video_processor = VideoProcessor(do_resize=False)

    def save_config(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write model_index.json so that diffusers' own class reads the folder, too."""
        super().save_config(save_directory, *args, **kwargs)
        index = Path(save_directory) / self.config_name
        values = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": self.native.__name__}
        if self.transformer is not None:
            values["transformer"] = ["diffusers", HeliosTransformer3DModel.__name__]
        index.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def check_parts(self, *, needs_vae: bool = True) -> None:
        """See `ClipPipeline`; refuses, too, what a manifest cannot record of diffusers' models."""
        if self.vae is None:
            raise ValueError(
                "a pipeline of Helios must have a vae, even for latents alone, since diffusers asks it for "
                "sizes; set pipeline.vae, or load it anew"
            )
        if getattr(self.transformer, "is_cache_enabled", False):
            raise ValueError(
                "step caches are not for Helios; call pipeline.transformer.disable_cache() first"
            )
        super().check_parts(needs_vae=needs_vae)
        for name in ("tiling", "slicing"):
            if getattr(self.vae, f"use_{name}"):
                raise ValueError(f"the vae has {name} on, which no manifest would say; vae.disable_{name}()")

    def check_inputs(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        image: Any = None,
        **arguments: Any,
    ) -> Request:
        """See `ClipPipeline`."""
        request = super().check_inputs(prompt, negative_prompt, image, **arguments)
        for texts in (prompt, negative_prompt if request.needs_negative else None):
            for text in [texts] if isinstance(texts, str) else texts or ():
                cleaned(text)
        least, width = 2 * self.geometry.size_multiple, request.shape.width * self.geometry.spatial_factor
        if self.config.is_cfg_zero_star and request.is_guided and width < least:
            raise ValueError(
                f"width must be at least {least} for a guided clip of this model, got {width}: with less, "
                f"its coarsest stage is one token wide, where diffusers' CFG-Zero* fails; use {least}"
            )
        return request

    # What a family says, see `ClipPipeline`.

    def _own_geometry(self) -> PyramidGeometry:
        return ChunkGeometry(
            spatial_factor=self.vae.config.scale_factor_spatial,
            temporal_factor=self.vae.config.scale_factor_temporal,
            patch_size=self.transformer.config.patch_size[-1],
            num_stages=self._num_stages,
            unit_frames=UNIT_FRAMES,
        )

    @property
    def _num_stages(self) -> int:
        return 1

    @property
    def text_widths(self) -> tuple[int, int]:
        return self.transformer.config.text_dim, 0

    @property
    def attention_path(self) -> AttentionPath:
        return "reference"

    def attention_path_set(self, path: AttentionPath | None) -> AbstractContextManager[None]:
        if path not in (None, "reference"):
            raise ValueError(f"attention must be 'reference' for Helios, diffusers' own, got {path!r}")
        return nullcontext()

    @property
    def attention_backend(self) -> str | None:
        backend = next(iter(self.transformer.attn_processors.values()))._attention_backend
        return None if backend is None else backend.value

    @property
    def cache_in_use(self) -> dict[str, Any] | None:
        return None  # one is refused

    @property
    def vae_tiling(self) -> tuple[int, ...] | None:
        return None

    def vae_tiling_set(self, tiling: Sequence[int] | None) -> AbstractContextManager[None]:
        if tiling is not None:
            raise ValueError(f"a clip of Helios is decoded without tiles, got vae_tiling {list(tiling)}")
        return nullcontext()

    @classmethod
    def check_shards_of(cls, shards: int | None, transformer: Any) -> None:  # noqa: ARG003
        if shards is not None:
            raise ValueError(
                f"shards must be None for Helios, whose steps are not cut, got {shards}; leave them out"
            )

    def worker_count(self, requested: int | None, device: torch.device, *, is_strict: bool) -> int:  # noqa: ARG002
        if requested not in (None, 1):
            raise ValueError(f"workers must be 1 for Helios, whose steps are not shared out, got {requested}")
        return 1

    def tokens_of_step(self, shape: LatentShape, text: TextEmbeddings, unit: int, stage: int) -> float:  # noqa: ARG002
        config = self.transformer.config
        area = shape.height * shape.width // self.geometry.patch_size**2
        own = shape.frames * (area >> 2 * (shape.num_stages - 1 - stage))
        # The history: two frames at full size, two as one at half size, sixteen as four at a quarter.
        tokens = own + 2 * area + area // 4 + 4 * (area // 16)
        return weighed(tokens, tokens**2, config.num_attention_heads * config.attention_head_dim)

    def encode_image(self, image: Given, noise: NoiseSource) -> torch.Tensor:
        """See `encode_history`."""
        return encode_history(self.vae, image, self.geometry.num_frames(1), noise)

    def unit_decoder(self, team: Workers) -> MakeDecoder:  # noqa: ARG002
        return partial(ChunkDecoder, self.vae)

    def sampler(
        self,
        request: Request,
        clip: int,
        positive: TextEmbeddings,
        negative: TextEmbeddings | None,
        noise: NoiseSource,
        sharing: Sharing,  # noqa: ARG002
        attention_kwargs: dict[str, Any] | None,
    ) -> HeliosSampler:
        parts = {name: self.components[name] for name in ("vae", "scheduler", "transformer")}
        make_chunk = keyed_class(self.native)(
            tokenizer=None, text_encoder=None, **parts, **self._native_config()
        )
        make_chunk.set_progress_bar_config(disable=True)

        def on_begin(place: Place) -> None:
            self._current_place = CurrentPlace(clip, place.unit, place.stage, place.step)

        given = {"prompt_embeds": positive.prompt_embeds, "attention_kwargs": attention_kwargs}
        if negative is not None:
            given["negative_prompt_embeds"] = negative.prompt_embeds
        return HeliosSampler(make_chunk, given, noise, request.shape, on_begin)

    def _native_config(self) -> dict[str, Any]:
        """Arguments of the native pipeline besides its parts."""
        return {}

    def _encode_text(self, text: str, max_sequence_length: int, device: torch.device) -> TextEmbeddings:
        encoders = self._usable_encoders(text, device)
        ((tokenizer, encoder),) = encoders
        if self.transformer is not None and encoder.config.d_model != self.text_widths[0]:
            raise ValueError(
                f"text needs a UMT5 encoder of width {self.text_widths[0]}, got {encoder.config.d_model}; "
                "set pipeline.text_encoder, or give embeddings"
            )
        text = cleaned(text)
        if (cut := cut_of(text, tokenizer, max_sequence_length)) is not None:
            logger.warning(cut)
        tokens = tokenizer(
            text, padding="max_length", max_length=max_sequence_length, truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask.to(device)
        embeds = encoder(tokens.input_ids.to(device), mask).last_hidden_state
        # What stands for padding is 0, as in diffusers; the transformer reads all of it, and no mask.
        embeds = torch.where(mask[..., None].bool(), embeds, embeds.new_zeros(()))
        return TextEmbeddings(embeds, mask, embeds.new_zeros(1, 0))


class SeededHeliosPyramidPipeline(SeededHeliosPipeline):
    """Video with Helios-Mid and Helios-Distilled, whose chunks climb a pyramid of stages."""

    native = HeliosPyramidPipeline

    @property
    def _num_stages(self) -> int:
        return self.scheduler.config.stages

    def _native_config(self) -> dict[str, Any]:
        return {name: self.config[name] for name in ("is_cfg_zero_star", "is_distilled")}


def cleaned(text: str) -> str:
    """A prompt as diffusers cleans it before it is encoded.

    It uses ftfy, which repairs what only texts beyond plain ASCII can have; without it these are refused.

    Raises:
        ValueError: the text needs ftfy, which is not installed.
    """
    if find_spec("ftfy") is not None:
        return prompt_clean(text)
    plain = re.sub(r"\s+", " ", text).strip()
    if not plain.isascii() or not plain.isprintable() or "&" in plain:
        raise ValueError(
            f"diffusers cleans the prompts of Helios with ftfy, which is not installed, got {text!r:.80}; "
            "pip install ftfy, or use plain ASCII without '&'"
        )
    return plain


class _ChunkDone(Exception):  # noqa: N818 - no error
    """Ends diffusers' loop where a chunk's latents are finished, before it decodes them."""


class _Stopped(Exception):  # noqa: N818 - no error
    """Ends diffusers' loop within a chunk."""


class KeyedNoise:
    """The draws of diffusers' Helios pipelines, taken from a clip's noise source.

    `start_unit` says for which unit; then come its initial noise and that of each later stage, in this order.
    """

    scheduler: Any
    vae_scale_factor_temporal: int
    vae_scale_factor_spatial: int
    _noise: NoiseSource
    _unit: int
    _stage: int

    def start_unit(self, noise: NoiseSource, unit: int) -> None:
        """Draw for this unit from now on."""
        self._noise, self._unit, self._stage = noise, unit, 0

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        num_frames: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        **_: Any,
    ) -> torch.Tensor:
        """Initial noise of a chunk, (1, C, n, H, W)."""
        frames = (num_frames - 1) // self.vae_scale_factor_temporal + 1
        sides = height // self.vae_scale_factor_spatial, width // self.vae_scale_factor_spatial
        shape = (batch_size, num_channels_latents, frames, *sides)
        return self._noise.draw(NoiseKey("initial", self._unit, 0), shape).to(device, dtype)

    def sample_block_noise(
        self, batch_size: int, channel: int, num_frames: int, height: int, width: int, *_: Any
    ) -> torch.Tensor:
        """Block noise before the next stage, (1, C, n, h, w), in closed form, see `noise.block`."""
        self._stage += 1
        key = NoiseKey("renoise", self._unit, self._stage)
        white = self._noise.draw(key, (batch_size, channel, num_frames, height, width))
        return block_noise(white, self.scheduler.config.gamma)


def keyed_class(native: type[HeliosPipeline | HeliosPyramidPipeline]) -> Any:
    """The native pipeline with keyed draws."""
    return type(f"Keyed{native.__name__}", (KeyedNoise, native), {})


class HeliosSampler:
    """Makes the chunks of a clip, see `sampler.Sampler`.

    Args:
        make_chunk: a pipeline of `keyed_class`.
        given: `prompt_embeds` (1, L, D), `negative_prompt_embeds` if the clip is guided, `attention_kwargs`.
        noise: the clip's.
        shape: of a chunk's latents.
        on_begin: called with the place of each step before it.
    """

    def __init__(
        self,
        make_chunk: Any,
        given: dict[str, Any],
        noise: NoiseSource,
        shape: LatentShape,
        on_begin: Callable[[Place], None],
    ) -> None:
        self._make_chunk = make_chunk
        self._given = given
        self._noise = noise
        self._shape = shape
        self._on_begin = on_begin
        self._guidance_scale = 0.0

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the unit in progress."""
        return self._guidance_scale

    def set_guidance_scale(self, guidance_scale: float) -> None:
        """Refused: diffusers reads it once per chunk."""
        if guidance_scale != self._guidance_scale:
            raise ValueError("Helios cannot change the guidance scale within a unit; see guidance_decay")

    def units(
        self, known: KnownLatents, settings: Sequence[UnitSettings], on_step: OnStep
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """See `Sampler`."""
        units = [] if known.units is None else list(known.units.split(self._shape.frames, dim=2))
        for unit in range(len(units), len(settings)):
            history = self._history(units, known.image)
            stage_ends = self._unit(unit, history, settings[unit], on_step)
            if stage_ends is None:
                return
            units.append(stage_ends[-1])
            yield stage_ends

    def _unit(
        self, unit: int, history: dict[str, Any], settings: UnitSettings, on_step: OnStep
    ) -> tuple[torch.Tensor, ...] | None:
        """Latents (1, C, n, h, w) of a chunk at the end of each stage; None when stopped."""
        steps = settings.num_inference_steps
        self._guidance_scale = settings.guidance_scale
        places = [Place(unit, stage, step) for stage, count in enumerate(steps) for step in range(count)]
        checks: list[StepCheck] = []
        ends: list[torch.Tensor] = []
        self._on_begin(places[0])

        def on_step_end(
            _pipeline: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            place, latents = places[len(checks)], tensors["latents"]
            assert step == place.step
            checks.append(StepCheck(place, torch.isfinite(latents).all()))
            replaced = on_step(place, timestep, latents)
            if replaced is None:
                raise _Stopped
            if place.step == steps[place.stage] - 1:
                ends.append(replaced.float())
            if len(checks) == len(places):
                raise _ChunkDone
            self._on_begin(places[len(checks)])
            return {"latents": replaced}

        self._make_chunk.start_unit(self._noise, unit)
        try:
            self._make_chunk(
                prompt=None,
                **self._given,
                **history,
                **self._steps(steps),
                height=self._shape.height * self._make_chunk.vae_scale_factor_spatial,
                width=self._shape.width * self._make_chunk.vae_scale_factor_spatial,
                num_frames=1,  # one chunk
                num_latent_frames_per_chunk=self._shape.frames,
                guidance_scale=settings.guidance_scale,
                output_type="latent",
                callback_on_step_end=on_step_end,
            )
        except _ChunkDone:
            check_finite(checks)
            return tuple(ends)
        except _Stopped:
            return None
        raise AssertionError("diffusers made fewer steps than it was asked for")

    def _history(self, past: Sequence[torch.Tensor], image: torch.Tensor | None) -> dict[str, Any]:
        """The arguments that say what a chunk follows: as in video-to-video, but nothing is added to it.

        An image's latents (1, C, 2, H, W) are the clip's first frame, and a frame before unit 0; a video's
        are its first frame, and all its chunks. The history always lies in memory in the same way, however
        long the clip is.
        """
        if image is not None:
            first, past = image[:, :, :1], [image[:, :, 1:], *past]
        elif past:
            first = past[0][:, :, :1]
        else:
            return {}
        known = torch.cat([*past[-math.ceil(_HISTORY_FRAMES / self._shape.frames) :]], dim=2)
        missing = max(_HISTORY_FRAMES - known.shape[2], 0)
        nothing = known.new_zeros(*known.shape[:2], missing, *known.shape[3:])
        history = torch.cat([nothing, known], dim=2)[:, :, -_HISTORY_FRAMES:]
        return {
            "video_latents": contiguous_copy(history),
            "image_latents": contiguous_copy(first),
            "add_noise_to_video_latents": False,
            "add_noise_to_image_latents": False,
        }

    def _steps(self, steps: tuple[int, ...]) -> dict[str, Any]:
        """The argument for the steps of each stage."""
        if isinstance(self._make_chunk, HeliosPyramidPipeline):
            return {"pyramid_num_inference_steps_list": list(steps)}
        return {"num_inference_steps": steps[0]}


class ChunkDecoder(UnitDecoder):
    """Decodes each unit alone, as diffusers does.

    Args:
        vae: the decoder.
        on_chunk: called as (chunk, values), in order, with the values that `convert` made.
        convert: makes values from pixels (1, 3, t, s H, s W), float32 in [-1, 1], on the VAE's device.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        on_chunk: Callable[[int, torch.Tensor], None],
        convert: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self._vae = vae
        self._on_chunk = on_chunk
        self._convert = convert
        self._num_put = 0

    def put(self, latents: torch.Tensor, *, is_last: bool = False) -> None:  # noqa: ARG002
        """Decode the clip's next unit (1, C, n, H, W), float32, normalised, and pass it on.

        Raises:
            FloatingPointError: decoded values are not finite; the message names the unit.
        """
        device, dtype = get_module_execution_device(self._vae), self._vae.dtype
        mean, per_std = latent_statistics(self._vae, device)
        raw = latents.to(device, dtype) / per_std + mean  # in diffusers' order
        pixels = self._vae.decode(contiguous_copy(raw), return_dict=False)[0]
        if not torch.isfinite(pixels).all():
            raise FloatingPointError(f"decoded frames of unit {self._num_put} are not finite")
        values = self._convert(pixels.float().clamp(-1, 1))
        if pixels.is_cuda:  # a copy to the CPU may be in progress
            torch.cuda.current_stream(pixels.device).synchronize()
        self._on_chunk(self._num_put, values)
        self._num_put += 1
