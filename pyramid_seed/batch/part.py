"""One of N parts of a batch, each made by a process that does not communicate: which items it has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from math import gcd

from ..checks import check_int, check_kinds

_SLURM, _KUBERNETES = "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"
_LOG = re.compile(r"part-(\d+)-of-(\d+)-[0-9a-f]{16}\.jsonl")


@dataclass(frozen=True)
class Part:
    """A part of a batch: the items whose ids, divided by the number of parts, leave its index.

    An id is a hash of an item's content, so parts have about equal numbers of items, and an item is in the
    same part whatever else is in the list.

    Attributes:
        index: 0 to count - 1.
        count: how many parts there are.
        restarts: how often the scheduler has restarted it, if the scheduler says.
    """

    index: int
    count: int
    restarts: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        check_int("the number of parts", self.count, minimum=1)
        check_int("the part, counted from 0,", self.index, minimum=0, maximum=self.count - 1)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """Its name in file names."""
        return f"part-{self.index}-of-{self.count}"

    def has(self, key: str) -> bool:
        """Whether the item with that id (hexadecimal) belongs to it."""
        return int(key, 16) % self.count == self.index

    def may_share_items_with(self, other: Part) -> bool:
        """Whether some id belongs to both; two different parts of one division have none in common."""
        return (self.index - other.index) % gcd(self.count, other.count) == 0

    def log_name(self, token: str) -> str:
        """The name of one process's log; `token` is its own 16 hexadecimal digits."""
        return f"{self.name}-{token}.jsonl"

    def may_share_items_of(self, log_name: str) -> bool:
        """Whether a log of that name may hold items of this part; a log that names no part may hold any."""
        found = _LOG.fullmatch(log_name)
        return found is None or self.may_share_items_with(Part(int(found[1]), int(found[2])))


def parse_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The part that "I/N" names, or that a scheduler's variables give for "auto" or "auto/N".

    Raises:
        ValueError: the text names no part, or the scheduler's variables are missing or give none; the message
            says what to write.
    """
    check_kinds(part=(text, str))
    index, slash, count = text.partition("/")
    if not re.fullmatch(r"([0-9]+/[0-9]+)|auto(/[0-9]+)?", text):
        raise ValueError(
            f"part must be I/N with I from 0 to N - 1, auto, or auto/N, got {text!r}; use 0/8, for example"
        )
    if index != "auto":
        return Part(int(index), int(count))
    number = int(count) if slash else None
    if number is not None:
        check_int("the number of parts", number, minimum=1)
    if _SLURM in environment:
        return _part_of_slurm(environment, number)
    if _KUBERNETES in environment:
        return _part_of_kubernetes(environment, number)
    raise ValueError(
        f"part auto needs the variables of a scheduler, but neither {_SLURM} (array jobs of Slurm) nor "
        f"{_KUBERNETES} (Indexed Jobs of Kubernetes) is set; use I/N, such as 0/8"
    )


def part_ranges(indices: Iterable[int]) -> str:
    """Part numbers in the form that `sbatch --array` takes, such as "0,3-5"."""
    runs = groupby(enumerate(sorted(indices)), key=lambda pair: pair[1] - pair[0])
    ends = [(members[0][1], members[-1][1]) for members in (list(run) for _, run in runs)]
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ends)


def _part_of_slurm(environment: Mapping[str, str], count: int | None) -> Part:
    """If a number of parts is given, a task's id is its part, whichever tasks are submitted."""
    task = _number(environment, _SLURM)
    restarts = _number(environment, "SLURM_RESTART_COUNT", default=0)
    if count is not None:
        if task >= count:
            raise ValueError(
                f"{_SLURM} is {task}, and {count} parts are numbered 0 to {count - 1}; submit with "
                f"--array=0-{count - 1}, or a subset"
            )
        return Part(task, count, restarts)
    count, first, last = (
        _number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("COUNT", "MIN", "MAX")
    )
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", default=1) or 1
    if not first <= task <= last or last - first != (count - 1) * step or (task - first) % step:
        raise ValueError(
            f"the array has {count} tasks with ids from {first} to {last} in steps of {step}, this one is "
            f"{task}, so the parts cannot be counted; use auto/N for N parts whose numbers are the ids"
        )
    return Part((task - first) // step, count, restarts)


def _part_of_kubernetes(environment: Mapping[str, str], count: int | None) -> Part:
    index = _number(environment, _KUBERNETES)
    if count is None:
        if "JOB_COMPLETIONS" not in environment:
            raise ValueError(
                "Kubernetes does not tell a pod how many there are; use auto/N, where N is the Job's "
                "completions, or set JOB_COMPLETIONS"
            )
        count = _number(environment, "JOB_COMPLETIONS", minimum=1)
    if index >= count:
        raise ValueError(
            f"{_KUBERNETES} is {index}, and {count} parts are numbered 0 to {count - 1}; N must be the "
            "Job's completions"
        )
    return Part(index, count, _number(environment, "JOB_INDEX_FAILURES", default=0))


def _number(
    environment: Mapping[str, str], name: str, *, default: int | None = None, minimum: int = 0
) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"[0-9]+", text) or int(text) < minimum:
        raise ValueError(
            f"{name} must be a whole number of at least {minimum}, got {text!r}; or use I/N, such as 0/8"
        )
    return int(text)
