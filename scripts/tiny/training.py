"""What the three training scripts of the embedded model share: logs, curves, checkpoints, schedules."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyramid_seed.explore.plots import WIDTH, curve
from pyramid_seed.loading import default_device

WORK_FOLDER = Path("runs/tiny")
"""Where checkpoints, logs and caches of a training go; ignored by git."""


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or the first accelerator, or the CPU."""
    return default_device() if name is None else torch.device(name)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state whole or not at all (temporary file, then rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The training state at `path`, or None when there is none yet."""
    if not path.exists():
        return None
    return dict(torch.load(path, map_location=device, weights_only=True))


def check_same_beginning(state: Mapping[str, Any], beginning: Mapping[str, Any]) -> None:
    """Raise ValueError if a training state belongs to a training that began otherwise.

    What decides how a training begins has no effect later: without this, another --seed would go on with the
    old one's draws and say nothing. Older checkpoints do not tell how they began, and go on as before.
    """
    for name, value in beginning.items():
        if name in state and state[name] != value:
            raise ValueError(
                f"the checkpoint's training began with --{name} {state[name]}, got {value}; "
                "give that one to go on, or another --out to begin anew"
            )


def append_log(path: Path, row: Mapping[str, float]) -> None:
    """Add one line to a JSON-lines log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        log.write(json.dumps({name: round(float(value), 6) for name, value in row.items()}) + "\n")


def read_log(path: Path) -> list[dict[str, float]]:
    """All rows of a JSON-lines log; a step that was logged twice (after a resume) counts once."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({row["step"]: row for row in rows}.values())


def draw_curves(log: Path, picture: Path, title: str) -> None:
    """Draw every column of a log against its step as a PNG, in a panel for each quantity."""
    from matplotlib.figure import Figure

    rows = read_log(log)
    names = sorted({name for row in rows for name in row} - {"step", "seconds", "learning_rate"})
    panels = [
        (label, chosen) for label in QUANTITIES if (chosen := [n for n in names if quantity(n) == label])
    ]
    figure = Figure(figsize=(WIDTH, 0.6 + 2.4 * max(1, len(panels))), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, chosen) in zip(axes, panels, strict=False):
        for number, name in enumerate(chosen):
            points = [(row["step"], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), **curve(number))
        axis.set(ylabel=label, yscale="log" if label == QUANTITIES[0] else "linear")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes[-1].set_xlabel("step")
    figure.savefig(picture, metadata={"Software": None})


QUANTITIES = ("loss", "PSNR / dB", "share of held-out clips")


def quantity(name: str) -> str:
    """What a column of a log holds, one of `QUANTITIES`."""
    if name.startswith("psnr"):
        return QUANTITIES[1]
    return QUANTITIES[2] if name == "recognised" or name.endswith("_error") else QUANTITIES[0]


@dataclass(frozen=True)
class Schedule:
    """Warm-up, a constant rate, a linear decay to zero.

    Before the decay nothing depends on `steps`, so a training may be ended whenever there is a reason: what
    comes out is what the command with that number of steps gives from the start.
    """

    steps: int
    warmup: int
    decay: int

    def factor(self, step: int) -> float:
        """Learning-rate factor in (0, 1] of a step, 0 to steps - 1."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / self.decay)

    @property
    def decay_start(self) -> int:
        """The first step that knows of the end."""
        return self.steps - self.decay

    def check_resumable(self, done: int, earlier: Schedule) -> None:
        """Raise ValueError if a training with `done` steps by an earlier schedule is none by this one."""
        if self == earlier:
            return
        if done > earlier.decay_start:
            raise ValueError(
                f"the decay has begun: --steps must stay {earlier.steps} and --decay-steps {earlier.decay}, "
                f"got {self.steps} and {self.decay}"
            )
        if done > self.decay_start:
            least = done + self.decay
            raise ValueError(
                f"--steps must leave room for the decay after {done} steps, got {self.steps}; use {least}"
            )


def warmup_then_cosine(step: int, steps: int, warmup: int, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def digest_of(model: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of all weights: equal for equal checkpoints."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def smooth(mean: float | None, value: float) -> float:
    """Running mean over about 50 values, for the log."""
    return value if mean is None else 0.98 * mean + 0.02 * value


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Exponential moving average of the parameters, in place."""
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
