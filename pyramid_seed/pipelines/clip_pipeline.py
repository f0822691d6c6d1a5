"""`ClipPipeline`: what the pipelines of all families share, from the arguments of a call to its clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.video_processor import VideoProcessor
from tqdm.auto import tqdm

from ..bars import bar_options
from ..checkpoints.loaded_weights import LoadedWeights
from ..checkpoints.source import ModelSource
from ..checks import check_choice
from ..choices import AFTER_USE, AfterUse, AttentionPath, DeterminismLevel
from ..dtypes import check_dtype
from ..geometry import LatentShape, PyramidGeometry
from ..models.transformer_pyramid_base import COMPILED_AS_A_WHOLE
from ..noise import (
    LedgeredNoise,
    NoiseLedger,
    NoiseSource,
    NoiseStreams,
    draws_of_clip,
    noise_digest,
    root_from_entropy,
)
from ..pieces.processes import Processes, has_frames
from ..pieces.workers import Workers
from ..presets import Preset, preset_from_config
from ..private_apis import is_compiled
from .beginning import Beginning
from .call_progress import CallProgress
from .call_wrappers import admitted
from .current_step import CurrentPlace
from .decode import UnitDecoder
from .denoise import Place
from .first_frames import Given
from .frame_collector import FrameCollector, MakeDecoder, OnFrames
from .hooks import OFFLOADED_TO_DISK, check_hooks
from .inputs import OUTPUT_TYPES, Request, check_call, check_replaced
from .lora import LoraLoaderMixin
from .memory import align_weights, contiguous_copy
from .noise_sources import check_draws, noise_sources
from .pipeline_output import PyramidFlowPipelineOutput
from .sampler import KnownLatents, Sampler
from .sharing import Sharing, check_agreement, check_processes
from .stages import StageDigests
from .text import TextEmbeddings, clip_text_digests, with_suffix
from .text_encoders import TextEncodersMixin
from .text_inputs import EMBEDDINGS


class ClipPipeline(LoraLoaderMixin, DiffusionPipeline, TextEncodersMixin):
    """A pipeline of which every clip is a pure function of weights, prompt, settings and root seed.

    A list of prompts is a loop over clips, so that a clip does not depend on its neighbours. A family says
    how it divides space and time (`geometry`), how units are made (`sampler`) and decoded (`unit_decoder`),
    what its texts are, and what of it a manifest names.
    """

    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    source: ModelSource | None = None
    """Which model it is; set by `pyramid_seed.load_pipeline`."""
    loaded_weights: LoadedWeights | None = None
    """Its weights as they were loaded; set by `pyramid_seed.load_pipeline`."""
    scheduler: Any
    transformer: Any
    vae: Any
    video_processor: VideoProcessor
    _interrupt = False
    _guidance_scale = 0.0
    _num_timesteps = 0
    _current_timestep: torch.Tensor | None = None
    _current_place: CurrentPlace | None = None

    def register_modules(self, **parts: Any) -> None:
        """As in diffusers; weights are aligned first: kernels round otherwise where they are not."""
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                align_weights(part)
        super().register_modules(**parts)

    @property
    def preset(self) -> Preset | None:
        """The settings that the model is made for; None if unknown."""
        if self.config.preset is None:
            return None
        return preset_from_config(self.config.preset, "unknown" if self.source is None else self.source.name)

    @property
    def geometry(self) -> PyramidGeometry:
        """Sizes and counts that the components' configs allow.

        Raises:
            ValueError: there is no VAE, and the pipeline was not loaded by `load_pipeline`, which knows its
                factors from the model's files.
        """
        if self.vae is not None:
            return self._own_geometry()
        if self.source is None:
            raise ValueError(
                "a pipeline without a vae must be loaded by load_pipeline(..., vae=None), which reads "
                "how it divides space and time; load it so, or set pipeline.vae"
            )
        return self.source.geometry

    @property
    def is_compiled(self) -> bool:
        """Whether any of its models, or part of one, runs through `torch.compile`."""
        models = (part for part in self.components.values() if isinstance(part, torch.nn.Module))
        return any(is_compiled(module) for model in models for module in model.modules())

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The config with which diffusers quantised the transformer, as plain values; None if it did not."""
        quantizer = getattr(self.transformer, "hf_quantizer", None)
        if quantizer is None:
            return None
        config: dict[str, Any] = json.loads(quantizer.quantization_config.to_json_string(use_diff=False))
        return config

    def check_parts(self, *, needs_vae: bool = True) -> None:
        """Refuse to work without a part, or with parts that leave nothing to promise about a clip.

        Args:
            needs_vae: whether frames are decoded or an image is encoded.

        Raises:
            ValueError: names the part, and says why.
        """
        for name in ("scheduler", "transformer", *(["vae"] if needs_vae else [])):
            if getattr(self, name) is None:
                others = ", or ask for latents alone: output_type='latent'" if name == "vae" else ""
                raise ValueError(
                    f"a pipeline must have a {name}, got None; set pipeline.{name}, or load it anew{others}"
                )
        if is_compiled(self.transformer):
            raise ValueError(COMPILED_AS_A_WHOLE)
        for name, part in self.components.items():
            if isinstance(part, torch.nn.Module):
                is_cached = part is self.transformer and self.cache_in_use is not None
                check_hooks(name, part, has_cache=is_cached)

    @property
    def num_timesteps(self) -> int:
        """Transformer steps of the last call, over all its clips."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """Timestep of the step in progress, a scalar that falls within each stage; see `current_place`.

        None between calls, and where diffusers makes the steps (Helios).
        """
        return self._current_timestep

    @property
    def current_place(self) -> CurrentPlace | None:
        """Which step is in progress, for callbacks and hooks of the transformer.

        None between calls; after a call that raised, the step at which it did.
        """
        return self._current_place

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the unit in progress, or of the last one."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the unit in progress is guided."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Set by a callback (`pipe._interrupt = True`) to stop after the current step."""
        return self._interrupt

    @torch.no_grad()
    @admitted
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 121,
        num_inference_steps: int | list[int] = 20,
        video_num_inference_steps: int | list[int] | None = None,
        guidance_scale: float = 7.0,
        video_guidance_scale: float | None = None,
        guidance_decay: float | None = None,
        min_guidance_scale: float = 2.0,
        num_videos_per_prompt: int = 1,
        seed: int | list[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: NoiseSource | list[NoiseSource] | None = None,
        noise_device: str | torch.device = "cpu",
        latents: None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        video: Any = None,
        beginning: Beginning | list[Beginning | None] | None = None,
        prompt_suffix: str = "",
        max_sequence_length: int = 128,
        shards: int | None = None,
        workers: int | None = None,
        processes: Processes | None = None,
        text_encoders: AfterUse = "keep",
        output_type: str = "np",
        determinism: DeterminismLevel = "strict",
        attention: AttentionPath | None = None,  # noqa: ARG002 - read by the decorator
        show_progress: bool = True,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any] | None]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' signature
        callback_on_unit_end: Callable[[int, int, torch.Tensor, StageDigests], None] | None = None,
        callback_on_chunk_end: OnFrames | None = None,
    ) -> PyramidFlowPipelineOutput | tuple[Any]:
        """Generate clips.

        Args:
            prompt: a text, or a list of texts, each for a clip of its own.
            negative_prompt: what to guide away from; a str serves all prompts. Used only with guidance.
            image: what the clip begins with, in its size: its first frame, or, with Helios, what it goes on
                from; one image for all prompts, or one per prompt.
            height, width: pixels, multiples of `geometry.size_multiple`; default: the size of image or video,
                else 384 and 640.
            num_frames: whole units, see `geometry.frame_rule`: for Pyramid Flow r k + 1, with r the VAE's
                temporal compression, and 1 makes an image; for Helios a multiple of 33.
            num_inference_steps: Euler steps of the first unit, an int for all stages or one per stage.
            video_num_inference_steps: the same for the later units; default: as for the first.
            guidance_scale: classifier-free guidance of the first unit; at most 1 means none.
            video_guidance_scale: that of the later units; default: as for the first.
            guidance_decay, min_guidance_scale: with a decay, unit u uses
                max(guidance_scale - guidance_decay * u, min_guidance_scale) instead.
            num_videos_per_prompt: clips of each prompt, next to each other in the output.
            seed: root seed in [0, 2**64), see `noise_sources` for what it means in a batch. A list has one
                root per clip.
            generator: torch.Generator, or one per clip, that gives the root seeds.
            noise: a `NoiseSource` per clip in place of a seed. With none of the three, root seeds come from
                the operating system; the output holds them in any case.
            noise_device: where noise is drawn; noise from the CPU is the same on all machines.
            latents: refused, as one tensor cannot hold the noise of all units and stages; see `noise`.
            prompt_embeds, prompt_attention_mask, pooled_prompt_embeds: embeddings (N, L, D), (N, L), (N, P)
                in place of a prompt, as `encode_prompt` gives them; likewise the negative ones, of batch size
                N or 1.
            video: what all clips go on from (Helios), in place of an image: a file's path, frames
                (T, H, W, 3) as uint8, or a list of PIL images, see `opened_video`; T makes whole units.
            beginning: the first units of a clip, which are then not generated: the clip continues from them,
                and the output is the whole clip. For several clips, a list with one entry per clip and the
                same number of units in each. If the clip began with an image or a video that is no unit of it
                (Helios), give that, too.
            prompt_suffix: appended to every prompt, not to negative prompts.
            max_sequence_length: T5 tokens, at most 512.
            shards: None: the halves of guidance run as one batch. 1: each half is a call of its own, with its
                own text. More: the sequence of each half is also cut into that many pieces. However many
                workers and processes share the pieces, the clip is the same; with other shards it differs in
                the last bits.
            workers: how many threads compute at a time at level strict on a CPU; default: all cores that this
                process may use.
            processes: those that make this clip together, each with the same call; None: this one alone. Only
                the first one returns frames, the others return latents.
            text_encoders: once all texts are encoded, "keep" the encoders where they are, "offload" them to
                the CPU until the next new text, or "free" them for good, see `free_text_encoders`.
            output_type: "np", "pt", "pil", "uint8" or "latent", see `PyramidFlowPipelineOutput`.
            determinism: "strict" or "relaxed", see `determinism.determinism_level`; set for this call only.
            attention: "grouped", "prefix" or "reference", see `AttentionPath`, for this call only; default:
                the transformer's own.
            show_progress: False hides the progress bar of this call; otherwise it is as configured.
            return_dict: return a `PyramidFlowPipelineOutput` instead of a tuple of the frames.
            attention_kwargs: `scale` scales loaded LoRA layers.
            callback_on_step_end: called as (pipeline, step, timestep, kwargs) with the step over all clips;
                kwargs holds the requested tensors, and `pipeline.current_place` names the clip, unit, stage
                and step of the stage. It may return {"latents": ...} to replace the latents; may set
                `pipeline._guidance_scale` for the rest of the unit; and may set `pipeline._interrupt = True`:
                the run then stops and returns what is finished.
            callback_on_step_end_tensor_inputs: names from `_callback_tensor_inputs`.
            callback_on_unit_end: called as (clip, unit, latents, stage_digests) with each new unit's latents
                (1, C, n, h, w) and their SHA-256 after each stage; () for an encoded image. It may stop the
                run in the same way.
            callback_on_chunk_end: called as (clip, chunk, frames) with the decoded frames of each unit,
                (t, H, W, 3) uint8 on the CPU, in order and as soon as they are ready. With one worker on a
                CPU that is before the next unit begins; else later ones may be in progress. With model or
                sequential offload it is after the last unit of the last clip. It may stop the run in the same
                way. With output_type "latent" no frame is kept.

        Raises:
            ValueError, TypeError: an argument does not fit; nothing has been computed yet.
            FloatingPointError: latents or frames are not finite; the message says where.
            GenerationOutOfMemoryError: memory ran out; the message names the modes that would fit.
            RuntimeError: the run was stopped before the first unit was finished.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        embeddings = {
            "prompt_embeds": prompt_embeds,
            "prompt_attention_mask": prompt_attention_mask,
            "pooled_prompt_embeds": pooled_prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        }

        # 1. Check inputs.
        request = self.check_inputs(
            prompt,
            negative_prompt,
            image,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            video_num_inference_steps=video_num_inference_steps,
            guidance_scale=guidance_scale,
            video_guidance_scale=video_guidance_scale,
            guidance_decay=guidance_decay,
            min_guidance_scale=min_guidance_scale,
            num_videos_per_prompt=num_videos_per_prompt,
            video=video,
            beginning=beginning,
            max_sequence_length=max_sequence_length,
            shards=shards,
            processes=processes,
            text_encoders=text_encoders,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            latents=latents,
            **embeddings,
        )
        device = self._execution_device  # walks over all modules
        num_workers = self.worker_count(workers, device, is_strict=determinism == "strict")

        # 2. Noise: a source and a ledger for each clip.
        if processes is not None and seed is None and generator is None and noise is None:
            seed = [processes.from_first(root_from_entropy()) for _ in range(request.num_clips)]
        sources = noise_sources(
            request.num_clips, num_videos_per_prompt, seed, generator, noise, noise_device
        )
        check_draws(sources, request)
        ledgered = [LedgeredNoise(source, NoiseLedger()) for source in sources]

        # 3. Text: one row per clip.
        texts = self.encode_prompt(
            with_suffix(prompt, prompt_suffix),
            negative_prompt,
            request.needs_negative,
            num_videos_per_prompt,
            max_sequence_length=request.text_length,
            device=device,
            **embeddings,
        )
        positives = texts.positive.rows()
        negatives = texts.negative.rows() if texts.negative is not None else [None] * request.num_clips
        self.after_text(text_encoders)
        device = self._execution_device  # may be another one without text encoders

        # 4. Known latents: an image's or a video's, a beginning's.
        known = [
            self.prepare_latents(ledgered[clip], request.shape, request.image(clip), request.beginning(clip))
            for clip in range(request.num_clips)
        ]

        # 5. Units, stages, steps: one clip after the other.
        self._interrupt = False
        self._current_timestep = self._current_place = None
        self._num_timesteps = request.num_steps
        clips: list[torch.Tensor] = []
        stage_digests = [request.known_stage_digests(clip) for clip in range(request.num_clips)]
        if processes is not None:
            settings = request.units, request.shape, shards, self.attention_path
            check_agreement(processes, settings, sources, positives, negatives, known)
        is_decoded = has_frames(processes)
        with (
            Workers(num_workers) as team,
            self.progress_bar(total=request.num_steps)
            if show_progress and is_decoded
            else tqdm(disable=True) as progress_bar,
        ):
            sharing = Sharing(team, shards, processes)
            tokens_of_step = partial(self.tokens_of_step, request.shape, positives[0])
            progress = CallProgress(progress_bar, request, tokens_of_step)
            collector = FrameCollector(
                self.vae,
                self.unit_decoder(team),
                output_type if is_decoded else "latent",
                request.num_clips,
                callback_on_chunk_end if is_decoded else None,
                request.shape.frames,
            )
            for index in range(request.num_clips):
                sampler = self.sampler(
                    request,
                    index,
                    positives[index],
                    negatives[index] if request.is_guided else None,
                    ledgered[index],
                    sharing,
                    attention_kwargs,
                )
                clip = self._make_units(
                    index,
                    request,
                    known[index],
                    sampler,
                    collector.decoder(index),
                    stage_digests[index],
                    progress,
                    callback_on_step_end,
                    callback_on_step_end_tensor_inputs,
                    callback_on_unit_end,
                    processes,
                )
                # A stopped run keeps whole clips, or the whole units of its first clip.
                if clip is not None and (request.num_units_of(clip) == len(request.units) or not clips):
                    clips.append(clip)
                if self.interrupt:
                    break
            self._current_timestep = self._current_place = None
            if not clips:
                raise RuntimeError("stopped before the first unit was finished: there is nothing to return")

            # 6. Frames.
            frames = collector.collect(clips, self.video_processor)
        self.maybe_free_model_hooks()

        # 7. Output.
        if not return_dict:
            return (frames,)
        return PyramidFlowPipelineOutput(
            frames=frames,
            latents=torch.cat(clips),
            seeds=[
                source.root if isinstance(source, NoiseStreams) else None for source in sources[: len(clips)]
            ],
            ledgers=[
                noise.ledger.first_units(request.num_units_of(clip))
                for noise, clip in zip(ledgered, clips, strict=False)
            ],
            text_digests=[
                clip_text_digests(
                    positives[index],
                    negatives[index],
                    is_guided=request.guides(index, request.num_units_of(clip)),
                    beginning=request.beginning(index),
                )
                for index, clip in enumerate(clips)
            ],
            stage_digests=stage_digests[: len(clips)],
            attention=self.attention_path,
            interrupted=self.interrupt,
        )

    def check_inputs(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        *,
        shards: int | None = None,
        processes: Processes | None = None,
        text_encoders: AfterUse = "keep",
        output_type: str = "np",
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        latents: None = None,
        **arguments: Any,
    ) -> Request:
        """What a call with these arguments, those of `__call__`, would make; computes nothing.

        Raises:
            ValueError, TypeError: an argument does not fit the model or the others; names one that would.
        """
        self.check_parts(needs_vae=output_type != "latent" or image is not None)
        if latents is not None:
            raise ValueError(
                "latents must be None: every unit and stage draws noise of its own, which one tensor cannot "
                "hold; use seed= or generator=, or noise= with draws of your own (pyramid_seed.noise."
                "RecordedNoise), and beginning= to go on from finished units"
            )
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        check_choice("output_type", output_type, OUTPUT_TYPES)
        check_choice("text_encoders", text_encoders, AFTER_USE)
        check_dtype(self.transformer.dtype)
        if self.vae is not None:
            check_dtype(self.vae.dtype)
        request = check_call(
            self.geometry,
            self.transformer.config.in_channels,
            self.text_widths,
            prompt=prompt,
            negative_prompt=negative_prompt,
            image=image,
            embeddings={name: arguments.pop(name, None) for name in EMBEDDINGS},
            **arguments,
        )
        self.check_shards(shards)
        number = 1 if processes is None else len(processes.ranks)
        check_processes(number, shards, is_guided=request.is_guided)
        return request

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Move groups of layers to the device as they are needed, as diffusers does, but never to a disk.

        Raises:
            ValueError: a path on a disk was given.
        """
        options = signature(super().enable_group_offload).bind(*args, **kwargs).arguments
        if options.get("offload_to_disk_path") is not None:
            raise ValueError(OFFLOADED_TO_DISK)
        super().enable_group_offload(**options)

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """As in diffusers, whose `set_progress_bar_config` has the last word; see `bars.bar_options`."""
        chosen = getattr(self, "_progress_bar_config", {})
        bar = partial(super().progress_bar, iterable, total)
        if not isinstance(chosen, dict):
            return bar()  # which says so
        self._progress_bar_config = {"desc": "generating"} | bar_options() | chosen
        try:
            return bar()
        finally:
            self._progress_bar_config = chosen

    def prepare_latents(
        self,
        noise: NoiseSource,
        shape: LatentShape,
        image: Given | None = None,
        beginning: Beginning | None = None,
    ) -> KnownLatents:
        """Latents of a clip that are known before any is generated.

        Args:
            noise: the clip's source. All draws behind the known units are made, again for those of a
                beginning, so that its ledger is that of the whole clip.
            shape: of one unit's latents.
            image: what the clip begins with, to be encoded, unless it is a unit of a beginning.
            beginning: the units themselves.

        Returns:
            On the transformer's device.
        """
        device, is_unit = self._execution_device, self.geometry.image_role == "unit"
        encoded = None
        if image is not None and not (is_unit and beginning is not None):
            encoded = self.encode_image(image, noise).to(device)
        if beginning is None:
            return KnownLatents(units=encoded) if is_unit else KnownLatents(image=encoded)
        with_unit = is_unit and beginning.image_digest is not None
        for key, size in draws_of_clip(beginning.num_units, shape, image="unit" if with_unit else None):
            noise.draw(key, size.as_tuple())
        units = contiguous_copy(beginning.latents.to(device, torch.float32))
        return KnownLatents(units, encoded)

    def _begin_step(self, place: CurrentPlace, timestep: torch.Tensor) -> None:
        self._current_place, self._current_timestep = place, timestep

    def _make_units(
        self,
        clip: int,
        request: Request,
        known: KnownLatents,
        sampler: Sampler,
        decoder: UnitDecoder,
        stage_digests: list[StageDigests | None],
        progress: CallProgress,
        on_step_end: Callable[..., dict[str, Any] | None] | None,
        tensor_inputs: list[str],
        on_unit_end: Callable[[int, int, torch.Tensor, StageDigests], None] | None,
        processes: Processes | None,
    ) -> torch.Tensor | None:
        """Latents (1, C, t, h, w) of one clip on the CPU, shorter if stopped; None without a whole unit.

        Each unit goes to `decoder`. The digests of each new unit are appended to `stage_digests`.
        """
        units: list[torch.Tensor] = []

        def on_step(place: Place, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
            self._guidance_scale = sampler.guidance_scale
            progress.show(clip, place)
            decoder.poll()
            if on_step_end is not None:
                tensors = {"latents": latents}
                arguments = {name: tensors[name] for name in tensor_inputs}
                returned = on_step_end(self, request.steps_before(clip, place), timestep, arguments) or {}
                if "latents" in returned:
                    latents = check_replaced(returned["latents"], latents.shape).to(latents)
                sampler.set_guidance_scale(self._guidance_scale)
            # After its last step a unit is finished before the run stops; with several processes, always.
            if self.interrupt and processes is None and not request.ends_unit(place):
                return None
            return latents

        def take(latents: torch.Tensor, digests_of_unit: StageDigests) -> None:
            units.append(latents)
            # The caller already knows the units of a beginning.
            if on_unit_end is not None and (digests_of_unit or not request.beginnings):
                on_unit_end(clip, len(units) - 1, latents, digests_of_unit)
            decoder.put(latents, is_last=len(units) == len(request.units))

        for latents in () if known.units is None else known.units.split(request.shape.frames, dim=2):
            take(latents, ())
        settings = request.units[: len(units)] if self.interrupt else request.units
        for stage_ends in sampler.units(known, settings, on_step):
            digests_of_unit = tuple(map(noise_digest, stage_ends))
            if processes is not None:
                processes.check_same(f"latents of unit {len(units)}", digests_of_unit)
            stage_digests.append(digests_of_unit)
            take(stage_ends[-1], digests_of_unit)
            if processes is not None:
                self._interrupt = processes.any_of(self.interrupt)
            if self.interrupt:
                break
        decoder.finish()
        return torch.cat(units, dim=2).cpu() if units else None

    # What a family says.

    def _own_geometry(self) -> PyramidGeometry:
        """Sizes and counts that the configs of transformer, VAE and scheduler allow."""
        raise NotImplementedError

    @property
    def attention_path(self) -> AttentionPath:
        """How attention is computed, see `AttentionPath`."""
        raise NotImplementedError

    def attention_path_set(self, path: AttentionPath | None) -> AbstractContextManager[None]:
        """Compute attention this way inside a `with`; None changes nothing; ValueError if it cannot be."""
        raise NotImplementedError

    @property
    def attention_backend(self) -> str | None:
        """diffusers' name of the backend chosen by `set_attention_backend`; None follows the active one."""
        raise NotImplementedError

    @property
    def cache_in_use(self) -> dict[str, Any] | None:
        """Class and values of the active step cache's config, as plain values; None without one."""
        raise NotImplementedError

    @property
    def vae_tiling(self) -> tuple[int, ...] | None:
        """The tiles in which the VAE works; None without tiles."""
        raise NotImplementedError

    def vae_tiling_set(self, tiling: Sequence[int] | None) -> AbstractContextManager[None]:
        """Use these tiles, or none, inside a `with`."""
        raise NotImplementedError

    @classmethod
    def check_shards_of(cls, shards: int | None, transformer: Any) -> None:
        """Refuse shards into which a transformer cannot be cut, by its config: ValueError, TypeError."""
        raise NotImplementedError

    def check_shards(self, shards: int | None) -> None:
        """Refuse shards into which this transformer cannot be cut as it is: ValueError, TypeError."""
        self.check_shards_of(shards, self.transformer)

    def worker_count(self, requested: int | None, device: torch.device, *, is_strict: bool) -> int:
        """How many threads compute at a time; ValueError, TypeError if more were requested than possible."""
        raise NotImplementedError

    def tokens_of_step(self, shape: LatentShape, text: TextEmbeddings, unit: int, stage: int) -> float:
        """What a step costs, in tokens that attend to nothing; see `call_progress`.

        Args:
            shape: of a unit's latents.
            text: embeddings of a prompt.
            unit, stage: where the step is.
        """
        raise NotImplementedError

    def encode_image(self, image: Given, noise: NoiseSource) -> torch.Tensor:
        """Latents (1, C, m, H/s, W/s) of what a clip begins with, float32, normalised.

        They are those of unit 0, or what units have as a condition, see `PyramidGeometry.image_role`.
        """
        raise NotImplementedError

    def unit_decoder(self, team: Workers) -> MakeDecoder:
        """What makes the decoder of a clip's units."""
        raise NotImplementedError

    def sampler(
        self,
        request: Request,
        clip: int,
        positive: TextEmbeddings,
        negative: TextEmbeddings | None,
        noise: NoiseSource,
        sharing: Sharing,
        attention_kwargs: dict[str, Any] | None,
    ) -> Sampler:
        """What makes the units of a clip of the call.

        Args:
            request: what the call makes.
            clip: index in the call.
            positive, negative: embeddings of its texts; no negative ones if no unit is guided.
            noise: the clip's.
            sharing: who computes.
            attention_kwargs: the call's.
        """
        raise NotImplementedError
