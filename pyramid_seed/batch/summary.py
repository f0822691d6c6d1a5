"""What a batch is to make, and what the outcome is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .entries import Entry, RowEntry
from .identity import Job
from .rows import BadRow


@dataclass(frozen=True)
class Plan:
    """What a batch is to make.

    Attributes:
        jobs: all jobs of the list, each once.
        bad: rows that cannot be made.
        duplicates: how many rows were left out because they equal another one.
        list_sum: sum of the ids of the whole list, of which this is a part; it tells lists apart.
    """

    jobs: tuple[Job, ...]
    bad: tuple[BadRow, ...] = ()
    duplicates: int = 0
    list_sum: int = 0

    @property
    def keeps_units(self) -> bool:
        """Whether clips go on from the units of others, which then outlast the clips."""
        return any(job.beginnings is not None for job in self.jobs)

    @property
    def bad_entries(self) -> list[RowEntry]:
        """What the index says of the bad rows."""
        return [RowEntry(status="failed", row=row.where, reason=row.reason) for row in self.bad]


@dataclass(frozen=True)
class BatchSummary:
    """The outcome of a batch.

    Attributes:
        is_main: whether this is the main process; in the others, only `signal` has a meaning.
        digests: SHA-256 of the frames of every existing clip of the list, by file name.
        seconds: what making each of these took, by file name; without units that it went on from.
        made, found: how many of these this launch made, and how many existed before it.
        failed: reasons, by file name, or by row for rows that cannot be made.
        missing: how many clips were not begun.
        duplicates: how many rows were left out because they equal another one.
        signal: the number of the signal that stopped the batch, None if it was not stopped.
    """

    is_main: bool = True
    digests: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    made: int = 0
    found: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    duplicates: int = 0
    signal: int | None = None

    @property
    def status(self) -> int:
        """Exit status: 0 everything exists, 1 something failed, 128 + n stopped by signal n."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.failed or self.missing else 0


@dataclass(frozen=True)
class GatherSummary:
    """The state of a batch that was made in parts.

    Attributes:
        found: how many clips of the list exist.
        failed: reasons, by file name, or by row for rows that cannot be made.
        missing: how many clips of the parts that were begun do not exist.
        num_parts: how many parts the list was divided into.
        parts: the parts still to be run: not begun, or with clips that failed or are missing.
    """

    found: int
    failed: Mapping[str, str]
    missing: int
    num_parts: int
    parts: tuple[int, ...]

    @property
    def status(self) -> int:
        """Exit status: 0 everything exists, 1 something failed or is missing."""
        return 1 if self.failed or self.parts else 0


def summarize(
    plan: Plan, entries: Mapping[str, Entry], *, num_there_before: int, signal: int | None
) -> BatchSummary:
    """The outcome of a plan, from the journal's entries."""
    digests: dict[str, str] = {}
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for job in plan.jobs:
        if (entry := entries.get(job.id)) is None:
            continue
        if entry["status"] == "done":
            digests[entry["file"]] = entry["digest"]
            if "seconds" in entry:
                seconds[entry["file"]] = entry["seconds"]
        else:
            failed[entry["file"]] = entry["reason"]
    return BatchSummary(
        digests=digests,
        seconds=seconds,
        made=len(digests) - num_there_before,
        found=num_there_before,
        failed=failed | {row.where: row.reason for row in plan.bad},
        missing=len(plan.jobs) - len(digests) - len(failed),
        duplicates=plan.duplicates,
        signal=signal,
    )
