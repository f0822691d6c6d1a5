"""Checks of a pipeline call, made before any work starts: errors name the rule, the value and a fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.image_processor import PipelineImageInput

from ..checks import check_finite, check_int
from ..geometry import ImageRole, LatentShape, PyramidGeometry
from ..presets import MAX_FRAMES, MAX_SIDE, MAX_STEPS, MAX_TOKENS
from .beginning import Beginning, check_beginnings
from .denoise import Place, UnitSettings, guidance_schedule
from .first_frames import Given, first_frames, given_digest, given_of, latent_shape, units_of_video
from .text_inputs import Embeddings, check_embeddings, check_text

OUTPUT_TYPES = ("np", "pt", "pil", "uint8", "latent")
MAX_VIDEOS = 10_000


@dataclass(frozen=True)
class Request:
    """A checked call: what to make.

    Attributes:
        num_prompts, num_videos_per_prompt: clips are ordered by prompt.
        shape: of one unit's latents.
        units: settings of each unit.
        images: what the clips begin with, one per prompt, or none.
        image_role: what an image is to its clip.
        beginnings: one per clip, all with the same number of units; or none.
        text_length: L, the number of tokens in the T5 embeddings of prompts and negative prompts.
        video_units: units that the frames of a given video would make; 0 without one.
    """

    num_prompts: int
    num_videos_per_prompt: int
    shape: LatentShape
    units: tuple[UnitSettings, ...]
    images: tuple[Given, ...]
    image_role: ImageRole
    beginnings: tuple[Beginning, ...]
    text_length: int
    video_units: int = 0

    @property
    def num_clips(self) -> int:
        """Number of clips in the call."""
        return self.num_prompts * self.num_videos_per_prompt

    @property
    def num_known_units(self) -> int:
        """Number of first units of each clip that are not generated: its beginning's, or an image's."""
        if self.beginnings:
            return self.beginnings[0].num_units
        return 1 if self.images and self.image_role == "unit" else 0

    @property
    def num_steps(self) -> int:
        """Number of transformer steps in the call."""
        new_units = self.units[self.num_known_units :]
        return self.num_clips * sum(sum(unit.num_inference_steps) for unit in new_units)

    def num_units_of(self, latents: torch.Tensor) -> int:
        """Number of units in latents (1, C, t, h, w) of a clip."""
        return latents.shape[2] // self.shape.frames

    def steps_before(self, clip: int, place: Place) -> int:
        """Number of transformer steps in the call before the one at this place of a clip."""
        before = self.units[self.num_known_units : place.unit]
        stages = self.units[place.unit].num_inference_steps[: place.stage]
        whole_units = sum(sum(unit.num_inference_steps) for unit in before)
        return clip * (self.num_steps // self.num_clips) + whole_units + sum(stages) + place.step

    def ends_unit(self, place: Place) -> bool:
        """Whether the step at this place is the last one of its unit."""
        steps = self.units[place.unit].num_inference_steps
        return (place.stage, place.step) == (len(steps) - 1, steps[-1] - 1)

    @property
    def is_guided(self) -> bool:
        """Whether any unit to be generated needs the negative prompt."""
        return any(unit.guidance_scale > 1 for unit in self.units[self.num_known_units :])

    @property
    def needs_negative(self) -> bool:
        """Whether a unit needs the negative prompt, or the digest of what guided a known one does."""
        return self.is_guided or any(
            self.guides(clip, beginning.num_units) and "negative_prompt" not in beginning.text_digests
            for clip, beginning in enumerate(self.beginnings)
        )

    def guides(self, clip: int, num_units: int) -> bool:
        """Whether a clip of `num_units` units, made in one go, needs the negative prompt."""
        first = 1 if self.role_of_image(clip) == "unit" else 0
        return any(unit.guidance_scale > 1 for unit in self.units[first:num_units])

    def role_of_image(self, clip: int) -> ImageRole | None:
        """What the image or video is that a clip begins with, given or known; None without one."""
        is_known = bool(self.beginnings) and self.beginnings[clip].image_digest is not None
        return self.image_role if self.images or is_known else None

    def image(self, clip: int) -> Given | None:
        """The image or video given for a clip, or None."""
        return self.images[clip // self.num_videos_per_prompt] if self.images else None

    def beginning(self, clip: int) -> Beginning | None:
        """The first units given for a clip, or None."""
        return self.beginnings[clip] if self.beginnings else None

    def known_stage_digests(self, clip: int) -> list[tuple[str, ...] | None]:
        """Stage digests of the units of a clip that are not generated; None where unknown."""
        if not self.beginnings:
            return [()] * self.num_known_units
        digests = self.beginnings[clip].stage_digests
        return [None] * self.num_known_units if digests is None else list(digests)


def check_call(
    geometry: PyramidGeometry,
    channels: int,
    text_widths: tuple[int, int],
    *,
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    embeddings: Embeddings,
    image: PipelineImageInput | None = None,
    video: Any = None,
    beginning: Beginning | list[Beginning | None] | None = None,
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
    max_sequence_length: int = 128,
) -> Request:
    """Check the arguments of a pipeline call against the model's geometry; see the pipeline for each.

    Args:
        geometry: the model's sizes and counts.
        channels: C of the latents.
        text_widths: widths of the T5 embeddings and of the pooled ones.

    Raises:
        ValueError, TypeError: an argument does not fit.
    """
    # Before anything of that size is allocated.
    for name, side in (("height", height), ("width", width)):
        if side is not None:
            check_int(name, side, maximum=MAX_SIDE)
    check_int("num_frames", num_frames, maximum=MAX_FRAMES)
    check_int("num_videos_per_prompt", num_videos_per_prompt, 1, MAX_VIDEOS)
    num_prompts = check_text(prompt, negative_prompt, embeddings)
    check_int("max_sequence_length", max_sequence_length, 1, MAX_TOKENS)
    text_length = check_embeddings(embeddings, text_widths, max_sequence_length)
    given = given_of(image, video)
    video_units = units_of_video(geometry, given)
    images = () if given is None else first_frames(given, num_prompts)
    shape = latent_shape(geometry, channels, height, width, images)
    num_units = geometry.num_units(num_frames)
    role, num_clips = geometry.image_role, num_prompts * num_videos_per_prompt
    beginnings = check_beginnings(beginning, num_clips, shape, num_units, role)

    stages = geometry.num_stages
    first_steps = later_steps = steps_per_stage("num_inference_steps", num_inference_steps, stages)
    if video_num_inference_steps is not None:
        later_steps = steps_per_stage("video_num_inference_steps", video_num_inference_steps, stages)
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
    request = Request(
        num_prompts, num_videos_per_prompt, shape, units, images, role, beginnings, text_length, video_units
    )
    for clip, beginning in enumerate(beginnings):
        check_image_of_beginning(beginning, request.image(clip), role)
    return request


def check_image_of_beginning(beginning: Beginning, image: Given | None, role: ImageRole) -> None:
    """Refuse a beginning that was not made from what is given, or for which it is needed again: ValueError.

    Args:
        beginning: of a clip.
        image: the image or video given for the clip.
        role: what an image is to a clip of the model.
    """
    known = beginning.image_digest
    if image is None and known is not None and role == "history":
        raise ValueError(
            "a beginning that was made from an image or a video needs it again: every unit of this model is "
            "conditioned on it; give image or video"
        )
    if image is not None and (given := given_digest(image)) != known:
        raise ValueError(
            f"image or video must be the one that the beginning was made from, with image_digest {known!r}, "
            f"got one with {given!r}"
        )


def steps_per_stage(name: str, steps: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Steps of each stage from an int (the same for all) or a list with one entry per stage."""
    values: tuple[Any, ...] = tuple(steps) if isinstance(steps, (list, tuple)) else (steps,) * num_stages
    if len(values) != num_stages:
        raise ValueError(
            f"{name} must be an int or have one entry for each of the {num_stages} stages, "
            f"got {len(values)} entries: {list(values)}"
        )
    for value in values:
        check_int(name, value, 1, MAX_STEPS)
    return tuple(map(int, values))


def check_replaced(latents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Refuse latents from a callback unless they are finite and have the shape of those it was given."""
    if latents.shape != shape:
        raise ValueError(
            f"a callback must return latents of shape {tuple(shape)}, got {tuple(latents.shape)}"
        )
    if not torch.isfinite(latents).all():
        raise ValueError("a callback must return finite latents")
    return latents
