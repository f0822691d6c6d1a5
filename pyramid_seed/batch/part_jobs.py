"""`run_part`: a process makes one part of a batch without communicating; `gather` follows.

Processes know of each other only through their logs. Whichever other parts run, no clip is lost, and none is
made twice, except one that two processes make at the same time; the later file stays.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .errors import writing
from .identity import Job, in_order
from .index import HeldEntries
from .journal import Journal
from .launch import Launch
from .lock import part_lock
from .log import log_file
from .maker import Maker
from .part import Part
from .part_plan import write_part_plan
from .report import Report
from .signals import StopSignals
from .summary import BatchSummary, Plan, summarize
from .work import Work
from .worker import Worker

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 900.0  # waiting for a gathering process, which takes ten minutes for ten million clips


def run_part(
    folder: Path,
    part: Part,
    launch: Launch,
    make_plan: Callable[[], Plan],
    maker: Maker,
    *,
    lossless: bool,
    progress: bool,
    check_files: bool = False,
    folders: bool = False,
) -> BatchSummary:
    """Make the clips of a part that do not exist yet.

    Args:
        part: which part.
        launch: a launch of this process alone.
        make_plan: gives the part's items; an error in it ends the process.
        folder, maker, lossless, progress, check_files, folders: see `run_jobs`.

    Raises:
        OutputError: the folder cannot be written to, or a launch has exclusive use of it.
        ModelError: a model cannot be loaded.
    """
    journal, own = Journal(folder, part), HeldEntries()
    alone = replace(launch, rank=part.index)

    def catch_up() -> None:
        with writing(folder):
            own.add(journal.lines_of(part), part.has)

    def is_made(job: Job) -> bool:
        catch_up()
        return (entry := own.item(job.id)) is not None and entry.status == "done"

    with StopSignals() as stop, log_file(folder, part.name), part_lock(folder, patience=_PATIENCE_SECONDS):
        logger.info("part %s, restart %d", part, part.restarts)
        plan = make_plan()
        with writing(folder):
            write_part_plan(folder, part, plan)
            own.add(journal.index_lines(), part.has)
            catch_up()
            if not plan.keeps_units:
                journal.finish_recorded(own)
            missing = [job for job in plan.jobs if not journal.is_whole(own, job.id, check_file=check_files)]
            own.forget(job.id for job in missing)
        num_there_before = len(plan.jobs) - len(missing)
        logger.info("%d clips, %d of them already made", len(plan.jobs), num_there_before)
        # Another process of this part takes the same jobs in another order, so that they seldom collide.
        jobs = in_order(missing, key=lambda _: random.random())
        work = Work(len(jobs), jobs.__getitem__, frozenset())
        report = Report(alone, None, len(jobs), sum(sum(job.steps) for job in jobs), progress=progress)
        worker = Worker(
            journal, alone, maker, stop.is_stopped, lossless=lossless, folders=folders, is_made=is_made
        )
        worker.work(work, report.update)
        report.close()
        catch_up()
        return summarize(plan, own, num_there_before=num_there_before, signal=stop.received)
