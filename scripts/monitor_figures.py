"""Measure the figures of docs/monitor.md and write them there.

`PYTHONPATH=. python scripts/monitor_figures.py FOLDER` simulates the bands, then monitors some checkpoints in
FOLDER: the embedded model with a little noise in its weights, and at last with one layer 5 % too strong. It
takes some minutes on one core. Run again, it makes only what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from determinism_table import with_part
from scipy.special import stdtrit

from pyramid_seed import environment_fingerprint, load_pipeline, run_monitor
from pyramid_seed.explore.bands import FALSE_ALARMS, MIN_EARLIER, WINDOW, prediction_band
from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.monitor import MonitorSummary
from pyramid_seed.presets import Settings

PAGE = Path(__file__).parents[1] / "docs" / "monitor.md"
BEGIN = "<!-- figures: written by scripts/monitor_figures.py -->\n"
END = "<!-- end of figures -->\n"

TRIALS = 50_000
CHECKPOINTS, NOISE, DAMAGE = 8, 0.002, 1.05
"""How many; standard deviation of a tensor's noise over the tensor's own; factor of the last one's layer."""

PROMPTS = ("a red circle moves to the right", "a blue square grows")
FEW: Settings = {"num_frames": 9, "num_inference_steps": 4, "video_num_inference_steps": 4, "scale": 1}


def band_rows(trials: int) -> list[list[str]]:
    """Per number of earlier checkpoints: half the width of the band, and the rates of false alarms."""
    m = len(MEASURES)
    rng = np.random.default_rng(0)
    rows = []
    for n in (MIN_EARLIER, 10, WINDOW):
        half = float(stdtrit(n - 1, 1 - FALSE_ALARMS / m / 2)) * np.sqrt(1 + 1 / n)
        steps = rng.normal(size=(n + 1, trials, m))
        rates = []
        for x in (steps, steps.cumsum(axis=0), rng.exponential(size=steps.shape)):
            low, high = prediction_band(x[:-1], FALSE_ALARMS / m)
            rates.append(((x[-1] < low) | (x[-1] > high)).any(axis=1).mean())
        rows.append([str(n), f"{half:.1f} s", *(f"{100 * rate:.1f} %" for rate in rates)])
    return rows


def write_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints, in the layout of diffusers."""
    paths = [folder / f"step-{place}" for place in range(CHECKPOINTS)]
    pipe = load_pipeline("embedded:tiny", device="cpu")
    own = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    for place, path in enumerate(paths):
        if path.exists():
            continue
        generator = torch.Generator().manual_seed(place)
        state = {
            name: value + NOISE * value.std() * torch.randn(value.shape, generator=generator)
            if value.is_floating_point() and value.numel() > 1
            else value
            for name, value in own.items()
        }
        if path == paths[-1]:
            state["proj_out.weight"] *= DAMAGE
        pipe.transformer.load_state_dict(state)
        pipe.save_pretrained(path)
    return paths


def checkpoint_rows(last: MonitorSummary) -> list[list[str]]:
    """The measures of the last checkpoint, with the bands that it was expected in."""
    assert last.checkpoint is not None
    values = last.checkpoint.values
    return [
        [
            f"`{name}`",
            f"{band.low:.4g} to {band.high:.4g}",
            f"{values[name]:.4g}",
            "**left**" * (name in last.departures),
        ]
        for name, band in last.bands.items()
    ]


def figures(
    bands: Iterable[Sequence[str]], statuses: Sequence[int], last: Iterable[Sequence[str]], machine: str
) -> str:
    """The tables, as Markdown."""
    head = ["earlier checkpoints", "half the band", "false alarms: normal", "a random walk", "exponential"]
    return "\n".join(
        [
            f"{TRIALS:,} simulated histories of {len(MEASURES)} measures:",
            "",
            *_table(head, bands),
            "",
            f"{len(statuses)} checkpoints of the embedded model ended in {', '.join(map(str, statuses))}; "
            "this is the last one:",
            "",
            *_table(["measure", "expected", "found", ""], last),
            "",
            machine,
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure the figures of docs/monitor.md and write them there."
    )
    parser.add_argument("folder", type=Path, help="where checkpoints and history are made")
    folder: Path = parser.parse_args().folder
    outcomes = []
    for path in write_checkpoints(folder / "checkpoints"):
        settings: Settings = {**FEW, "model": str(path)}
        outcomes.append(
            run_monitor(PROMPTS, folder / "history", seeds=(0, 1), device="cpu", lossless=True, **settings)
        )
    here = environment_fingerprint()
    machine = f"{here['cpu']['name']}, {here['python']}, torch {here['packages']['torch']}."
    text = figures(
        band_rows(TRIALS), [each.status for each in outcomes], checkpoint_rows(outcomes[-1]), machine
    )
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_part(page, f"{text}\n", BEGIN, END), encoding="utf-8")


if __name__ == "__main__":
    main()
