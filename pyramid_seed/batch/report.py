"""What the main process of a batch keeps up to date: the index, the progress line, the contact sheet."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from itertools import count
from pathlib import Path

from ..files import write_file
from ..media.contact_sheet import SHEET_SIZE, Strip, evenly_spaced, read_strip, write_sheet
from ..media.frames import Frames
from ..media.video import video_frames
from .entries import Entry
from .errors import refuse_too_many_files, writing
from .index import Entries
from .journal import Journal
from .launch import Launch
from .progress import Counts, ProgressLine
from .summary import Plan

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 2.0


class Report:
    """Keeps index and progress line up to date; only in the main process.

    Args:
        launch: the processes whose counters it reads.
        journal: the record of the output folder; None if this process is not to write the index.
        num_clips, num_steps: how many are to be made.
        progress: whether to show a progress line.
    """

    def __init__(
        self, launch: Launch, journal: Journal | None, num_clips: int, num_steps: int, *, progress: bool
    ) -> None:
        self._launch = launch
        self._journal = journal
        self._num_clips = num_clips
        self._num_steps = num_steps
        self._line = ProgressLine(self._counts()) if progress and num_clips else None
        self._gathered_at = time.monotonic()
        self._num_gathered = 0

    def update(self) -> None:
        """Read the counters and update; called often.

        Raises:
            OutputError: the index cannot be written.
        """
        counts = self._counts()
        if self._line is not None:
            self._line.show(counts)
        finished = counts.clips_done + counts.clips_failed
        if self._journal is None:
            return
        if finished > self._num_gathered and time.monotonic() > self._gathered_at + _GATHER_SECONDS:
            with writing(self._journal.folder):
                self._journal.gather()
            self._gathered_at = time.monotonic()
            self._num_gathered = finished

    def close(self) -> None:
        """End the line."""
        if self._line is not None:
            self._line.close(self._counts())

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


def clips_to_show(plan: Plan, entries: Entries) -> frozenset[str]:
    """Ids of the clips that are to be on the contact sheet once they are made.

    They are evenly spaced in the list. If the list leaves room, other clips of the folder follow.
    """
    ids = [job.id for job in plan.jobs]
    if len(ids) < SHEET_SIZE:
        ids += sorted(entries.keys() - set(ids))
    return frozenset(ids[place] for place in evenly_spaced(len(ids), SHEET_SIZE)) if ids else frozenset()


def write_contact_sheet(journal: Journal, entries: Entries, shown: Collection[str]) -> None:
    """Write the strips of existing clips, in the order of the index; missing strips are made anew.

    A sheet that already shows these strips is left as it is.

    Raises:
        OutputError: the sheet cannot be written.
    """
    found = [entries[key] for key in shown if key in entries]
    clips = sorted(filter(journal.is_done, found), key=lambda entry: str(entry["file"]))
    with writing(journal.folder):
        for number in count(1 if not clips else 2):  # sheets of clips that are gone, and of earlier versions
            if not journal.strips_path(number).is_file():
                break
            _sheet_path(journal, number).unlink(missing_ok=True)
            journal.strips_path(number).unlink()
        path, record = _sheet_path(journal), journal.strips_path()
        made_of = "".join(f"{entry['id']} {entry['file_sha256']}\n" for entry in clips).encode()
        if not clips or (path.is_file() and record.is_file() and record.read_bytes() == made_of):
            return
        strips = [
            (str(entry.get("prompt", entry["file"])), str(entry.get("seed", "unknown")), strip)
            for entry in clips
            if (strip := _strip(journal, entry)) is not None
        ]
        if strips:
            write_sheet(path, strips)
            write_file(record, made_of, overwrite=True)


def _sheet_path(journal: Journal, number: int = 1) -> Path:
    return journal.folder / ("contact_sheet.png" if number == 1 else f"contact_sheet-{number}.png")


def _strip(journal: Journal, entry: Entry) -> Frames | None:
    """The strip of a clip, made anew if missing; None if the clip cannot be read either."""
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
