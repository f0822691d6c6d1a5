"""A batch: make what is missing of a list of clips, shared out among the processes of a launch.

The main process plans: it reads the list, looks at what is there, and publishes what is to be made. Every
process takes items from that plan until none is left. Nothing of a clip depends on who makes it.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from ..media.contact_sheet import Strip, write_sheet
from ..media.frame_file import FrameFile
from ..media.video import Frames, video_frames
from ..pipelines.beginning import Beginning
from .identity import Job, in_order, jobs_from_json, jobs_to_json
from .items import BatchItem
from .journal import Entry, Journal, file_digest
from .launch import Launch, LaunchError
from .progress import Counts, ProgressLine
from .rows import BadRow
from .signals import StopSignals
from .units import load_units, save_unit

logger = logging.getLogger("pyramid_seed.batch.run.run")

_MERGE_SECONDS = 2.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class MadeClip(Protocol):
    """A finished clip, such as `pyramid_seed.Clip`."""

    @property
    def digest(self) -> str:
        """SHA-256 of the frames."""
        ...

    def save(self, path: Path, *, lossless: bool, overwrite: bool) -> Path:
        """Write it, whole or not at all."""
        ...


class Maker(Protocol):
    """Makes clips; the only part of a batch that knows models."""

    def image_digest(self, item: BatchItem) -> str | None:
        """Digest of an item's first frame, see `Beginning`; None without one."""
        ...

    def origin(self, item: BatchItem) -> Mapping[str, Any]:
        """What the units of an item are made by here: machine, versions, settings of the process."""
        ...

    def make(
        self,
        job: Job,
        known: Beginning | None,
        on_step: Callable[[], None],
        on_unit: Callable[[int, torch.Tensor, Sequence[str]], None],
        sink: FrameFile,
    ) -> MadeClip:
        """Make a job's item, from its first units where they are known, and put its frames into `sink`.

        `on_step` is called after each step and `on_unit` with each new unit, its latents (1, C, 1, h, w) and
        its stage digests; what they raise is passed on.
        """
        ...


class OutputError(OSError):
    """The output folder cannot be written to."""


class Stopped(Exception):  # noqa: N818 - not an error
    """Somebody wants the batch to stop."""


@dataclass(frozen=True)
class Plan:
    """What a batch is to come to.

    Attributes:
        jobs: all of the list, each once.
        bad: rows of which nothing can be made.
        duplicates: rows left out because an equal one is there.
    """

    jobs: tuple[Job, ...]
    bad: tuple[BadRow, ...] = ()
    duplicates: int = 0


