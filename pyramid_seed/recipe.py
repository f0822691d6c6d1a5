"""How a clip is to be made: everything that determines it, besides the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .choices import AttentionPath, DeterminismLevel
from .geometry import PyramidGeometry
from .noise import Branch, check_root
from .presets import Preset, with_settings


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a clip, besides the weights.

    Attributes:
        prompt: as given.
        seed: the root seed.
        branches: units from which another root seed is used.
        settings: all settings after defaults.
        noise_device: where noise is drawn.
        determinism: "strict" or "relaxed".
        attention: how attention is computed, see `AttentionPath`; None before the clip is made: the
            transformer's own.
        compiled: whether any model was compiled.
        image_digest: SHA-256 of the image given, None without one.
        vae_tiling: the tiles that the VAE used, see `AutoencoderKLCausalVideo.tiling`; None without tiles.
        cache: the active step cache, see `cache_in_use` of the transformer; None without one.
        quantization: how the transformer's weights were quantised, see `PyramidFlowPipeline.quantization`.
    """

    prompt: str
    seed: int
    branches: tuple[Branch, ...]
    settings: Preset
    noise_device: str
    determinism: DeterminismLevel
    attention: AttentionPath | None
    compiled: bool
    image_digest: str | None
    vae_tiling: tuple[int, ...] | None = None
    cache: Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None


def plan_extension(
    recipe: Recipe,
    geometry: PyramidGeometry,
    num_frames: int,
    *,
    branch_seed: int | None = None,
    from_frame: int | None = None,
) -> tuple[Recipe, int]:
    """The recipe of the longer or branched clip, and how many units of the old one it begins with.

    Args:
        recipe: that of the clip to continue.
        geometry: its model's.
        num_frames: frames of the new clip.
        branch_seed: root seed after the beginning; None keeps the clip's own.
        from_frame: number of frames to keep; default: all. Only with a branch_seed.

    Raises:
        ValueError: from_frame is not where a unit ends, or the new clip would add nothing; the message names
            good values.
    """
    had = recipe.settings.num_frames
    num_frames = with_settings(recipe.settings, {"num_frames": num_frames}).num_frames  # checks the limit
    geometry.check_num_frames(num_frames)
    if from_frame is not None and branch_seed is None:
        raise ValueError("from_frame needs a branch_seed: with its own seed the clip continues as it is")
    kept_frames = had if from_frame is None else from_frame
    if from_frame is not None:
        _check_boundary(from_frame, had, geometry)
    kept = geometry.num_units(kept_frames)
    if num_frames <= kept_frames:
        raise ValueError(
            f"num_frames must be above {kept_frames}, the frames that stay, got {num_frames}; "
            f"use {geometry.num_frames(kept + 1)}"
        )
    branches = recipe.branches
    if branch_seed is not None:
        check_root(branch_seed)
        earlier = tuple(branch for branch in branches if branch.from_unit < kept)
        branches = (*earlier, Branch(kept, branch_seed))
    return replace(recipe, branches=branches, settings=replace(recipe.settings, num_frames=num_frames)), kept


def _check_boundary(frame: int, num_frames: int, geometry: PyramidGeometry) -> None:
    good = geometry.good_num_frames(num_frames)
    if frame not in good:
        nearest = sorted(good, key=lambda value: abs(value - frame))[:2]
        raise ValueError(
            f"from_frame must be {geometry.frame_rule} and at most {num_frames}, where a unit ends, got "
            f"{frame}; use {' or '.join(map(str, sorted(nearest)))}"
        )
