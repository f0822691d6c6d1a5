"""Taking times in turn, and what comes of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pyramid_seed.environment import environment_fingerprint

Work = Callable[[], object]
PRODUCT, BASELINE = "product", "baseline"
CPU = torch.device("cpu")


def synchronize(device: torch.device) -> None:
    """Wait for everything that was queued on the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(work: Work, device: torch.device) -> float:
    """Time of one call, with everything that it queued on the device."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def in_turn(
    works: Sequence[Work], repeats: int, device: torch.device, warm_ups: Sequence[Work] | None = None
) -> list[list[float]]:
    """Times of each work, one list a work: a warm-up of each, or other warm-ups, then A B A B ..."""
    for work in works if warm_ups is None else warm_ups:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, own in zip(works, times, strict=True):
            own.append(seconds_of(work, device))
    return times


def summary(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


@dataclass(frozen=True)
class Row:
    """Two things measured in turn.

    Attributes:
        name: what was done.
        values: a list of values a label, of equal length: values at the same place were neighbours.
        ratio: the labels (above, below) of the ratio that counts; None if there is none.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    ratio: tuple[str, str] | None = (BASELINE, PRODUCT)

    def ratios(self) -> list[float]:
        """Neighbour by neighbour, so that a machine that gets slower on the way does not count."""
        if self.ratio is None:
            return []
        above, below = (self.values[label] for label in self.ratio)
        return [a / b for a, b in zip(above, below, strict=True)]

    @property
    def median_ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios())

    def to_json(self) -> dict[str, Any]:
        """Name, summaries of the values in seconds and of the ratio."""
        ratio = None if self.ratio is None else {"of": " / ".join(self.ratio), **summary(self.ratios())}
        return {
            "name": self.name,
            "seconds": {label: summary(values) for label, values in self.values.items()},
            "ratio": ratio,
        }


def compared(
    name: str,
    product: Work,
    baseline: Work,
    repeats: int,
    device: torch.device,
    warm_ups: Sequence[Work] | None = None,
) -> Row:
    """A row of times of the product and of its stated baseline, taken in turn."""
    times = in_turn([product, baseline], repeats, device, warm_ups)
    return Row(name, dict(zip((PRODUCT, BASELINE), times, strict=True)))


def check_equal(what: str, digests: Collection[str]) -> None:
    """Refuse times of computations that should have given the same bits, and did not: RuntimeError."""
    if len(set(digests)) != 1:
        raise RuntimeError(f"{what} has other bits, so its time says nothing; digests: {sorted(digests)}")


@dataclass(frozen=True)
class Bar:
    """What is asked of a figure: at least, or at most, so much."""

    name: str
    got: float
    limit: float
    is_lower_limit: bool = True

    @property
    def passed(self) -> bool:
        """Whether the figure keeps to the limit."""
        return self.got >= self.limit if self.is_lower_limit else self.got <= self.limit

    def to_json(self) -> dict[str, Any]:
        """All of it, and whether it passed."""
        wanted = f"{'>=' if self.is_lower_limit else '<='} {self.limit:g}"
        return {"name": self.name, "wanted": wanted, "got": self.got, "passed": self.passed}


@dataclass(frozen=True)
class Result:
    """What a subcommand measured.

    Attributes:
        command: its name.
        what: what was measured, of which size.
        baseline: what the baseline is; None if there is none.
        rows: what was measured in turn.
        bars: what is asked of it.
        facts: other figures and settings by name.
        table: a table to show below, its header first.
        device: where it was measured.
    """

    command: str
    what: str
    baseline: str | None = None
    rows: Sequence[Row] = ()
    bars: Sequence[Bar] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()
    device: torch.device = CPU

    def to_json(self) -> dict[str, Any]:
        """Everything, with machine and versions."""
        return {
            "command": self.command,
            "what": self.what,
            "baseline": self.baseline,
            "rows": [row.to_json() for row in self.rows],
            "bars": [bar.to_json() for bar in self.bars],
            "facts": dict(self.facts),
            "table": [list(cells) for cells in self.table],
            "environment": environment_fingerprint(self.device),
        }
