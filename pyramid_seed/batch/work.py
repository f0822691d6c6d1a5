"""What the processes of a launch are to make; however long the list, each reads only what it takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .identity import Job, jobs_from_json, jobs_to_json
from .launch import Launch

_PART = 32  # jobs read at once


@dataclass(frozen=True)
class Work:
    """Jobs in the order in which they are taken.

    Attributes:
        number: how many jobs there are.
        job: the job at a place.
        shown: ids of the clips that are to be on the contact sheet.
    """

    number: int
    job: Callable[[int], Job]
    shown: frozenset[str]


def publish_work(launch: Launch, jobs: Sequence[Job], shown: frozenset[str]) -> Work:
    """Tell the other processes what is to be made; called by the main process.

    Raises:
        LaunchError: the processes cannot be reached.
    """
    if launch.world_size > 1:
        for begin in range(0, len(jobs), _PART):
            launch.put(f"jobs/{begin // _PART}", jobs_to_json(jobs[begin : begin + _PART]))
    launch.publish(json.dumps({"number": len(jobs), "shown": sorted(shown)}))
    return Work(len(jobs), jobs.__getitem__, shown)


def published_work(launch: Launch, is_stopped: Callable[[], bool]) -> Work | None:
    """What the main process has published; None if it refused the list, or if stopped meanwhile.

    Raises:
        LaunchError: the main process is gone.
    """
    published = launch.plan(is_stopped)
    plan = {} if published is None else json.loads(published)
    if "number" not in plan:
        return None
    part = lru_cache(1)(lambda index: jobs_from_json(launch.get(f"jobs/{index}")))
    return Work(plan["number"], lambda place: part(place // _PART)[place % _PART], frozenset(plan["shown"]))
