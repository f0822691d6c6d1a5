"""A maker of clips that needs no model, and batches of its clips."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyramid_seed.batch.identity import Job, key_of, shared_content
from pyramid_seed.batch.items import BatchItem
from pyramid_seed.batch.jobs import run_jobs
from pyramid_seed.batch.launch import join_launch
from pyramid_seed.batch.part import Part
from pyramid_seed.batch.part_jobs import run_part
from pyramid_seed.batch.rows import BadRow
from pyramid_seed.batch.summary import BatchSummary, Plan
from pyramid_seed.media.frame_file import FrameFile
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.noise import NoiseKey, NoiseStreams
from pyramid_seed.presets import load_preset

UNITS = 3


class Killed(BaseException):
    """What SIGKILL does, as far as files are concerned: nothing after it runs."""


@dataclass
class NoiseClip:
    digest: str
    file: FrameFile
    notes: tuple[str, ...] = ()
    seconds: float = 0.5

    def save(self, path: Path, *, lossless: bool, overwrite: bool) -> Path:
        self.file.check(path.suffix, None, lossless)
        self.file.save(path, comment=None, overwrite=overwrite)
        return path


@dataclass
class NoiseMaker:
    """Clips of keyed noise, each unit mixed with the one before; `before` is called before each unit."""

    before: dict[tuple[int, int], Callable[[], object]] = field(default_factory=dict)
    machine: str = "here"
    made: list[tuple[int, int]] = field(default_factory=list)

    def image_digest(self, item: BatchItem) -> None:
        return None

    def origins(self, job: Job) -> list[dict[str, Any]]:
        return [{"machine": self.machine}]

    def make(self, order, on_step, on_unit, sink):
        item, known = order.job.item, order.known
        noise = NoiseStreams(item.seed)
        units = [] if known is None else list(known.latents.split(1, dim=2))
        sink.start(8, 1)
        if units and units[0].shape != (1, 3, 1, 16, 16):
            raise ValueError("latents of a beginning must have shape ...")  # as a pipeline does
        assert known is None or known.stage_digests == tuple((str(unit),) for unit in range(len(units)))
        for unit in range(len(units), UNITS):
            self.before.get((item.seed, unit), lambda: None)()
            latents = noise.draw(NoiseKey("initial", unit, 0), (1, 3, 1, 16, 16))
            units.append(latents if not units else 0.5 * units[-1] + latents)
            on_step()
            on_unit(unit, units[-1], [str(unit)])
            self.made.append((item.seed, unit))
        values = torch.cat(units, dim=2)[0].permute(1, 2, 3, 0) * 40 + 128
        frames = values.clamp(0, 255).to(torch.uint8).numpy()
        sink.write(frames)
        return NoiseClip(frames_digest(frames), sink)


def slow_maker(num_seeds: int) -> NoiseMaker:
    """Half a second a clip."""
    return NoiseMaker(
        {(seed, unit): partial(time.sleep, 0.2) for seed in range(num_seeds) for unit in range(UNITS)}
    )


def jobs_of(*seeds: int) -> tuple[Job, ...]:
    settings = replace(load_preset("tiny"), num_frames=UNITS)
    items = [BatchItem("a boat", seed, settings) for seed in seeds]
    return tuple(Job(item, key_of(item, shared_content(item, "w")), (1,) * UNITS) for item in items)


def run(
    folder: Path,
    *seeds: int,
    maker: NoiseMaker | None = None,
    bad: Sequence[BadRow] = (),
    duplicates: int = 0,
    progress: bool = False,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> BatchSummary:
    """A batch of these clips on one process, or in the launch that the environment names."""
    plan = Plan(jobs_of(*seeds), tuple(bad), duplicates)
    maker = maker or NoiseMaker()
    launch = join_launch(environment=environment or {})
    return run_jobs(folder, launch, lambda: plan, maker, lossless=True, progress=progress, **options)


def run_one_part(
    folder: Path, *seeds: int, part: str = "0/1", maker: NoiseMaker | None = None, **options: Any
) -> BatchSummary:
    """One part of a batch of these clips."""
    own = Part(*map(int, part.split("/")))
    jobs = jobs_of(*seeds)
    mine = tuple(job for job in jobs if own.has(job.id))
    plan = Plan(mine, list_sum=sum(int(job.id, 16) for job in jobs))
    launch, maker = join_launch(environment={}), maker or NoiseMaker()
    return run_part(folder, own, launch, lambda: plan, maker, lossless=True, progress=False, **options)


def raiser(error: BaseException | type[BaseException]) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def log_of(folder: Path, rank: int = 0) -> str:
    return (folder / "logs" / f"process-{rank}.log").read_text()
