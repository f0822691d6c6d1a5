"""The history of a monitored model: `history.csv`, a line per checkpoint, and `history.json`, its sweep."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ..environment import fingerprint_differences
from ..files import write_file
from ..texts import parse_json, read_bounded
from .measures import MEASURES, Values
from .tables import no_formula
from .variance import PARTS, VarianceShares

SCHEMA, SCHEMA_VERSION = "pyramid-seed/monitor", 1
CSV_NAME, JSON_NAME = "history.csv", "history.json"

_MAX_BYTES = 64 * 2**20  # some 100,000 checkpoints
_NAMES = [measure.name for measure in MEASURES]
COLUMNS = ["checkpoint", "weights_sha256", *_NAMES, *(f"{name}.{part}" for name in _NAMES for part in PARTS)]


@dataclass(frozen=True)
class Checkpoint:
    """One line of a history.

    Attributes:
        label: what the checkpoint is called.
        weights: SHA-256 over the files of its weights, which tells whether it is another one.
        values: per measure, its mean over all clips of the sweep; None if it is not defined for some.
        shares: per measure, the shares of its variance; None if not defined.
    """

    label: str
    weights: str
    values: Values
    shares: Mapping[str, VarianceShares | None]


def check_sweep(folder: Path, sweep: Mapping[str, Any]) -> None:
    """Refuse a folder with the history of another sweep.

    Args:
        folder: a history's, or one that has none yet.
        sweep: what is the same for all checkpoints, in JSON types.

    Raises:
        ValueError: prompts, seeds or settings are others, or the history's JSON is missing or damaged.
    """
    path = folder / JSON_NAME
    if not path.exists():
        if (folder / CSV_NAME).exists():
            raise ValueError(f"{folder / CSV_NAME} has no {JSON_NAME} beside it, which says what was swept")
        return
    try:
        tree = parse_json(read_bounded(path, _MAX_BYTES, "the history").decode("utf-8"))
        if not isinstance(tree, dict) or not isinstance(tree.get("sweep"), dict):
            raise ValueError("it has no sweep")
        if (tree.get("schema"), tree.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(f"its schema is {tree.get('schema')!r:.60} {tree.get('schema_version')!r:.60}")
    except ValueError as error:
        raise ValueError(f"{path} belongs to no history of this version: {error}") from error
    if differences := fingerprint_differences(tree["sweep"], sweep):
        first = differences[0]
        raise ValueError(
            f"{folder} has the history of another sweep: {first.field} was {first.a!r:.200} and is now "
            f"{first.b!r:.200}; sweep as before, or into another folder"
        )


def read_history(folder: Path) -> tuple[Checkpoint, ...]:
    """The checkpoints in a folder's history, in order; none if there is no history.

    Raises:
        ValueError: it was not written by `write_history`; the message names line and column.
    """
    path = folder / CSV_NAME
    if not path.exists():
        return ()
    history: list[Checkpoint] = []
    try:
        text = read_bounded(path, _MAX_BYTES, "the history").decode("utf-8-sig")
        head, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
        if head != COLUMNS:
            raise ValueError(
                f"its columns must be {', '.join(COLUMNS[:3])} ..., got {', '.join(head)!r:.200}"
            )
        for number, row in enumerate(rows, 2):
            history.append(_checkpoint(row, f"line {number}"))
            if history[-1].weights in {each.weights for each in history[:-1]}:
                raise ValueError(f"line {number}: weights_sha256 {history[-1].weights} is there twice")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no history of this version: {error}; mend it, or move it") from error
    return tuple(history)


def with_checkpoint(history: Sequence[Checkpoint], new: Checkpoint) -> tuple[Checkpoint, ...]:
    """The history with one more checkpoint; one that has its weights is replaced, at its place."""
    if any(each.weights == new.weights for each in history):
        return tuple(new if each.weights == new.weights else each for each in history)
    return (*history, new)


def write_history(folder: Path, sweep: Mapping[str, Any], history: Sequence[Checkpoint]) -> None:
    """Write or replace both files, each whole or not at all; the JSON first, so that no CSV lacks it."""
    tree = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "sweep": dict(sweep)}
    write_file(folder / JSON_NAME, json.dumps(tree, indent=1, allow_nan=False) + "\n", overwrite=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(map(_row, history))
    write_file(folder / CSV_NAME, text.getvalue(), overwrite=True)


def _row(checkpoint: Checkpoint) -> list[Any]:
    shares = [checkpoint.shares[name] for name in _NAMES]
    parts = [part for each in shares for part in ([None] * len(PARTS) if each is None else astuple(each))]
    values = [checkpoint.values[name] for name in _NAMES]
    return [no_formula(checkpoint.label), checkpoint.weights, *values, *parts]


def _checkpoint(row: Sequence[str], where: str) -> Checkpoint:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{where} must have {len(COLUMNS)} cells, got {len(row)}")
    cells = dict(zip(COLUMNS, row, strict=True))
    label, weights = cells.pop("checkpoint"), cells.pop("weights_sha256")
    if re.fullmatch("[0-9a-f]{64}", weights) is None:
        raise ValueError(f"{where}: weights_sha256 must be 64 digits of 0-9a-f, got {weights!r:.70}")
    numbers = {name: _number(cell, f"{where}: {name}") for name, cell in cells.items()}
    shares = {name: _shares([numbers[f"{name}.{part}"] for part in PARTS], where, name) for name in _NAMES}
    return Checkpoint(label, weights, {name: numbers[name] for name in _NAMES}, shares)


def _number(cell: str, name: str) -> float | None:
    """The number in a cell; None if it is empty."""
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number or empty, got {cell!r:.60}")
    return value


def _shares(parts: Sequence[float | None], where: str, name: str) -> VarianceShares | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len(known) < len(parts) or min(known) < 0 or not math.isclose(sum(known), 1, abs_tol=1e-6):
        raise ValueError(f"{where}: the shares of {name} must be at least 0 and sum to 1, got {known}")
    return VarianceShares(*known)
