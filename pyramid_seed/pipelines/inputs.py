"""Checks of a pipeline call, made before any work starts: each says the rule, the value and what to use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from PIL import Image

from ..checks import check_choice as check_choice
from ..geometry import LatentShape, PyramidGeometry
from ..media.images import to_rgb8
from ..noise import (
    NoiseSource,
    NoiseStreams,
    check_distinct,
    check_root,
    draws_of_clip,
    root_from_entropy,
    root_from_generator,
)
from .beginning import Beginning
from .denoise import Place, UnitSettings, guidance_schedule
from .memory import own_memory

OUTPUT_TYPES = ("np", "pt", "pil", "uint8", "latent")
DEFAULT_SIZE = (384, 640)
MAX_TEXT_LENGTH = 512
ARRAYS = (np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Request:
    """A checked call: what is to be made.

    Attributes:
        num_prompts, num_videos_per_prompt: clips are ordered by prompt.
        shape: of one unit's latents.
        units: settings of each unit.
        pictures: first frames (1, 3, H, W) in [-1, 1], one a prompt, or none.
        beginnings: of each clip, all with equally many units; or none.
        text_length: L, tokens of the T5 embeddings of prompts and negative prompts.
    """

    num_prompts: int
    num_videos_per_prompt: int
    shape: LatentShape
    units: tuple[UnitSettings, ...]
    pictures: tuple[torch.Tensor, ...]
    beginnings: tuple[Beginning, ...]
    text_length: int

    @property
    def num_clips(self) -> int:
        """Clips of the whole call."""
        return self.num_prompts * self.num_videos_per_prompt

    @property
    def num_known_units(self) -> int:
        """Units at the beginning of each clip that are given, not generated."""
        if self.beginnings:
            return self.beginnings[0].num_units
        return 1 if self.pictures else 0

    @property
    def num_steps(self) -> int:
        """Transformer steps of the whole call."""
        new_units = self.units[self.num_known_units :]
        return self.num_clips * sum(sum(unit.num_inference_steps) for unit in new_units)

    def steps_before(self, clip: int, place: Place) -> int:
        """Transformer steps of the call before the one at this place of a clip."""
        before = self.units[self.num_known_units : place.unit]
        stages = self.units[place.unit].num_inference_steps[: place.stage]
        whole_units = sum(sum(unit.num_inference_steps) for unit in before)
        return clip * (self.num_steps // self.num_clips) + whole_units + sum(stages) + place.step

    def ends_stage(self, place: Place) -> bool:
        """Whether the step at this place is the last one of its stage."""
        return place.step == self.units[place.unit].num_inference_steps[place.stage] - 1

    def ends_unit(self, place: Place) -> bool:
        """Whether the step at this place is the last one of its unit."""
        is_last_stage = place.stage == len(self.units[place.unit].num_inference_steps) - 1
        return is_last_stage and self.ends_stage(place)

    @property
    def is_guided(self) -> bool:
        """Whether any unit that is generated needs the negative prompt."""
        return any(unit.guidance_scale > 1 for unit in self.units[self.num_known_units :])

    @property
    def needs_negative(self) -> bool:
        """Whether the negative prompt is needed: for a unit, or for the digest of what guided a known one."""
        return self.is_guided or any(
            self.guides(clip, beginning.num_units) and "negative_prompt" not in beginning.text_digests
            for clip, beginning in enumerate(self.beginnings)
        )

    def guides(self, clip: int, num_units: int) -> bool:
        """Whether a clip of `num_units` units, made in one go, needs the negative prompt."""
        first = 1 if self.begins_with_image(clip) else 0
        return any(unit.guidance_scale > 1 for unit in self.units[first:num_units])

    def begins_with_image(self, clip: int) -> bool:
        """Whether unit 0 of a clip is an encoded image, given or known."""
        return bool(self.pictures or (self.beginnings and self.beginnings[clip].image_digest is not None))


def check_call(
    geometry: PyramidGeometry,
    channels: int,
    text_widths: tuple[int, int],
    *,
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    embeddings: Mapping[str, torch.Tensor | None],
    image: PipelineImageInput | None,
    beginning: Beginning | list[Beginning | None] | None,
    height: int | None,
    width: int | None,
    num_frames: int,
    num_inference_steps: int | list[int],
    video_num_inference_steps: int | list[int] | None,
    guidance_scale: float,
    video_guidance_scale: float | None,
    guidance_decay: float | None,
    min_guidance_scale: float,
    num_videos_per_prompt: int,
    max_sequence_length: int,
) -> Request:
    """Check the arguments of a pipeline call against the model's geometry; see the pipeline for each.

    Args:
        geometry: sizes and counts.
        channels: C of the latents.
        text_widths: of the T5 embeddings and of the pooled ones.

    Raises:
        ValueError, TypeError: an argument does not fit.
    """
    num_prompts = check_text(prompt, negative_prompt, embeddings)
    check_positive("max_sequence_length", max_sequence_length)
    if max_sequence_length > MAX_TEXT_LENGTH:
        raise ValueError(
            f"max_sequence_length must be at most {MAX_TEXT_LENGTH}, got {max_sequence_length}; "
            f"use {MAX_TEXT_LENGTH}"
        )
    text_length = check_embeddings(embeddings, text_widths, max_sequence_length)
    check_positive("num_videos_per_prompt", num_videos_per_prompt)
    pictures = () if image is None else first_frames(image, num_prompts)
    shape = latent_shape(geometry, channels, height, width, pictures)
    num_units = geometry.num_latent_frames(num_frames)
    beginnings = check_beginnings(beginning, num_prompts * num_videos_per_prompt, shape, num_units)
    if pictures and beginnings:
        raise ValueError("give either image or beginning, not both")

    first_steps = steps_per_stage("num_inference_steps", num_inference_steps, geometry.num_stages)
    later_steps = first_steps
    if video_num_inference_steps is not None:
        later_steps = steps_per_stage(
            "video_num_inference_steps", video_num_inference_steps, geometry.num_stages
        )
    video_guidance_scale = guidance_scale if video_guidance_scale is None else video_guidance_scale
    check_finite("guidance_scale", guidance_scale)
    check_finite("video_guidance_scale", video_guidance_scale)
    check_finite("guidance_decay", 0 if guidance_decay is None else guidance_decay)
    check_finite("min_guidance_scale", min_guidance_scale)
    scales = guidance_schedule(
        num_units, guidance_scale, video_guidance_scale, guidance_decay, min_guidance_scale
    )
    units = tuple(
        UnitSettings(first_steps if unit == 0 else later_steps, scale) for unit, scale in enumerate(scales)
    )
    return Request(num_prompts, num_videos_per_prompt, shape, units, pictures, beginnings, text_length)


def steps_per_stage(name: str, steps: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Steps of each stage from an int (the same for all) or a list with one entry a stage."""
    values: tuple[Any, ...] = tuple(steps) if isinstance(steps, (list, tuple)) else (steps,) * num_stages
    if len(values) != num_stages:
        raise ValueError(
            f"{name} must be an int or have one entry for each of the {num_stages} stages, "
            f"got {len(values)} entries: {list(values)}"
        )
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must hold ints of at least 1, got {value!r}; use 1 or more")
    return values


