"""`run_jobs`: one process does its part of a batch.

The main process leads: it makes the plan, checks which clips exist, and publishes what remains. Every process
takes jobs from that until none are left. A clip does not depend on which process makes it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from ..files import without_new_folders
from .entries import Entry
from .errors import writing
from .group import Group
from .identity import Job, in_order
from .journal import Journal
from .launch import Launch
from .lock import folder_lock
from .log import log_file
from .maker import Maker, Order
from .report import Report, clips_to_show, write_contact_sheet
from .signals import StopSignals
from .summary import BatchSummary, Plan, summarize
from .work import Work, publish_work, published_work
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
    check_files: bool = False,
    folders: bool = False,
    group: Group | None = None,
    follow: Callable[[Order], None] | None = None,
    work_on: Callable[[Worker, Work, Callable[[], None]], None] = Worker.work,
) -> BatchSummary:
    """Do this process's part of a batch.

    Args:
        folder: the output folder.
        launch: the processes of the launch.
        make_plan: called only by the main process; an error in it ends the batch on all processes.
        maker: makes the clips.
        lossless: keep every bit in the video files.
        progress: whether the main process shows a progress line.
        check_files: read every existing file, see `Journal.is_whole`.
        folders: put new files into sub-folders, see `Worker`.
        group: the processes that make each clip together; None: each makes its own clips.
        follow: carries out the orders of the group's leading process.
        work_on: makes the clips in the main process's place.

    Raises:
        OutputError: the folder cannot be written to, or another launch is using it.
        ModelError: a model cannot be loaded.
        LaunchError: the processes have lost each other.
    """
    journal = Journal(folder)
    with (
        _gone_if_refused(folder, launch) as keep,
        StopSignals() as stop,
        log_file(folder, f"process-{launch.rank}"),
        launch.alive(),
    ):
        if group is not None:
            group.is_stopped = stop.is_stopped
        worker = Worker(journal, launch, maker, stop.is_stopped, lossless=lossless, folders=folders)
        if not launch.is_main:
            return _follow(launch, worker, stop, group, follow)
        with folder_lock(folder):
            summary = _lead(
                journal,
                launch,
                partial(work_on, worker),
                stop,
                lambda: keep(make_plan()),
                group,
                check_files=check_files,
                progress=progress,
            )
        launch.end(stop.is_stopped)
        return summary


@contextmanager
def _gone_if_refused(folder: Path, launch: Launch) -> Iterator[Callable[[Plan], Plan]]:
    """Remove new folders again if the list is refused, provided that they hold only log and lock.

    Yields a function that keeps the folders and returns its plan: call it once the list is accepted.
    """
    places = (folder / "logs", folder / ".work") if launch.world_size == 1 else ()
    new = [place for place in places if not place.exists()]

    def keep(plan: Plan) -> Plan:
        new.clear()
        return plan

    with without_new_folders(folder):
        try:
            yield keep
        except (ValueError, TypeError, OSError):
            files = [path for place in new for path in place.rglob("*") if path.is_file()]
            if all(path.parent.name == "logs" or path.name.startswith("lock") for path in files):
                for place in new:
                    shutil.rmtree(place, ignore_errors=True)
            raise


def _lead(
    journal: Journal,
    launch: Launch,
    work_on: Callable[[Work, Callable[[], None]], None],
    stop: StopSignals,
    make_plan: Callable[[], Plan],
    group: Group | None,
    *,
    check_files: bool,
    progress: bool,
) -> BatchSummary:
    try:
        plan = make_plan()
        bad = [msgspec.to_builtins(entry) for entry in plan.bad_entries]
        with writing(journal.folder):
            missing, shown = _missing(journal, plan, bad, check_files=check_files)
    except BaseException:
        launch.publish(json.dumps({"refused": True}))
        raise
    num_there_before = len(plan.jobs) - len(missing)
    logger.info("%d clips, %d of them already made", len(plan.jobs), num_there_before)
    work = publish_work(launch, missing, shown)

    report = Report(launch, journal, len(missing), sum(sum(job.steps) for job in missing), progress=progress)
    work_on(work, report.update)
    if group is not None:
        group.tell(None)
    launch.count("left")
    is_over = launch.wait_for_others(stop.is_stopped, report.update)
    report.close()
    with writing(journal.folder):
        journal.gather(is_over=is_over)
        with closing(journal.entries()) as entries:
            entries.put_in_order(bad)
            if is_over:
                journal.forget_gathered()
            write_contact_sheet(journal, entries, shown)
            return summarize(plan, entries, num_there_before=num_there_before, signal=stop.received)


def _missing(
    journal: Journal, plan: Plan, bad: Sequence[Entry], *, check_files: bool
) -> tuple[list[Job], frozenset[str]]:
    """A plan's jobs still to be made, in the order to take them in; and the ids for the contact sheet.

    Existing records of these jobs are dropped.
    """
    journal.clean()
    journal.gather(is_over=True)
    with closing(journal.entries()) as entries:
        missing = [job for job in plan.jobs if not journal.is_whole(entries, job.id, check_file=check_files)]
        entries.put_in_order(bad, without={job.id for job in missing if job.id in entries})
        journal.forget_gathered()
        if not plan.keeps_units:
            journal.finish_recorded(entries)
        return in_order(missing), clips_to_show(plan, entries)


def _follow(
    launch: Launch,
    worker: Worker,
    stop: StopSignals,
    group: Group | None,
    follow: Callable[[Order], None] | None,
) -> BatchSummary:
    work = None
    try:
        work = published_work(launch, stop.is_stopped)
        if work is None:
            pass
        elif group is not None and follow is not None and not group.leads:
            for order in group.orders():
                follow(order)
        else:
            worker.work(work, lambda: None)
            if group is not None:
                group.tell(None)
    finally:
        launch.count("left")
    if work is not None:
        launch.wait_for_end(stop.is_stopped)
    return BatchSummary(is_main=False, signal=stop.received)
