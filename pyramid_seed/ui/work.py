"""The work of the jobs: calls of the public API that report their progress and can be stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from ..api import generate
from ..clip import Clip
from ..clip_files import clip_stem, continued_stem
from ..files import replacing
from ..media.frames import Frames
from ..media.images import open_image
from ..media.video import write_image
from ..pipelines.clip_pipeline import ClipPipeline
from ..presets import Preset
from ..reproduce import extend, verify
from ..run_options import RunOptions
from .gallery import free_path, image_path
from .jobs import Job, Outcome, Stopped
from .preview import image_url


def make_clip(
    job: Job,
    *,
    folder: Path,
    prompt: str,
    seed: int,
    preset: Preset,
    image: Image | None,
    loras: Mapping[str | Path, float],
    run_options: RunOptions,
) -> Outcome:
    """Call `generate` and save the clip in the folder. If stopped, the finished units are kept."""
    clip = generate(
        prompt,
        seed=seed,
        preset=preset,
        image=image,
        loras=loras,
        **_reporters(job),
        **asdict(run_options),
    )
    path = free_path(folder, clip_stem(prompt, seed))
    if image is not None:
        write_image(image_path(path), np.asarray(image))
    clip.save(path, keep_latents=True)
    return _made(path, clip, preset.num_frames)


def continue_clip(
    job: Job,
    *,
    clip_path: Path,
    old_num_frames: int,
    num_frames: int,
    branch_seed: int | None,
    from_frame: int | None,
    model: str | None,
    loras: Sequence[Path],
    device: str | None,
) -> Outcome:
    """Call `extend` and save the new clip beside the old one, which has `old_num_frames` frames."""
    image = image_beside(clip_path)
    clip = extend(
        clip_path,
        num_frames,
        branch_seed=branch_seed,
        from_frame=from_frame,
        model=model,
        image=image,
        loras=loras,
        device=device,
        **_reporters(job),
    )
    if job.is_stopping and len(clip.frames) <= (from_frame or old_num_frames):
        raise Stopped
    path = free_path(clip_path.parent, continued_stem(clip_path.stem, len(clip.frames), branch_seed))
    if image is not None:
        with replacing(image_path(path)) as temporary:
            shutil.copyfile(image_path(clip_path), temporary)
    clip.save(path, keep_latents=True)
    return _made(path, clip, num_frames)


def verify_clip(
    job: Job, *, clip_path: Path, model: str | None, loras: Sequence[Path], device: str | None
) -> Outcome:
    """Call `verify`: the clip is made again and compared."""
    image = image_beside(clip_path)
    verification = verify(
        clip_path,
        model=model,
        image=image,
        loras=loras,
        device=device,
        progress=False,
        on_step=step_reporter(job),
    )
    if job.is_stopping:
        raise Stopped
    difference = verification.difference
    environment = (f"{field.field}: {field.a!r} then, {field.b!r} now" for field in verification.environment)
    return Outcome(
        clip=clip_path.name,
        headline="MATCH" if difference is None else f"DIFFERS first in {difference.stage}: {difference.note}",
        is_good=difference is None,
        details=(
            *((step.stage, f"{step.status}: {step.note}") for step in verification.steps),
            *(("environment", text) for text in environment if difference is not None),
        ),
    )


def _reporters(job: Job) -> dict[str, Any]:
    """Arguments that report to a job: each step, and as a preview the last frame of each unit."""

    def on_chunk(_clip: int, unit: int, frames: Frames) -> None:
        job.report_image(unit, image_url(frames[-1]))

    return {"progress": False, "on_step": step_reporter(job), "on_chunk": on_chunk}


def step_reporter(job: Job) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` for the pipeline: reports to the job, and stops the pipeline on request."""

    def on_step(
        pipeline: ClipPipeline, step: int, _timestep: Any, _tensors: dict[str, Any]
    ) -> dict[str, Any]:
        job.report_step(step + 1, pipeline.num_timesteps)
        if job.is_stopping:
            pipeline._interrupt = True
        return {}

    return on_step


def image_beside(clip: Path) -> Image | None:
    """The given first frame of a clip made on this page."""
    path = image_path(clip)
    return open_image(path) if path.is_file() else None


def _made(path: Path, clip: Clip, num_frames: int) -> Outcome:
    made = len(clip.frames)
    if made < num_frames:
        headline = f"Stopped: the first {made} of {num_frames} frames were kept"
        return Outcome(path.name, headline, is_good=False)
    return Outcome(path.name, f"Made in {clip.seconds:.1f} s")