def check_text(
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    embeddings: Mapping[str, torch.Tensor | None],
) -> int:
    """Check prompts against given embeddings; returns the number of prompts.

    `embeddings` holds prompt_embeds, prompt_attention_mask, pooled_prompt_embeds and their negative_ twins.
    """
    for prefix, text in (("", prompt), ("negative_", negative_prompt)):
        names = [name for name in embeddings if name.startswith("negative_") == bool(prefix)]
        given = [name for name in names if embeddings[name] is not None]
        if given and len(given) < len(names):
            missing = sorted(set(names) - set(given))
            raise ValueError(f"{', '.join(given)} must come with {', '.join(missing)}")
        if given and text is not None:
            raise ValueError(f"give either {prefix}prompt or {prefix}prompt_embeds, not both")
    embeds = embeddings["prompt_embeds"]
    if prompt is not None and not _is_text(prompt):
        raise ValueError(f"prompt must be a str or a non-empty list of str, got {prompt!r}")
    if embeds is not None:
        count = embeds.shape[0]
    elif prompt is not None:
        count = 1 if isinstance(prompt, str) else len(prompt)
    else:
        raise ValueError("give a prompt or prompt_embeds")
    negative_embeds = embeddings["negative_prompt_embeds"]
    if negative_embeds is not None and negative_embeds.shape[0] not in (1, count):
        raise ValueError(
            f"negative_prompt_embeds must have batch size 1 or {count}, got {negative_embeds.shape[0]}"
        )
    if negative_prompt is not None and not _is_text(negative_prompt):
        raise ValueError(f"negative_prompt must be a str or a non-empty list of str, got {negative_prompt!r}")
    if isinstance(negative_prompt, list) and len(negative_prompt) != count:
        raise ValueError(
            f"negative_prompt must be a str or have one entry for each of the {count} prompts, "
            f"got {len(negative_prompt)}"
        )
    return count


