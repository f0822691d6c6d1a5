"""`gather_parts`: merge the logs of a batch made in parts into its index, and report what is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from ..checks import check_path
from .entries import Entry
from .errors import OutputError, writing
from .index import IndexEntries
from .journal import Journal
from .lock import folder_lock, part_lock
from .log import log_file
from .part_plan import PartPlan, latest_parts, read_part_plan
from .report import clips_to_show, write_contact_sheet
from .summary import GatherSummary, Plan

logger = logging.getLogger(__name__)


def gather_parts(output: str | Path, *, check_files: bool = False) -> GatherSummary:
    """Put the index of a batch made in parts in order, write its contact sheet, and find what is missing.

    Parts may still be running; what they have not made yet counts as missing. Neither the list nor its models
    are needed: each part has recorded what it is to make.

    Args:
        output: the folder of the batch.
        check_files: see `run_batch`.

    Returns:
        How many clips exist, and which parts are to be run again.

    Raises:
        ValueError: no part was begun in the folder.
        OSError: the folder cannot be written to, or a launch has exclusive use of it.
    """
    check_path("output", output)
    folder = Path(output)
    num_parts, paths = latest_parts(folder)
    journal = Journal(folder)
    with log_file(folder, "gather"), writing(folder), ExitStack() as stack:
        with _lock(folder) as is_over:
            if is_over:
                journal.clean()
            else:
                logger.warning(
                    "parts are running in %s; what they have not made yet counts as missing", folder
                )
            journal.gather(is_over=is_over)
            entries = stack.enter_context(closing(journal.entries()))
            summary = _put_in_order(journal, entries, num_parts, paths, check_files=check_files)
            if is_over:
                journal.forget_gathered()
                journal.finish_recorded(entries)
        # After the lock, for which parts wait, is released: this reads frames of many clips.
        write_contact_sheet(journal, entries, clips_to_show(Plan(()), entries))
    return summary


def _put_in_order(
    journal: Journal, entries: IndexEntries, num_parts: int, plans: Mapping[int, Path], *, check_files: bool
) -> GatherSummary:
    """Put the index in order, without clips that are gone, and compare it with the plans of the parts."""
    found, missing = 0, 0
    failed: dict[str, str] = {}
    again = set(range(num_parts))
    gone: set[str] = set()
    bad: list[Entry] = []
    for index, plan in _plans_of_latest_list(plans):
        bad += map(msgspec.to_builtins, plan.bad)
        there = 0
        for key in plan.ids:
            if journal.is_whole(entries, key, check_file=check_files):
                there += 1
            elif (entry := entries.item(key)) is not None and entry.status == "failed":
                failed[entry.file] = entries[key]["reason"]
            else:
                missing += 1
                gone |= {key} if entry is not None else set()
        found += there
        if there == len(plan.ids):
            again.remove(index)
    entries.put_in_order(bad, without=gone)
    return GatherSummary(
        found=found,
        failed=failed | {row["row"]: row["reason"] for row in bad},
        missing=missing,
        num_parts=num_parts,
        parts=tuple(sorted(again)),
    )


def _plans_of_latest_list(paths: Mapping[int, Path]) -> Iterator[tuple[int, PartPlan]]:
    """Plans by part, the latest first; parts that were begun with another list are left out."""
    list_sum = None
    for index, path in paths.items():
        plan = read_part_plan(path)
        if plan is not None and plan.list_sum == (list_sum := list_sum or plan.list_sum):
            yield index, plan


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Lock the folder; yields whether for this process alone, since parts may be running there."""
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
            is_alone = True
        except OutputError:
            stack.enter_context(part_lock(folder))
            is_alone = False
        yield is_alone
