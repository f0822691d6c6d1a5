"""Where the noise of each clip in a call comes from: seeds, generators, or the caller's own sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..noise import (
    NoiseSource,
    NoiseStreams,
    check_distinct,
    draws_of_clip,
    root_from_generator,
)
from ..seeds import roots_of_clips
from .inputs import Request


def noise_sources(
    num_clips: int,
    num_videos_per_prompt: int,
    seed: int | list[int] | None,
    generator: torch.Generator | list[torch.Generator] | None,
    noise: NoiseSource | list[NoiseSource] | None,
    noise_device: str | torch.device,
) -> list[NoiseSource]:
    """One noise source per clip, from seed, generator or noise, of which at most one may be given.

    - `seed`: see `roots_of_clips`, also if none of the three is given.
    - `generator`: gives the roots, as in diffusers: one for all clips in turn, or one per clip.
    - `noise`: one source per clip.
    """
    arguments = {"seed": seed, "generator": generator, "noise": noise}
    names = [name for name, value in arguments.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"give only one of seed, generator and noise, got {' and '.join(names)}")
    for name, value in {"generator": generator, "noise": noise}.items():
        if isinstance(value, list) and len(value) != num_clips:
            raise ValueError(
                f"a list for {name} must have one entry for each of the {num_clips} clips, got {len(value)}"
            )
    if noise is not None:
        return _own_sources(noise, num_clips)
    if generator is not None:
        roots = _roots_from_generators(generator, num_clips)
    else:
        roots = roots_of_clips(seed, num_clips, num_videos_per_prompt)
    return [NoiseStreams(root, noise_device) for root in roots]


def _own_sources(noise: NoiseSource | list[NoiseSource], num_clips: int) -> list[NoiseSource]:
    sources = list(noise) if isinstance(noise, list) else [noise]
    if len(sources) != num_clips:
        raise ValueError(f"noise must be a list with one source for each of the {num_clips} clips")
    for source in sources:
        if not callable(getattr(source, "draw", None)):
            raise TypeError(f"noise must have a method draw(key, shape), got {source!r}")
    return sources


def _roots_from_generators(generator: torch.Generator | list[torch.Generator], num_clips: int) -> list[int]:
    generators = generator if isinstance(generator, list) else [generator] * num_clips
    for value in generators:
        if not isinstance(value, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or a list of them, got {value!r}")
    return [root_from_generator(value) for value in generators]


def check_draws(sources: Sequence[NoiseSource], request: Request) -> None:
    """Refuse seeds that would make a clip draw the same noise twice; all its draws are known in advance."""
    for clip, source in enumerate(sources):
        draws = draws_of_clip(
            len(request.units),
            request.shape,
            image=request.role_of_image(clip),
            video_units=request.video_units,
        )
        check_distinct(source, [key for key, _ in draws])
