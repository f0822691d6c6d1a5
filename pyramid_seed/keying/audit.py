"""`audit`: what a pipeline call draws, which draws a seed controls, and whether its clips repeat."""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..choices import DeterminismLevel
from ..determinism import determinism_level
from ..seeds import check_root
from ..texts import counted
from .draws import Draw, Site, answered, global_states, kind_of, moved_since
from .manifest import told, type_name
from .pipeline import KeyedPipeline, prompts_of

DrawnFrom = Literal["seed", "the call's", "the first clip's", "its own", "global"]
"""Where a draw came from: a keyed seed; the generator passed to the call; in a call for two clips, the first
clip's alone; a generator that the pipeline made; the library's global generator."""

_LEAKS = {
    "global": "no seed reaches it, it is from the global generator",
    "its own": "no seed reaches it, it is from a generator that the pipeline makes",
    "the first clip's": "only the first clip's seed reaches it",
}


@dataclass(frozen=True)
class AuditedDraw:
    """A place in the code that draws.

    Attributes:
        site, name: the place, and the function called there.
        shape, dtype, device: those of the first values drawn there.
        drawn_from: where the values came from.
        count: how often it drew in one call.
    """

    site: Site
    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    drawn_from: DrawnFrom
    count: int = 1

    @property
    def is_leak(self) -> bool:
        """Whether the seeds of a call do not control it."""
        return self.drawn_from in _LEAKS

    @property
    def notes(self) -> list[str]:
        """What the user should know about it."""
        notes = [_LEAKS[self.drawn_from]] if self.is_leak else []
        if self.drawn_from != "seed" and self.device != "cpu":
            notes.append("other devices draw other values")
        elif self.drawn_from != "seed" and self.dtype in ("float32", "float16", "bfloat16"):
            notes.append("other instruction sets draw other last bits")
        return notes

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "one value"
        values = f"{self.name} of {shape}, {self.dtype} on {self.device}, {counted(self.count, 'time')}"
        return "; ".join([f"{self.site}: {values}", *self.notes])


@dataclass(frozen=True)
class Audit:
    """The findings of `audit`.

    Attributes:
        pipeline: the pipeline's class.
        draws: each place that draws, in order.
        unseen: the global generators that something else drew from, unobserved.
        differences: between runs that the seed should make equal, by what was compared: "repeat", the same
            call again; "globals", other global generators; "batch", a clip alone and beside another. None
            means equal.
    """

    pipeline: str
    draws: tuple[AuditedDraw, ...]
    unseen: tuple[str, ...]
    differences: Mapping[str, str | None]

    @property
    def leaks(self) -> tuple[AuditedDraw, ...]:
        """Places whose draws the seeds of a call do not control."""
        return tuple(draw for draw in self.draws if draw.is_leak)

    @property
    def failures(self) -> list[str]:
        """Why a clip of this call is not a function of its seed, in words; empty if it is."""
        failures = [f"{counted(len(self.leaks), 'leak')}"] if self.leaks else []
        failures += [f"unseen draws from the global generator of {name}" for name in self.unseen]
        return failures + [f"{name}: {what}" for name, what in self.differences.items() if what is not None]


def audit(
    pipe: DiffusionPipeline | KeyedPipeline,
    *,
    seed: int = 0,
    determinism: DeterminismLevel = "strict",
    batch: bool = True,
    **call: Any,
) -> Audit:
    """Run a call of a pipeline several times; report what it draws and whether its seed decides its clip.

    A diffusers pipeline gets `generator=` with that seed, a keyed one `seed=`. Five calls are made: the clip,
    the clip again, the clip with other global generators, another clip, and both clips as a batch. The states
    of global generators are restored.

    Args:
        pipe: the pipeline, or the result of `keyed`.
        seed: the clip's, in [0, 2**64); the other clip has a neighbouring seed.
        determinism: the level of the calls; a keyed pipeline uses its own.
        batch: False leaves out the last two calls.
        call: the arguments for one clip.

    Raises:
        TypeError: not a pipeline. ValueError: `call` is for several clips, or the seed is out of range.
        Exception: whatever the pipeline raises for one clip.
    """
    if not isinstance(pipe, DiffusionPipeline | KeyedPipeline):
        raise TypeError(f"pipe must be a DiffusionPipeline or what keyed made, got {type(pipe).__name__}")
    if any(not isinstance(value, str) and len(value) != 1 for value in prompts_of(call).values()):
        raise ValueError("an audit makes its batch itself: give one prompt, or embeddings of one row")
    check_root(seed)
    level = pipe.determinism if isinstance(pipe, KeyedPipeline) else determinism

    def run(seeds: Sequence[int], global_seed: int = 0) -> _Run:
        with _seeded_globals(global_seed), determinism_level(level):
            return _run(pipe, seeds, call)

    first = run([seed])
    differences = {
        "repeat": _difference(first.clips, run([seed]).clips),
        "globals": _difference(first.clips, run([seed], global_seed=1).clips),
    }
    draws = first.draws
    if batch:
        neighbour = seed ^ 1
        alone = first.clips + run([neighbour]).clips
        try:
            both = run([seed, neighbour])
        except Exception as error:  # whatever it is: a list of prompts gives no clips
            reason = str(error).partition("\n")[0]
            differences["batch"] = f"raises {type(error).__name__}: {reason}"
        else:
            differences["batch"] = _difference(alone, both.clips)
            known = {(draw.site, draw.name, draw.drawn_from) for draw in draws}
            draws += [draw for draw in both.draws if (draw.site, draw.name, draw.drawn_from) not in known]
    name = type_name(pipe.pipe if isinstance(pipe, KeyedPipeline) else pipe)
    return Audit(name, tuple(draws), first.unseen, differences)