def _is_text(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def check_embeddings(
    embeddings: Mapping[str, torch.Tensor | None], text_widths: tuple[int, int], length: int
) -> int:
    """Check the shapes of given embeddings; returns L, that of `prompt_embeds` if given, else `length`.

    They must be (N, L, D), (N, L) and (N, P), with the same L for prompts and negative prompts.
    """
    prompt_embeds = embeddings["prompt_embeds"]
    length = length if prompt_embeds is None or prompt_embeds.ndim < 2 else prompt_embeds.shape[1]
    for prefix in ("", "negative_"):
        embeds = embeddings[prefix + "prompt_embeds"]
        if embeds is None:
            continue
        shapes = {
            "prompt_embeds": (embeds.shape[0], length, text_widths[0]),
            "prompt_attention_mask": (embeds.shape[0], length),
            "pooled_prompt_embeds": (embeds.shape[0], text_widths[1]),
        }
        for name, shape in shapes.items():
            values = embeddings[prefix + name]
            if values is not None and tuple(values.shape) != shape:
                raise ValueError(f"{prefix}{name} must have shape {shape}, got {tuple(values.shape)}")
    return length


def noise_sources(
    num_clips: int,
    num_videos_per_prompt: int,
    seed: int | list[int] | None,
    generator: torch.Generator | list[torch.Generator] | None,
    noise: NoiseSource | list[NoiseSource] | None,
    noise_device: str | torch.device,
) -> list[NoiseSource]:
    """One noise source a clip, from whichever of seed, generator and noise was given.

    - `seed`: an int is the root of every prompt's first video, the following ones count up from it, so a
      prompt's clips do not depend on the other prompts; a list has one root a clip.
    - `generator`: gives roots, diffusers' way: one for all clips in turn, or one a clip.
    - `noise`: one source a clip.
    - nothing: each root is drawn from the operating system.
    """
    given = [
        name
        for name, value in (("seed", seed), ("generator", generator), ("noise", noise))
        if value is not None
    ]
    if len(given) > 1:
        raise ValueError(f"give only one of seed, generator and noise, got {' and '.join(given)}")
    for name, value in (("seed", seed), ("generator", generator), ("noise", noise)):
        if isinstance(value, list) and len(value) != num_clips:
            raise ValueError(
                f"a list for {name} must have one entry for each of the {num_clips} clips, got {len(value)}"
            )
    if noise is not None:
        sources = noise if isinstance(noise, list) else [noise]
        if len(sources) != num_clips:
            raise ValueError(f"noise must be a list with one source for each of the {num_clips} clips")
        for source in sources:
            if not callable(getattr(source, "draw", None)):
                raise TypeError(f"noise must have a method draw(key, shape), got {source!r}")
        return list(sources)
    if generator is not None:
        generators = generator if isinstance(generator, list) else [generator] * num_clips
        for each in generators:
            if not isinstance(each, torch.Generator):
                raise TypeError(f"generator must be a torch.Generator or a list of them, got {each!r}")
        roots = [root_from_generator(each) for each in generators]
    elif isinstance(seed, list):
        roots = seed
    elif seed is not None:
        check_root(seed)
        roots = [seed + clip % num_videos_per_prompt for clip in range(num_clips)]
    else:
        roots = [root_from_entropy() for _ in range(num_clips)]
    return [NoiseStreams(root, noise_device) for root in roots]


def check_draws(sources: Sequence[NoiseSource], request: Request) -> None:
    """Refuse seeds under which a clip would draw the same noise twice; all its draws are known beforehand."""
    for clip, source in enumerate(sources):
        with_image = request.begins_with_image(clip)
        draws = draws_of_clip(len(request.units), request.shape, with_image=with_image)
        check_distinct(source, [key for key, _ in draws])


def first_frames(image: PipelineImageInput, num_prompts: int) -> tuple[torch.Tensor, ...]:
    """Pictures (1, 3, H, W) in [-1, 1], one a prompt, in the size in which they were given.

    Takes what diffusers takes: PIL pictures, arrays (H, W, 3), tensors (3, H, W) or batches of them, in
    [0, 1]; one picture serves all prompts. PIL pictures as `images.to_rgb8` shows them.
    """
    given = image if isinstance(image, list) else [image]
    for each in given:
        if isinstance(each, ARRAYS):
            _check_values(torch.as_tensor(each))
    shown = [to_rgb8(each) if isinstance(each, Image.Image) else each for each in given]
    processor = VaeImageProcessor(do_resize=False)
    batch = processor.preprocess(shown if isinstance(image, list) else shown[0])
    pictures = tuple(own_memory(picture) for picture in batch.split(1))
    if len(pictures) not in (1, num_prompts):
        raise ValueError(
            f"image must be one picture or one for each of the {num_prompts} prompts, got {len(pictures)}"
        )
    for picture in pictures:
        if picture.shape[1] != 3:
            raise ValueError(f"image must have 3 channels, got {picture.shape[1]}")
    return pictures * num_prompts if len(pictures) == 1 else pictures


def _check_values(values: torch.Tensor) -> None:
    """Values of a picture must be in [0, 1]; diffusers takes those of one below 0 to be in [-1, 1]."""
    if not values.is_floating_point():
        raise ValueError(
            f"image must be a PIL picture or floating point in [0, 1], got {values.dtype}; divide by 255"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"image must be in [0, 1], got values from {values.min().item():g} to "
            f"{values.max().item():g}; scale it, and clamp what is a little outside: image.clip(0, 1)"
        )


def picture_size(height: int | None, width: int | None, pictures: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Height and width of the clip: as given, else the picture's, else the default.

    A picture of another size is refused: how to crop or stretch it is not ours to choose.
    """
    own = tuple(pictures[0].shape[-2:]) if pictures else DEFAULT_SIZE
    size = (own[0] if height is None else height, own[1] if width is None else width)
    for picture in pictures:
        if tuple(picture.shape[-2:]) != size:
            raise ValueError(
                f"image must have the clip's height and width {size[0]} x {size[1]}, got "
                f"{picture.shape[-2]} x {picture.shape[-1]}; resize it first, e.g. "
                f"image.resize(({size[1]}, {size[0]}))"
            )
    return size


def latent_shape(
    geometry: PyramidGeometry,
    channels: int,
    height: int | None,
    width: int | None,
    pictures: Sequence[torch.Tensor],
) -> LatentShape:
    """Shape of a unit's latents; where their size comes from a picture, errors say so."""
    size = picture_size(height, width, pictures)
    try:
        return geometry.latent_shape(channels, *size)
    except ValueError as error:
        if pictures and (height is None or width is None):
            raise ValueError(
                f"image gives the clip its size of {size[0]} x {size[1]}, but {error}; resize it first"
            ) from None
        raise


def check_beginnings(
    beginning: Beginning | list[Beginning | None] | None,
    num_clips: int,
    shape: LatentShape,
    limit: int,
) -> tuple[Beginning, ...]:
    """The beginning of each clip, or none: of the clip's size, equally long, and at most `limit` units."""
    if beginning is None:
        return ()
    listed = beginning if isinstance(beginning, list) else [beginning]
    if len(listed) != num_clips:
        raise ValueError(
            f"beginning must be a list with one entry for each of the {num_clips} clips, got {len(listed)}"
        )
    for value in listed:
        if not isinstance(value, Beginning | None):
            raise TypeError(f"beginning must be a Beginning, a list of them, or None, got {value!r}")
    beginnings = tuple(value for value in listed if value is not None)
    if len({value.num_units for value in beginnings}) > 1 or len(beginnings) not in (0, num_clips):
        counts = [0 if value is None else value.num_units for value in listed]
        raise ValueError(
            f"the beginnings of the clips of one call must have equally many units, got {counts}; "
            "use a call for each number"
        )
    for value in beginnings:
        if value.latents[:, :, :1].shape != shape.as_tuple() or value.num_units > limit:
            raise ValueError(
                f"latents of a beginning must have shape (1, {shape.channels}, 1 .. {limit}, {shape.height}, "
                f"{shape.width}), got {tuple(value.latents.shape)}"
            )
    return beginnings


def check_finite(name: str, value: float) -> None:
    """The value must be a finite number."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def check_replaced(latents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Latents that a callback returned must be finite and of the shape of those it was given."""
    if latents.shape != shape:
        raise ValueError(
            f"a callback must return latents of shape {tuple(shape)}, got {tuple(latents.shape)}"
        )
    if not torch.isfinite(latents).all():
        raise ValueError("a callback must return finite latents")
    return latents


def check_positive(name: str, value: int) -> None:
    """The value must be an int of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}; use 1 or more")
