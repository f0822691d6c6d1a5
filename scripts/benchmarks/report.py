"""Showing a result: as tables for people, and as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from pyramid_seed.environment import environment_fingerprint
from pyramid_seed.explore.plots import WIDTH, curve

from .measure import Result, summary
from .tokens import NUM_STAGES, NUM_UNITS, PICTURES, pairs_saved, tokens

mpl.use("Agg")


def show(result: Result) -> None:
    """Print a result."""
    print(result.what)
    print(machine(result))
    if result.baseline is not None:
        print(f"baseline: {result.baseline}")
    for row in result.rows:
        print(f"\n{row.name:44} {'min':>9} {'median':>9} {'max':>9}")
        lines = {f"{label}, seconds": summary(values) for label, values in row.values.items()}
        if row.ratio is not None:
            lines[" / ".join(row.ratio)] = summary(row.ratios())
        for label, values in lines.items():
            numbers = " ".join(f"{values[column]:9.4g}" for column in ("min", "median", "max"))
            print(f"  {label:42} {numbers}")
    if result.facts:
        print()
    for name, value in result.facts.items():
        print(f"  {name:56} {value:.4g}" if isinstance(value, float) else f"  {name:56} {value}")
    if result.table:
        print("\n" + markdown(result.table))


def show_bars(result: Result) -> None:
    """Print what is asked of a result, and whether it is kept to."""
    for bar in result.bars:
        told = bar.to_json()
        verdict = "PASS" if bar.passed else "FAIL"
        print(f"{verdict}  {bar.name}: wanted {told['wanted']}, got {bar.got:.3g}")


def machine(result: Result) -> str:
    """Device, threads and version of torch, in a line."""
    told = environment_fingerprint(result.device)
    device, threads = told["device"], told["threads"]["intraop"]
    return f"{device['name']} ({device['type']}), {threads} threads, torch {told['packages']['torch']}"


def markdown(table: list[tuple[str, ...]] | object) -> str:
    """A table as Markdown, its first line the header."""
    header, *lines = table  # type: ignore[misc]
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def draw(result: Result, path: Path) -> None:
    """Write a picture of a result.

    Raises:
        ValueError: there is nothing in it that could be drawn.
    """
    if result.command == "tokens":
        figure = _tokens_figure()
    elif result.rows:
        figure = _rows_figure(result)
    elif result.facts:
        figure = _facts_figure(result)
    else:
        raise ValueError(f"there is nothing to draw of {result.command}; leave out --picture")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _rows_figure(result: Result) -> Figure:
    height = 0.8 + sum(0.4 + 0.3 * len(row.values) for row in result.rows)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    ratios = [1 + len(row.values) for row in result.rows]
    axes = figure.subplots(len(result.rows), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axis, row in zip(axes, result.rows, strict=True):
        for place, values in enumerate(row.values.values()):
            told = summary(values)
            spread = [[told["median"] - told["min"]], [told["max"] - told["median"]]]
            axis.barh(place, told["median"], xerr=spread, capsize=3, color=curve(0)["color"], alpha=0.7)
        ratio = "" if row.ratio is None else f": {' / '.join(row.ratio)} = {row.median_ratio:.3g}"
        axis.set_title(row.name + ratio, fontsize=10, loc="left")
        axis.set_yticks(range(len(row.values)), row.values)
        axis.invert_yaxis()
    figure.supxlabel(f"seconds, median and range; {machine(result)}", fontsize=9)
    return figure


def _facts_figure(result: Result) -> Figure:
    peaks = {name.removeprefix("peak bytes, "): value / 2**20 for name, value in result.facts.items()}
    figure = Figure(figsize=(WIDTH, 1 + 0.4 * len(peaks)), layout="constrained")
    axis = figure.subplots()
    axis.barh(list(peaks), list(peaks.values()), color=curve(0)["color"])
    axis.invert_yaxis()
    figure.supxlabel(f"MiB; {machine(result)}", fontsize=9)
    return figure


def _tokens_figure() -> Figure:
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    lengths, saved = figure.subplots(1, 2)
    units = range(NUM_UNITS)
    for picture, style in zip(PICTURES, ("--", "-"), strict=True):
        for stage in range(NUM_STAGES):
            counts = [sum(tokens(picture, unit, stage)) for unit in units]
            line = {**curve(stage), "linestyle": style, "linewidth": 1 + 0.7 * stage}
            lengths.plot(units, counts, label=f"{picture}, stage {stage}", **line)
        saved.plot(units, [pairs_saved(picture, unit) for unit in units], style, color="k", label=picture)
    lengths.set_ylabel("video tokens of a step")
    saved.set_ylabel("attention pairs of the last stage,\ndense mask / allowed")
    for axis, columns in ((lengths, 2), (saved, 1)):
        axis.set_xlabel("unit")
        axis.set_ylim(0)
        axis.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False)
        axis.grid(alpha=0.3)
    return figure
