"""A process of a batch at work: takes jobs, makes their clips and keeps every finished unit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from ..files import file_digest
from ..media.contact_sheet import Strip
from ..media.frame_file import FrameFile
from ..media.frames import Frames
from ..pipelines.beginning import Beginning
from ..pipelines.memory import free_memory
from .entries import Entry
from .errors import ModelError, OutputError, Stopped, refuse_too_many_files, writing
from .identity import KEY_LENGTH, Job
from .journal import Journal, file_state
from .launch import Launch, LaunchError
from .maker import MadeClip, Maker, Order
from .units import load_units, save_unit
from .work import Work

logger = logging.getLogger(__name__)

COUNTERS = ("steps", "known", "done", "failed")
"""What a worker counts: steps made and steps already known, clips made and clips that failed."""


@dataclass(frozen=True)
class Worker:
    """Takes jobs and makes them until none are left or it is asked to stop.

    Args:
        journal: the record of the output folder.
        launch: the processes with which it shares the jobs.
        maker: makes the clips.
        is_stopped: whether it was asked to stop.
        lossless: keep every bit in the video files.
        folders: put clips into sub-folders named after the first digits of their ids.
        is_made: whether a process that shares only the folder has made a job meanwhile.
    """

    journal: Journal
    launch: Launch
    maker: Maker
    is_stopped: Callable[[], bool]
    lossless: bool
    folders: bool = False
    is_made: Callable[[Job], bool] = lambda _: False

    def work(self, work: Work, on_progress: Callable[[], None]) -> None:
        """Make the clips of `work`; `on_progress` is called after every step and every clip.

        Raises:
            OutputError: the output folder cannot be written to.
            ModelError: the model of a job cannot be loaded.
            OSError: too many files are open.
            LaunchError: the processes have lost each other.
        """
        while not self.is_stopped() and (place := self.launch.take()) < work.number:
            job = work.job(place)
            self.make(job, on_progress, is_shown=job.id in work.shown)
            on_progress()

    def make(self, job: Job, on_progress: Callable[[], None], *, is_shown: bool) -> None:
        """Make one job's clip, unless stopped or another process has made it; raises as `work` does."""
        try:
            if self.is_made(job):
                self._leave(job)
            else:
                self._make(job, on_progress, is_shown=is_shown)
        except Stopped:
            logger.info("stopped")
        except OutputError:  # the first to finish a clip removes its work folder, used by others
            if not self.is_made(job):
                raise
            self._leave(job)

    def fail(self, job: Job, reason: str) -> None:
        """Record that the clip of a job could not be made."""
        with writing(self.journal.folder):
            self.journal.record(self._entry(job, "failed") | {"reason": reason})
        self.launch.count("failed")

    def _leave(self, job: Job) -> None:
        logger.info("%s: another process has made it", job.file)
        self.launch.count("done")

    def _make(self, job: Job, on_progress: Callable[[], None], *, is_shown: bool) -> None:
        logger.info("%s: begun", job.file)
        reason = None
        with writing(self.journal.folder):
            path = self.journal.clip_path(self._file(job))
        strip = Strip(job.item.settings.num_frames) if is_shown else None
        with _ClipFile(path, self.lossless, strip) as file:
            try:
                clip, num_resumed = self._clip(job, on_progress, file)
            except (Stopped, OutputError, ModelError, LaunchError):
                raise
            except Exception as error:  # an error in one clip must not stop the others
                refuse_too_many_files(error)
                reason = f"{type(error).__name__}: {error}"
                logger.exception("%s: failed", job.file)
            else:
                self._save(job, clip, file, num_resumed)
        if reason is not None:
            # Only here are the error and the tensors of its frames released.
            free_memory()
            self.fail(job, reason)

    def _clip(self, job: Job, on_progress: Callable[[], None], file: FrameFile) -> tuple[MadeClip, int]:
        """The clip of a job, and how many of its units were already made."""
        with writing(self.journal.folder):
            units = self.journal.open_work_folder(job.id)
        origins = [{**origin, "key": job.key} for origin in self.maker.origins(job)]
        # The last unit is always made here: so the text is encoded as in an uninterrupted run.
        num_units, image_digest = len(job.steps) - 1, self.maker.image_digest(job.item)
        known = partial(_load_units, job, units, num_units, image_digest)
        origin, (beginning, refusal) = origins[0], known(origins[0])
        for earlier in origins[1:] if beginning is None and refusal is not None else ():
            if (found := known(earlier))[0] is not None:
                origin, (beginning, refusal) = earlier, found
                break
        if refusal is not None:
            logger.warning("%s: not resumed from %s", job.file, refusal)
        if beginning is None and (beginning := self._kept_beginning(job, units, origin, image_digest)):
            logger.info("%s: continues from the units of another clip", job.file)
        num_resumed = 0 if beginning is None else beginning.num_units
        if num_resumed:
            logger.info("%s: resumed after unit %d", job.file, num_resumed - 1)
            self.launch.count("known", sum(job.steps[:num_resumed]))

        def on_step() -> None:
            self.launch.count("steps")
            on_progress()
            if self.is_stopped():
                raise Stopped

        def on_unit(unit: int, latents: torch.Tensor, stage_digests: Sequence[str]) -> None:
            with writing(self.journal.folder):
                save_unit(units, unit, latents, stage_digests, origin)

        try:
            return self.maker.make(Order(job, origin, beginning), on_step, on_unit, file), num_resumed
        except ValueError as error:
            if beginning is None or isinstance(error, ModelError):
                raise
            logger.warning("%s: started over, its units cannot be resumed: %s", job.file, error)
        with writing(self.journal.folder):
            self.journal.set_aside(units)
        self.launch.count("known", -sum(job.steps[:num_resumed]))
        return self.maker.make(Order(job, origin), on_step, on_unit, file), 0

    def _kept_beginning(
        self, job: Job, units: Path, origin: Mapping[str, Any], image_digest: str | None
    ) -> Beginning | None:
        """The longest beginning of a clip that another one has kept; its units become the clip's own."""
        for num_units, key in reversed(list(enumerate(job.beginnings or (), start=1))):
            folder = self.journal.work_folder(key[:KEY_LENGTH])
            known, _ = _load_units(job, folder, num_units, image_digest, {**origin, "key": key})
            if known is None or known.num_units < num_units:
                continue
            stages = known.stage_digests or ()
            with writing(self.journal.folder):
                for unit, latents in enumerate(known.latents.split(job.frames_per_unit, dim=2)):
                    save_unit(units, unit, latents, stages[unit] or (), origin)
            return known
        return None

    def _save(self, job: Job, clip: MadeClip, file: _ClipFile, num_resumed: int) -> None:
        unfinished = self.journal.unfinished_path(job.id)
        with writing(self.journal.folder):
            # Half-written clips are kept where only batches write, see `Journal.clean`.
            clip.save(unfinished, lossless=self.lossless, overwrite=True)
            outcome = {
                "digest": clip.digest,
                "file_sha256": file_digest(unfinished),
                **file_state(unfinished.stat()),
                "num_frames": file.num_frames,
                "seconds": round(clip.seconds, 3),
                "resumed_units": num_resumed,
                **({"notes": list(clip.notes)} if clip.notes else {}),
            }
            file.path.parent.mkdir(exist_ok=True)  # only now, so that a stopped batch leaves no empty folder
            unfinished.replace(file.path)
            if file.strip is not None:
                file.strip.write(self.journal.strip_path(job.id))
            self.journal.record(self._entry(job, "done") | outcome)
        if job.beginnings is None:
            self.journal.finish(job.id)
        self.launch.count("done")
        logger.info("%s: done in %.1f s, digest %s", job.file, clip.seconds, clip.digest)

    def _file(self, job: Job) -> str:
        return f"{job.id[:2]}/{job.file}" if self.folders else job.file

    def _entry(self, job: Job, status: str) -> Entry:
        item = job.item
        return {
            "file": self._file(job),
            "status": status,
            "id": job.id,
            "key": job.key,
            "prompt": item.prompt,
            "seed": str(item.seed),
            **({"branches": [f"{b.from_unit}:{b.seed}" for b in item.branches]} if item.branches else {}),
            "preset": item.settings.name,
            "height": item.settings.height,
            "width": item.settings.width,
            "image": None if item.image is None else str(item.image),
            **({"loras": [f"{lora.file.name}:{lora.scale:g}" for lora in item.loras]} if item.loras else {}),
            "process": self.launch.rank,
        }


def _load_units(
    job: Job, folder: Path, limit: int, image_digest: str | None, origin: Mapping[str, Any]
) -> tuple[Beginning | None, str | None]:
    """Units of a job's kind in a folder, see `load_units`."""
    return load_units(folder, limit, origin, image_digest, job.frames_per_unit, job.image_role)


class _ClipFile(FrameFile):
    """Receives the frames of a clip: encodes them, and may keep some for the contact sheet."""

    def __init__(self, path: Path, lossless: bool, strip: Strip | None) -> None:
        super().__init__(path, lossless=lossless)
        self.strip = strip

    def __enter__(self) -> Self:
        with writing(self.path.parent):
            return super().__enter__()

    def write(self, frames: Frames) -> None:
        """Write the next frames; a full disk raises OutputError."""
        with writing(self.path.parent):
            super().write(frames)
        if self.strip is not None:
            for frame in frames:
                self.strip.add(frame)
