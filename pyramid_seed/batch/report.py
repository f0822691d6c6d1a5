"""What the main process keeps up to date in a batch: the index, the progress line, the contact sheets."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from ..files import replacing
from ..media.contact_sheet import SHEET_SIZE, Strip, read_strip, write_sheet
from ..media.frames import Frames
from ..media.video import video_frames
from .errors import refuse_too_many_files, writing
from .identity import Job
from .journal import Entry, Journal
from .launch import Launch
from .progress import Counts, ProgressLine

logger = logging.getLogger(__name__)

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


def write_contact_sheets(journal: Journal, entries: Mapping[str, Entry]) -> None:
    """Write the strips of all clips that are there, in the order of the index; missing strips are made anew.

    They are parted into sheets of equal size: `contact_sheet.png`, `contact_sheet-2.png` and so on. One whose
    strips are those that it was written of stays as it is.

    Raises:
        OutputError: one cannot be written.
    """
    clips = sorted((entry for entry in entries.values() if journal.is_done(entry)), key=lambda e: e["file"])
    with writing(journal.folder):
        for number, first in enumerate(range(0, len(clips), SHEET_SIZE), start=1):
            _write_sheet(journal, clips[first : first + SHEET_SIZE], number)
        for number in count(max(1, -(-len(clips) // SHEET_SIZE)) + 1):  # of clips that are gone
            if not journal.strips_path(number).is_file():
                break
            _sheet_path(journal, number).unlink(missing_ok=True)
            journal.strips_path(number).unlink()


def _write_sheet(journal: Journal, clips: Sequence[Entry], number: int) -> None:
    path, record = _sheet_path(journal, number), journal.strips_path(number)
    made_of = "".join(f"{entry['id']} {entry['file_sha256']}\n" for entry in clips).encode()
    if path.is_file() and record.is_file() and record.read_bytes() == made_of:
        return
    strips = [_strip(journal, entry) for entry in clips]
    shown = [strip for strip in strips if strip is not None]
    if shown:
        write_sheet(path, shown)
        with replacing(record, overwrite=True) as temporary:
            temporary.write_bytes(made_of)


def _sheet_path(journal: Journal, number: int) -> Path:
    return journal.folder / ("contact_sheet.png" if number == 1 else f"contact_sheet-{number}.png")


def _strip(journal: Journal, entry: Entry) -> Frames | None:
    """The strip of a clip, made anew if it is not there; None if the clip cannot be read either."""
    path = journal.strip_path(entry["id"])
    if path.is_file():
        try:
            return read_strip(path)
        except (ValueError, OSError) as error:
            refuse_too_many_files(error)
            journal.set_aside(path)
    strip = Strip(entry["num_frames"])
    try:
        for frame in video_frames(journal.folder / entry["file"]):
            strip.add(frame)
        strip.write(path)
        return read_strip(path)
    except ValueError as error:
        logger.warning("%s is not on the contact sheet: %s", entry["file"], error)
        return None
