"""The work of the jobs: calls of the public API that report their progress and can be stopped."""

from __future__ import annotations

import io
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..api import generate
from ..clip import Clip
from ..clip_files import clip_stem, continued_stem
from ..files import replacing
from ..media.frames import Frames
from ..media.images import open_image
from ..media.video import write_image
from ..pages import data_url
from ..pipelines.clip_pipeline import ClipPipeline
from ..presets import Preset
from ..reproduce import extend, verify
from .gallery import free_path, image_path
from .jobs import Job, Outcome, Stopped

MAX_PREVIEW_SIDE = 256


@dataclass(frozen=True)
class SavedClip:
    """A clip in the page's folder, and with what it is made again here.

    Attributes:
        path: its file.
        settings: those it was made with.
        model, loras, device: see `reproduce.regenerate`.
    """

    path: Path
    settings: Preset
    model: str | None
    loras: Sequence[Path]
    device: str | None

    def arguments(self) -> dict[str, Any]:
        """Arguments of `extend` and `verify`."""
        image = image_beside(self.path)
        return {"model": self.model, "image": image, "loras": self.loras, "device": self.device}


def make_clip(
    job: Job,
    *,
    folder: Path,
    prompt: str,
    seed: int,
    preset: Preset,
    image: Image.Image | None,
    **options: Any,
) -> Outcome:
    """Call `generate` and save the clip in the folder. If stopped, the finished units are kept."""
    clip = generate(prompt, seed=seed, preset=preset, image=image, **_reporters(job, preset), **options)
    path = free_path(folder, clip_stem(prompt, seed))
    if image is not None:
        write_image(image_path(path), np.asarray(image))
    clip.save(path, keep_latents=True)
    return _made(path, clip, preset.num_frames)


def continue_clip(
    job: Job, *, saved: SavedClip, num_frames: int, branch_seed: int | None, from_frame: int | None
) -> Outcome:
    """Call `extend` and save the new clip beside the old one."""
    arguments = saved.arguments()
    clip = extend(
        saved.path,
        num_frames,
        branch_seed=branch_seed,
        from_frame=from_frame,
        **arguments,
        **_reporters(job, saved.settings),
    )
    if job.is_stopping and len(clip.frames) <= (from_frame or saved.settings.num_frames):
        raise Stopped
    path = free_path(saved.path.parent, continued_stem(saved.path.stem, len(clip.frames), branch_seed))
    if arguments["image"] is not None:
        with replacing(image_path(path)) as temporary:
            shutil.copyfile(image_path(saved.path), temporary)
    clip.save(path, keep_latents=True)
    return _made(path, clip, num_frames)


def verify_clip(job: Job, *, saved: SavedClip) -> Outcome:
    """Call `verify`: the clip is made again and compared."""
    verification = verify(
        saved.path, **saved.arguments(), progress=False, on_step=step_reporter(job, saved.settings)
    )
    if job.is_stopping:
        raise Stopped
    difference = verification.difference
    return Outcome(
        clip=saved.path.name,
        headline="MATCH" if difference is None else f"DIFFERS first in {difference.stage}: {difference.note}",
        is_good=difference is None,
        details=(
            *((step.stage, f"{step.status}: {step.note}") for step in verification.steps),
            *(("environment", str(change)) for change in verification.environment if difference is not None),
        ),
    )


def _reporters(job: Job, settings: Preset) -> dict[str, Any]:
    """Arguments that report to a job: each step, and as a preview the last frame of each unit."""

    def on_chunk(_clip: int, unit: int, frames: Frames) -> None:
        job.report_image(unit, image_url(frames[-1]))

    return {"progress": False, "on_step": step_reporter(job, settings), "on_chunk": on_chunk}


def step_reporter(job: Job, settings: Preset) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` for the pipeline: reports to the job, and stops the pipeline on request.

    The time left is reckoned by the pace of as many steps as a unit has. They go through every stage, so it
    does not jump although the stages differ in cost.
    """
    steps_of_unit = sum(settings.video_num_inference_steps or settings.num_inference_steps)
    times: deque[float] = deque(maxlen=steps_of_unit + 1)

    def on_step(
        pipeline: ClipPipeline, step: int, _timestep: Any, _tensors: dict[str, Any]
    ) -> dict[str, Any]:
        times.append(time.monotonic())
        left = pipeline.num_timesteps - step - 1
        is_known = len(times) > steps_of_unit
        seconds_left = left * (times[-1] - times[0]) / steps_of_unit if is_known else None
        job.report_step(step + 1, pipeline.num_timesteps, seconds_left)
        if job.is_stopping:
            pipeline._interrupt = True
        return {}

    return on_step


def image_url(frame: Frames) -> str:
    """A frame (H, W, 3) uint8 as a data URL, at most `MAX_PREVIEW_SIDE` pixels wide and high."""
    image = Image.fromarray(frame)
    image.thumbnail((MAX_PREVIEW_SIDE, MAX_PREVIEW_SIDE))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=90)
    return data_url("image/webp", data.getvalue())


def image_beside(clip: Path) -> Image.Image | None:
    """The given first frame of a clip made on this page."""
    path = image_path(clip)
    return open_image(path) if path.is_file() else None


def _made(path: Path, clip: Clip, num_frames: int) -> Outcome:
    made = len(clip.frames)
    if made < num_frames:
        headline = f"Stopped: the first {made} of {num_frames} frames were kept"
        return Outcome(path.name, headline, is_good=False)
    return Outcome(path.name, f"Made in {clip.seconds:.1f} s")
