"""What a batch is to make, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .entries import Entry
from .identity import Job
from .rows import BadRow


@dataclass(frozen=True)
class Plan:
    """What a batch is to make.

    Attributes:
        jobs: all of the list, each once.
        bad: rows of which nothing can be made.
        duplicates: how many rows were left out because they equal another one.
        list_sum: of the ids of a whole list, of which this is a part; it tells lists apart.
    """

    jobs: tuple[Job, ...]
    bad: tuple[BadRow, ...] = ()
    duplicates: int = 0
    list_sum: int = 0


@dataclass(frozen=True)
class BatchSummary:
    """What came of a batch.

    Attributes:
        is_main: whether this is the main process; on the others, only `signal` has a meaning.
        digests: SHA-256 of the frames of every clip of the list that is there, by file name.
        made, found: how many of these were made by this launch, and how many were there before it.
        failed: reasons, by file name, or by row for rows of which nothing can be made.
        missing: how many clips were not begun.
        duplicates: how many rows were left out because they equal another one.
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


@dataclass(frozen=True)
class GatherSummary:
    """What there is of a batch that was made in parts.

    Attributes:
        found: how many clips of the list are there.
        failed: reasons, by file name, or by row for rows of which nothing can be made.
        missing: how many clips of the parts that were begun are not there.
        num_parts: how many parts the list was divided into.
        parts: those to run again, or for the first time: with clips that failed or are missing, or not begun.
    """

    found: int
    failed: Mapping[str, str]
    missing: int
    num_parts: int
    parts: tuple[int, ...]

    @property
    def status(self) -> int:
        """Exit status: 0 all is there, 1 something failed or is missing."""
        return 1 if self.failed or self.parts else 0


def summarize(
    plan: Plan, entries: Mapping[str, Entry], *, num_there_before: int, signal: int | None
) -> BatchSummary:
    """What came of a plan, by the journal's entries."""
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    for job in plan.jobs:
        if (entry := entries.get(job.id)) is None:
            continue
        if entry["status"] == "done":
            digests[entry["file"]] = entry["digest"]
        else:
            failed[entry["file"]] = entry["reason"]
    return BatchSummary(
        digests=digests,
        made=len(digests) - num_there_before,
        found=num_there_before,
        failed=failed | {row.where: row.reason for row in plan.bad},
        missing=len(plan.jobs) - len(digests) - len(failed),
        duplicates=plan.duplicates,
        signal=signal,
    )
