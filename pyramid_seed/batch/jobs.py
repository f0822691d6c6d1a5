"""`run_jobs`: a process does its part of a batch.

The main process leads: it makes the plan, looks at what is there, and publishes what is to be made. Every
process takes jobs from that until none is left. Nothing of a clip depends on who makes it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import writing
from .group import Group, Order
from .identity import in_order, jobs_from_json, jobs_to_json
from .journal import Journal
from .launch import Launch
from .lock import folder_lock
from .log import log_file
from .maker import Maker
from .report import Report, write_contact_sheets
from .signals import StopSignals
from .summary import BatchSummary, Plan, summarize
from .worker import Worker

logger = logging.getLogger(__name__)


def run_jobs(
    folder: Path,
    launch: Launch,
    make_plan: Callable[[], Plan],
    maker: Maker,
    *,
    lossless: bool,
    progress: bool,
    group: Group | None = None,
    follow: Callable[[Order], None] | None = None,
) -> BatchSummary:
    """Do this process's part of a batch.

    Args:
        folder: the output folder.
        launch: the processes.
        make_plan: called by the main process only; what it raises ends the batch on all of them.
        maker: makes the clips.
        lossless: keep every bit in the files.
        progress: whether the main process shows a line.
        group: the processes that make each clip together; None: each makes clips of its own.
        follow: makes what the leading process of the group says.

    Raises:
        OutputError: the folder cannot be written to, or is in use by another launch.
        ModelError: a model cannot be loaded.
        LaunchError: the processes have lost each other.
    """
    journal = Journal(folder)
    with _gone_if_refused(folder, launch), StopSignals() as stop, log_file(folder, launch.rank):
        if group is not None:
            group.is_stopped = stop.is_stopped
        worker = Worker(journal, launch, maker, stop.is_stopped, lossless=lossless)
        if not launch.is_main:
            return _follow(launch, worker, stop, group, follow)
        with folder_lock(folder):
            return _lead(journal, launch, worker, stop, make_plan, group, progress=progress)


@contextmanager
def _gone_if_refused(folder: Path, launch: Launch) -> Iterator[None]:
    """A folder that was made for a list that is refused goes again, if there is nothing in it but the log."""
    is_new = launch.world_size == 1 and not folder.exists()
    try:
        yield
    except (ValueError, TypeError, OSError):
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        if is_new and all(name.startswith(("logs/", ".work/lock")) for name in files):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _lead(
    journal: Journal,
    launch: Launch,
    worker: Worker,
    stop: StopSignals,
    make_plan: Callable[[], Plan],
    group: Group | None,
    *,
    progress: bool,
) -> BatchSummary:
    try:
        plan = make_plan()
        bad = [{"status": "failed", "row": row.where, "reason": row.reason} for row in plan.bad]
        with writing(journal.folder):
            journal.clean()
            entries = journal.entries()
            missing = in_order([job for job in plan.jobs if not journal.is_whole(entries.get(job.id))])
            journal.merge(bad, without={job.id for job in missing})
    except BaseException:
        launch.publish(json.dumps({"refused": True}))
        raise
    num_there_before = len(plan.jobs) - len(missing)
    logger.info("%d clips, %d of them there already", len(plan.jobs), num_there_before)
    launch.publish(json.dumps({"jobs": jobs_to_json(missing)}))

    report = Report(launch, journal, bad, missing, progress=progress)
    worker.work(missing, report.update)
    if group is not None:
        group.tell(None)
    launch.count("left")
    launch.wait_for_others(stop.is_stopped, report.update)
    report.close()
    entries = journal.entries()
    write_contact_sheets(journal, entries)
    return summarize(plan, entries, num_there_before=num_there_before, signal=stop.received)


def _follow(
    launch: Launch,
    worker: Worker,
    stop: StopSignals,
    group: Group | None,
    follow: Callable[[Order], None] | None,
) -> BatchSummary:
    published = launch.plan(stop.is_stopped)
    plan = {} if published is None else json.loads(published)
    try:
        if "jobs" in plan and group is not None and follow is not None and not group.leads:
            for order in group.orders():
                follow(order)
        elif "jobs" in plan:
            worker.work(jobs_from_json(plan["jobs"]), lambda: None)
            if group is not None:
                group.tell(None)
    finally:
        launch.count("left")
    return BatchSummary(is_main=False, signal=stop.received)