@dataclass(frozen=True)
class BatchSummary:
    """What came of a batch.

    Attributes:
        is_main: whether this is the main process; on the others, only `signal` has a meaning.
        digests: SHA-256 of the frames of every clip of the list that is there, by file name.
        made, found: how many of these were made now, and before.
        failed: reasons, by file name, or by row for rows of which nothing can be made.
        missing: clips that nobody has come to.
        duplicates: rows left out because an equal one is there.
        signal: the number of the signal that stopped the batch, None if it was not stopped.
    """

    is_main: bool = True
    digests: Mapping[str, str] = field(default_factory=dict)
    made: int = 0
    found: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    duplicates: int = 0
    signal: int | None = None

    @property
    def status(self) -> int:
        """Exit status: 0 all is there, 1 something failed, 128 + n stopped by signal n."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.failed or self.missing else 0


def run_jobs(
    folder: Path,
    launch: Launch,
    make_plan: Callable[[], Plan],
    maker: Maker,
    *,
    lossless: bool,
    progress: bool,
) -> BatchSummary:
    """Do this process's part of a batch.

    Args:
        folder: the output folder.
        launch: the processes.
        make_plan: called by the main process only; what it raises ends the batch on all of them.
        maker: makes the clips.
        lossless: keep every bit in the files.
        progress: whether the main process shows a line.

    Raises:
        OutputError: the folder cannot be written to, or is in use by another launch.
        LaunchError: the processes have lost each other.
    """
    with StopSignals() as stop, _log_file(folder, launch.rank):
        worker = _Worker(folder, launch, maker, lossless, stop)
        if not launch.is_main:
            return _follow(worker)
        with _only_launch(folder):
            return _lead(worker, make_plan, ProgressLine() if progress else None)


def _lead(worker: _Worker, make_plan: Callable[[], Plan], line: ProgressLine | None) -> BatchSummary:
    launch, journal, stop = worker.launch, worker.journal, worker.stop
    try:
        plan = make_plan()
        bad = [{"status": "failed", "row": row.where, "reason": row.reason} for row in plan.bad]
        with writing(journal.folder):
            known = journal.entries()
            found = {job.id for job in plan.jobs if journal.is_whole(known.get(job.id))}
            todo = in_order([job for job in plan.jobs if job.id not in found])
            journal.clean()
            journal.merge(bad, without={job.id for job in todo})
    except BaseException:
        launch.publish(json.dumps({"refused": True}))
        raise
    logger.info("%d clips, %d of them there already", len(plan.jobs), len(found))
    launch.publish(json.dumps({"jobs": jobs_to_json(todo)}))

    report = _Report(launch, journal, bad, todo, line)
    worker.work(todo, report.update)
    launch.count("left")
    launch.wait_for_others(stop.is_stopped, report.update)
    report.close()
    entries = journal.entries()
    with writing(journal.folder):
        _write_sheet(journal, entries)
    return _summary(plan, len(found), entries, stop)


def _write_sheet(journal: Journal, entries: Mapping[str, Entry]) -> None:
    done = [entry for entry in entries.values() if journal.is_done(entry)]
    strips = []
    for entry in sorted(done, key=lambda entry: entry["file"]):
        strip = journal.strip_path(entry["id"])
        if not strip.is_file():
            missing = Strip(entry["num_frames"])
            for frame in video_frames(journal.folder / entry["file"]):
                missing.add(frame)
            missing.write(strip)
        strips.append(strip)
    write_sheet(journal.folder / "contact_sheet.png", strips)


def _summary(plan: Plan, found: int, entries: Mapping[str, Entry], stop: StopSignals) -> BatchSummary:
    listed = [entries[job.id] for job in plan.jobs if job.id in entries]
    done = {entry["file"]: entry["digest"] for entry in listed if entry["status"] == "done"}
    failed = {entry["file"]: entry["reason"] for entry in listed if entry["status"] == "failed"}
    return BatchSummary(
        digests=done,
        made=len(done) - found,
        found=found,
        failed=failed | {row.where: row.reason for row in plan.bad},
        missing=len(plan.jobs) - len(listed),
        duplicates=plan.duplicates,
        signal=stop.received,
    )


def _follow(worker: _Worker) -> BatchSummary:
    published = worker.launch.plan(worker.stop.is_stopped)
    plan = {} if published is None else json.loads(published)
    try:
        if "jobs" in plan:
            worker.work(jobs_from_json(plan["jobs"]), lambda: None)
    finally:
        worker.launch.count("left")
    return BatchSummary(is_main=False, signal=worker.stop.received)


class _Worker:
    """Takes jobs and makes them, until there are none or somebody wants it to stop."""

    def __init__(self, folder: Path, launch: Launch, maker: Maker, lossless: bool, stop: StopSignals) -> None:
        self.folder = folder
        self.launch = launch
        self.maker = maker
        self.lossless = lossless
        self.stop = stop
        self.journal = Journal(folder)

    def work(self, jobs: Sequence[Job], tell: Callable[[], None]) -> None:
        """Make jobs; `tell` is called after every step."""
        while not self.stop.is_stopped() and (place := self.launch.take()) < len(jobs):
            try:
                self._make(jobs[place], tell)
            except Stopped:
                logger.info("stopped")
            tell()

    def _make(self, job: Job, tell: Callable[[], None]) -> None:
        logger.info("%s: begun", job.file)
        started = time.perf_counter()
        reason = None
        with _ClipFile(self.folder / job.file, self.lossless, job.item.settings.num_frames) as file:
            try:
                clip, resumed = self._clip(job, tell, file)
            except (Stopped, OutputError, LaunchError):
                raise
            except Exception as error:  # whatever is wrong with one clip must not stop the others
                reason = f"{type(error).__name__}: {error}"
                logger.exception("%s: failed", job.file)
            else:
                self._save(job, clip, file, resumed, time.perf_counter() - started)
        if reason is not None:
            # Here, where the error and with it the tensors of its frames are gone.
            _free_memory()
            with writing(self.folder):
                self.journal.record(self._entry(job, "failed") | {"reason": reason})
            self.launch.count("failed")

    def _save(self, job: Job, clip: MadeClip, file: _ClipFile, resumed: int, seconds: float) -> None:
        made = self.journal.work_folder(job.id) / job.file
        with writing(self.folder):
            # What is half-written lies where only batches write, see `Journal.clean`.
            clip.save(made, lossless=self.lossless, overwrite=True)
            made.replace(file.path)
            file.strip.write(self.journal.strip_path(job.id))
            done = {
                "digest": clip.digest,
                "file_sha256": file_digest(file.path),
                "num_frames": file.num_frames,
                "seconds": round(seconds, 3),
                "resumed_units": resumed,
            }
            self.journal.record(self._entry(job, "done") | done)
        self.journal.finish(job.id)
        self.launch.count("done")
        logger.info("%s: done in %.1f s, digest %s", job.file, seconds, clip.digest)

    def _clip(self, job: Job, tell: Callable[[], None], file: FrameFile) -> tuple[MadeClip, int]:
        """The clip of a job, and how many of its units were there."""
        units = self.journal.work_folder(job.id)
        origin = dict(self.maker.origin(job.item)) | {"key": job.key}
        # Its last unit is always made here: so the text is encoded as in a run that was not interrupted.
        known, refused = load_units(units, len(job.steps) - 1, origin, self.maker.image_digest(job.item))
        if refused is not None:
            logger.warning("%s: not gone on from %s", job.file, refused)
        resumed = 0 if known is None else known.latents.shape[2]
        if resumed:
            logger.info("%s: goes on after unit %d", job.file, resumed - 1)
            self.launch.count("known", sum(job.steps[:resumed]))

        def on_step() -> None:
            self.launch.count("steps")
            tell()
            if self.stop.is_stopped():
                raise Stopped

        def on_unit(unit: int, latents: torch.Tensor, stage_digests: Sequence[str]) -> None:
            with writing(self.folder):
                save_unit(units, unit, latents, stage_digests, origin)

        return self.maker.make(job, known, on_step, on_unit, file), resumed

    def _entry(self, job: Job, status: str) -> Entry:
        item = job.item
        return {
            "file": job.file,
            "status": status,
            "id": job.id,
            "key": job.key,
            "prompt": item.prompt,
            "seed": str(item.seed),
            "preset": item.settings.name,
            "height": item.settings.height,
            "width": item.settings.width,
            "image": None if item.image is None else str(item.image),
            "process": self.launch.rank,
        }


class _ClipFile(FrameFile):
    """Where the frames of a clip of a batch go: they are encoded, and some are kept for the contact sheet."""

    def __init__(self, path: Path, lossless: bool, num_frames: int) -> None:
        super().__init__(path, lossless=lossless)
        self.strip = Strip(num_frames)

    def __enter__(self) -> Self:
        with writing(self.path.parent):
            return super().__enter__()

    def write(self, frames: Frames) -> None:
        """The next frames; a disk that is full is told as such."""
        with writing(self.path.parent):
            super().write(frames)
        for frame in frames:
            self.strip.add(frame)


class _Report:
    """Keeps index and progress line up to date; only on the main process."""

    def __init__(
        self,
        launch: Launch,
        journal: Journal,
        bad: Sequence[Entry],
        jobs: Sequence[Job],
        line: ProgressLine | None,
    ) -> None:
        self._launch = launch
        self._journal = journal
        self._bad = bad
        self._jobs = jobs
        self._line = line
        self._merged_at = time.monotonic()
        self._merged = 0

    def update(self) -> None:
        """Look at the counters; called often."""
        counts = Counts(
            clips=len(self._jobs),
            clips_done=self._launch.count("done", 0),
            clips_failed=self._launch.count("failed", 0),
            steps=sum(sum(job.steps) for job in self._jobs),
            steps_done=self._launch.count("steps", 0),
            steps_known=self._launch.count("known", 0),
        )
        if self._line is not None and self._jobs:
            self._line.show(counts)
        finished = counts.clips_done + counts.clips_failed
        if finished > self._merged and time.monotonic() > self._merged_at + _MERGE_SECONDS:
            self._merge()
            self._merged = finished

    def close(self) -> None:
        """Bring the index up to date and end the line."""
        self.update()
        if self._line is not None:
            self._line.close()
        self._merge()

    def _merge(self) -> None:
        with writing(self._journal.folder):
            self._journal.merge(self._bad)
        self._merged_at = time.monotonic()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what is wrong with the output folder when it cannot be written to.

    Raises:
        OutputError: in place of any other OSError.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            reason = "no space is left; what is finished is kept. Free some space and run the batch again"
        else:
            reason = f"cannot be written to: {error}"
        raise OutputError(f"{folder}: {reason}") from error


@contextmanager
def _only_launch(folder: Path) -> Iterator[None]:
    """Keep other launches out of the folder; the lock goes when the process does."""
    path = folder / ".work" / "lock"
    with writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder} is in use by another batch; wait for it, or choose another folder"
            ) from error
        yield


class _LogHandler(logging.FileHandler):
    """A disk that is full is told by the work itself; the log must not end it in another way."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def _log_file(folder: Path, rank: int) -> Iterator[None]:
    """Write what this process does to `logs/process-<rank>.log`."""
    path = folder / "logs" / f"process-{rank}.log"
    with writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    ours = logging.getLogger("pyramid_seed")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        logger.exception("ended by an error")
        raise
    finally:
        ours.setLevel(level)
        ours.removeHandler(handler)
        with writing(folder):
            handler.close()


def _free_memory() -> None:
    """Give back what a failed clip held, so that the next one has it."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
