"""What each part of a batch is to make, which its process records in `.work/parts` for `gather_parts`."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated

import msgspec

from ..files import check_readable, write_file
from .entries import RowEntry
from .errors import refuse_too_many_files
from .part import Part
from .summary import Plan

logger = logging.getLogger(__name__)

_NAME = re.compile(r"part-(\d+)-of-(\d+)\.json")


class PartPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The items of a part.

    Attributes:
        list_sum: the whole list's, see `Plan`.
        ids: the ids of its items.
        bad: rows of the list that cannot be made; all belong to part 0.
    """

    list_sum: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{1,64}\Z")]
    ids: list[Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]]
    bad: list[RowEntry] = []


def write_part_plan(folder: Path, part: Part, plan: Plan) -> None:
    """Record what a part is to make, replacing what an earlier process of that part recorded."""
    left = PartPlan(list_sum=f"{plan.list_sum:x}", ids=[job.id for job in plan.jobs], bad=plan.bad_entries)
    write_file(_plans(folder) / f"{part.name}.json", msgspec.json.encode(left), overwrite=True)


def latest_parts(folder: Path) -> tuple[int, dict[int, Path]]:
    """How many parts the latest launch of parts has, and the plans recorded for that number of parts.

    Raises:
        ValueError: no part was begun.
    """
    names = [
        (path, found) for path in _plans(folder).glob("part-*.json") if (found := _NAME.fullmatch(path.name))
    ]
    if not names:
        raise ValueError(
            f"no part of a batch was begun in {folder}; begin with "
            f"`pyramid-seed batch LIST -o {folder} --part I/N`"
        )
    latest = max(names, key=lambda name: name[0].lstat().st_mtime_ns)[1]
    count = int(latest[2])
    plans = {int(found[1]): path for path, found in names if int(found[2]) == count and int(found[1]) < count}
    # The latest plan comes first: its list is the one that counts.
    return count, dict(sorted(plans.items(), key=lambda plan: -plan[1].lstat().st_mtime_ns))


def read_part_plan(path: Path) -> PartPlan | None:
    """A recorded plan; None, with a warning, if it is damaged: its part must then be run again."""
    try:
        check_readable(path)
        return msgspec.json.decode(path.read_bytes(), type=PartPlan)
    except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
        if isinstance(error, OSError):
            refuse_too_many_files(error)
        logger.warning("%s cannot be used: %s", path, error)
        return None


def _plans(folder: Path) -> Path:
    return folder / ".work" / "parts"
