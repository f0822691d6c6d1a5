"""What the main process keeps up to date in a batch: the index, the progress line, the contact sheet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..media.contact_sheet import Strip, write_sheet
from ..media.video import video_frames
from .errors import writing
from .identity import Job
from .journal import Entry, Journal
from .launch import Launch
from .progress import Counts, ProgressLine

_MERGE_SECONDS = 2.0


class Report:
    """Keeps index and progress line up to date; only on the main process.

    Args:
        launch: the processes, whose counters it reads.
        journal: of the output folder.
        bad: entries of rows of which nothing can be made.
        jobs: what is to be made.
        progress: whether to show a line.
    """

    def __init__(
        self, launch: Launch, journal: Journal, bad: Sequence[Entry], jobs: Sequence[Job], *, progress: bool
    ) -> None:
        self._launch = launch
        self._journal = journal
        self._bad = bad
        self._num_clips = len(jobs)
        self._num_steps = sum(sum(job.steps) for job in jobs)
        self._line = ProgressLine(self._counts()) if progress and jobs else None
        self._merged_at = time.monotonic()
        self._num_merged = 0

    def update(self) -> None:
        """Look at the counters; called often.

        Raises:
            OutputError: the index cannot be written.
        """
        counts = self._counts()
        if self._line is not None:
            self._line.show(counts)
        finished = counts.clips_done + counts.clips_failed
        if finished > self._num_merged and time.monotonic() > self._merged_at + _MERGE_SECONDS:
            self._merge()
            self._num_merged = finished

    def close(self) -> None:
        """Bring the index up to date and end the line; raises as `update`."""
        if self._line is not None:
            self._line.close(self._counts())
        self._merge()

    def _counts(self) -> Counts:
        count = self._launch.count
        return Counts(
            clips=self._num_clips,
            clips_done=count("done", 0),
            clips_failed=count("failed", 0),
            steps=self._num_steps,
            steps_done=count("steps", 0),
            steps_known=count("known", 0),
        )

    def _merge(self) -> None:
        with writing(self._journal.folder):
            self._journal.merge(self._bad)
        self._merged_at = time.monotonic()


def write_contact_sheet(journal: Journal, entries: Mapping[str, Entry]) -> None:
    """Write the strips of all clips that are there, in the order of the index; missing strips are made anew.

    Raises:
        OutputError: it cannot be written.
    """
    clips = sorted((entry for entry in entries.values() if journal.is_done(entry)), key=lambda e: e["file"])
    paths = [journal.strip_path(entry["id"]) for entry in clips]
    with writing(journal.folder):
        for entry, path in zip(clips, paths, strict=True):
            if not path.is_file():
                _write_strip(path, journal.folder / entry["file"], entry["num_frames"])
        write_sheet(journal.folder / "contact_sheet.png", paths)


def _write_strip(path: Path, clip: Path, num_frames: int) -> None:
    strip = Strip(num_frames)
    for frame in video_frames(clip):
        strip.add(frame)
    strip.write(path)
