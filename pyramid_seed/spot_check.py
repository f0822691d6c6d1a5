"""A clip checked from its kept latents: some units are made again from those before them, all are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.image_processor import PipelineImageInput

from .api import call_arguments, make_clip, opened_texts
from .choices import AfterUse
from .clip import Clip
from .pipelines.beginning import Beginning
from .pipelines.clip_pipeline import ClipPipeline
from .pipelines.encoded_texts import EncodedTexts
from .provenance.manifest import unit_digests
from .recipe import Recipe


def remake_from_latents(
    recipe: Recipe,
    pipeline: ClipPipeline,
    latents: torch.Tensor,
    units: Sequence[int],
    *,
    image: PipelineImageInput | None = None,
    text_encoders: AfterUse = "keep",
    prompt_embeds: str | Path | EncodedTexts | None = None,
    **options: Any,
) -> tuple[Clip, dict[str, Any]]:
    """Encode the text, draw all noise, make a sample of the units again, and decode all latents.

    A unit follows from the text, its noise and the units before it, so each is made alone, with the units
    before it taken from `latents`.

    Args:
        recipe: the clip's.
        pipeline: its model.
        latents: (1, C, t, h, w) float32, for the whole clip.
        units: the units to make again.
        image: the image that the clip was made from, if there was one.
        text_encoders, prompt_embeds: see `make_clip`.
        options: workers, progress, on_step and on_chunk of `make_clip`.

    Returns:
        The clip with its frames, and its manifest: with the digests of the units made again, and for the
        others those of the given latents, whose stages are unknown.
    """
    embeds = opened_texts(prompt_embeds)
    geometry = pipeline.geometry
    known = partial(_beginning, recipe, latents, geometry.frames_per_unit)
    digests = unit_digests(latents, geometry.frames_per_unit)
    stages: list[list[str] | None] = [None] * len(digests)
    for unit in units:
        num_frames = geometry.num_frames(unit + 1)
        arguments = call_arguments(
            replace(recipe, settings=replace(recipe.settings, num_frames=num_frames)),
            pipeline,
            image=image,
            beginning=None if unit == 0 else known(unit),
            embeds=embeds,
        )
        with pipeline.vae_tiling_set(recipe.vae_tiling):  # an image is encoded in these tiles
            output = pipeline(
                **arguments,
                workers=options.get("workers"),
                # Encoders that are freed cannot encode for the next unit.
                text_encoders="keep" if text_encoders == "free" else text_encoders,
                output_type="latent",
                show_progress=options.get("progress", True),
                callback_on_step_end=options.get("on_step"),
            )
        stages[unit] = list(output.stage_digests[0][unit] or ())
        digests[unit] = unit_digests(output.latents, geometry.frames_per_unit)[unit]
    clip = make_clip(
        recipe,
        pipeline,
        image=image,
        beginning=known(len(digests)),
        text_encoders=text_encoders,
        prompt_embeds=embeds,
        **options,
    )
    made = clip.manifest["digests"] | {"stages": stages, "units": digests}
    return clip, clip.manifest | {"digests": made}


def _beginning(recipe: Recipe, latents: torch.Tensor, frames_per_unit: int, num_units: int) -> Beginning:
    """The first of the given latents, with no knowledge of how they were made: that is what is checked."""
    kept = latents[:, :, : num_units * frames_per_unit]
    return Beginning(kept, image_digest=recipe.image_digest, frames_per_unit=frames_per_unit)
