"""The report: a folder with report.json and report.md, written again after every step of a section."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from benchmarks.measure import Result
from benchmarks.report import markdown

T = TypeVar("T")
Table = Sequence[Sequence[object]]


@dataclass
class Section:
    """What one section found, as plain values, and the time it has.

    Attributes:
        how: what was measured and how, for people.
        facts: single figures by name.
        tables: by title, the header first.
        results: of benchmarks, as `benchmarks.measure.Result.to_json` tells them.
        skipped: what was left out, and why.
        failures: what failed: {"what", "error", "traceback"}.
        seconds: how long it took.
    """

    name: str
    how: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._deadline = float("inf")
        self._save: Callable[[], None] = lambda: None
        self.folder = Path()

    def start(self, folder: Path, budget: float, save: Callable[[], None]) -> None:
        """Begin, with so many seconds, files of its own in `folder`, and `save` called after every step."""
        self.folder = folder
        self._started = time.monotonic()
        self._deadline = self._started + budget
        self._save = save

    def left(self) -> float:
        """Seconds that are left."""
        return self._deadline - time.monotonic()

    def run(self, what: str, work: Callable[[], T], needs: float = 0.0) -> T | None:
        """What a step returns; None if it failed, or if fewer seconds are left than it needs.

        The traceback of a failure goes into the report, and the section goes on.
        """
        if self.left() <= needs:
            self.skip(
                what, f"{max(self.left(), 0):.0f} s were left, it needs {needs:.0f}" if needs else "no time"
            )
            return None
        self.say(what)
        try:
            return work()
        except Exception as error:
            self.fail(what, f"{type(error).__name__}: {error}", traceback.format_exc())
        finally:
            self.seconds = time.monotonic() - self._started
            self._save()
        free_memory()
        return None

    def skip(self, what: str, why: str) -> None:
        """Record that something is left out."""
        self.skipped.append(f"{what}: {why}")
        self.say(f"left out {what}: {why}")

    def fail(self, what: str, error: str, details: str) -> None:
        """Record a failure, with a traceback or what else tells more about it."""
        self.failures.append({"what": what, "error": error, "traceback": details})
        self.say(f"FAILED {what}: {error[:300]}")

    def say(self, what: str) -> None:
        """A line of progress, with the seconds since the section began."""
        print(f"[{self.name} {time.monotonic() - self._started:6.1f} s] {what}", flush=True)

    def add_row(self, table: str, row: dict[str, Any]) -> None:
        """A row of a table by its columns, which are those of its first row."""
        lines = self.tables.setdefault(table, [list(row)])
        lines.append([row.get(column, "") for column in lines[0]])

    def add_result(self, result: Result | None) -> None:
        """What a benchmark measured, if it did."""
        if result is not None:
            self.results.append(
                {name: value for name, value in result.to_json().items() if name != "environment"}
            )

    def to_markdown(self) -> str:
        """The section for people; what failed comes last, with its traceback."""
        parts = [f"## {self.name.capitalize()}", self.how, f"Took {self.seconds:.0f} s."]
        if self.facts:
            parts.append(as_table([["figure", "value"], *self.facts.items()]))
        for title, lines in self.tables.items():
            parts += [f"### {title}", as_table(lines)]
        parts += map(result_markdown, self.results)
        if self.skipped:
            parts.append("Left out:\n\n" + "\n".join(f"- {line}" for line in self.skipped))
        for failure in self.failures:
            parts.append(f"**FAILED** {failure['what']}\n\n```\n{failure['traceback'].rstrip()}\n```")
        return "\n\n".join(part for part in parts if part)


class Report:
    """All sections and what they ran on, in a folder; a report that is there is gone on with.

    Raises:
        ValueError: the folder holds a report of another machine, other packages or another size.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, json.loads(json.dumps(about, default=str))
        self.sections: dict[str, Section] = {}
        if (path := folder / "report.json").is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["about"] != self.about:
                raise ValueError(
                    f"{path} is of another machine, other packages or another size; use another --out"
                )
            self.sections = {each["name"]: Section(**each) for each in found["sections"]}
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, name: str, budget: float) -> Section:
        """A section that begins now, in place of one that is there."""
        free_memory()
        section = self.sections[name] = Section(name)
        section.start(self.folder, budget, self.save)
        return section

    def save(self) -> None:
        """Write report.json and report.md."""
        told = {"about": self.about, "sections": [asdict(each) for each in self.sections.values()]}
        text = json.dumps(told, indent=2, default=str)
        (self.folder / "report.json").write_text(text + "\n", encoding="utf-8")
        device = self.about["environment"]["device"]["name"]
        facts = as_table([["what", "value"], *flat(self.about).items()])
        parts = [f"# {device}", facts, *(each.to_markdown() for each in self.sections.values())]
        (self.folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names; those that are not known are left out."""
    told: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            told |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            told[f"{prefix}{name}"] = value
    return told


def as_table(lines: Table) -> str:
    """A table as Markdown; numbers with four digits."""
    return markdown([tuple(map(_cell, line)) for line in lines])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def result_markdown(result: dict[str, Any]) -> str:
    """A benchmark's result as Markdown: times are median (minimum to maximum)."""
    parts = [f"### `benchmark.py {result['command']}`", result["what"]]
    if result["baseline"]:
        parts.append(f"Baseline: {result['baseline']}.")
    for row in result["rows"]:
        values = {f"{label}, seconds": told for label, told in row["seconds"].items()}
        if row["ratio"]:
            values[row["ratio"]["of"]] = row["ratio"]
        lines = [
            [label, f"{v['median']:.4g} ({v['min']:.4g} to {v['max']:.4g})"] for label, v in values.items()
        ]
        parts.append(as_table([[row["name"], "median (range)"], *lines]))
    if result["facts"]:
        parts.append(as_table([["figure", "value"], *result["facts"].items()]))
    for bar in result["bars"]:
        verdict = "PASS" if bar["passed"] else "FAIL"
        parts.append(f"{verdict}: {bar['name']}, wanted {bar['wanted']}, got {bar['got']:.3g}")
    if result["table"]:
        parts.append(as_table(result["table"]))
    return "\n\n".join(parts)


def free_memory() -> None:
    """Give back what is not used any more."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