@dataclass(frozen=True)
class _Run:
    """The result of a call: each clip as `manifest.told` gives it, the places that drew, unseen changes."""

    clips: list[Any]
    draws: list[AuditedDraw]
    unseen: tuple[str, ...] = ()


def _run(pipe: DiffusionPipeline | KeyedPipeline, seeds: Sequence[int], call: Mapping[str, Any]) -> _Run:
    """One call, for one clip per seed."""
    number = len(seeds)
    arguments = dict(call)
    if number > 1:
        arguments |= {name: _repeated(value, number) for name, value in prompts_of(call).items()}
    if isinstance(pipe, KeyedPipeline):
        output = pipe(**arguments, seed=list(seeds))
        rows = [row for clip in output.clips for row in clip.ledger]
        drawn = [AuditedDraw(row.site, row.name, row.shape, row.dtype, row.device, "seed") for row in rows]
        return _Run([told(output[0][clip]) for clip in range(number)], _places(drawn))
    recorder = _Recorder([torch.Generator().manual_seed(seed) for seed in seeds])
    if "generator" in inspect.signature(type(pipe).__call__).parameters:
        arguments["generator"] = recorder.generators if number > 1 else recorder.generators[0]
    before = global_states()
    with answered(recorder):
        output = pipe(**arguments)
    unseen = tuple(name for name in moved_since(before) if name.split()[0] not in recorder.global_libraries)
    return _Run([told(output[0][clip]) for clip in range(number)], _places(recorder.told()), unseen)


class _Recorder:
    """Lets every function draw as usual, and records what it drew and from which generator."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self.generators = generators
        self.global_libraries: set[str] = set()
        self._draws: list[AuditedDraw] = []
        self._clips: dict[tuple[Site, str], set[int]] = {}
        """The clips whose generators each place drew from."""

    def __call__(self, draw: Draw) -> Any:
        value = draw.natively()
        drawn_from: DrawnFrom = "its own"
        if draw.generator is None or draw.generator is torch.default_generator:
            drawn_from = "global"
            self.global_libraries.add(draw.library)
        for clip, generator in enumerate(self.generators):
            if draw.generator is generator:
                drawn_from = "the call's"
                self._clips.setdefault((draw.site, draw.name), set()).add(clip)
        self._draws.append(AuditedDraw(draw.site, draw.name, *kind_of(value), drawn_from))
        return value

    def told(self) -> list[AuditedDraw]:
        """The draws; where not every clip's generator was used, they are labelled the first clip's."""
        return [
            replace(draw, drawn_from="the first clip's")
            if draw.drawn_from == "the call's"
            and self._clips[draw.site, draw.name] < set(range(len(self.generators)))
            else draw
            for draw in self._draws
        ]


def _places(draws: Sequence[AuditedDraw]) -> list[AuditedDraw]:
    """Each place once, with its number of draws."""
    numbers = Counter((draw.site, draw.name, draw.drawn_from) for draw in draws)
    first = {(draw.site, draw.name, draw.drawn_from): draw for draw in reversed(draws)}
    return [replace(first[place], count=number) for place, number in numbers.items()]


def _difference(a: list[Any], b: list[Any]) -> str | None:
    different = (clip for clip, (left, right) in enumerate(zip(a, b, strict=True)) if left != right)
    return next((f"clip {clip} differs" for clip in different), None)


def _repeated(value: Any, number: int) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.cat([value] * number)
    return ([value] if isinstance(value, str) else value) * number


@contextmanager
def _seeded_globals(seed: int) -> Iterator[None]:
    """Set global generators from a seed inside the block, and restore their states afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        there: dict[str, Any] = {"devices": []}
        if accelerator is not None:
            there = {"device_type": accelerator.type}
        with torch.random.fork_rng(**there):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
