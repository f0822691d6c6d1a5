"""What each process of a launch does in test_processes_of_one_clip: make clips with the others, tell of them.

As a program, `one_clip.py NAME FOLDER`: FOLDER/RANK.json is what a function here made in this process, or the
error with which it ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import logging

from pyramid_seed import PyramidFlowPipeline, processes_of_launch
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.pieces.launched import leave_launch
from pyramid_seed.pieces.processes import Processes
from pyramid_seed.pipelines import shared_step
from pyramid_seed.pipelines.beginning import Beginning
from pyramid_seed.provenance.manifest import unit_digests
from tests.invariance import clips
from tests.invariance.stand_ins import let_rows_and_heads_matter

Load = Callable[[str], PyramidFlowPipeline]
Made = dict[str, Any]


def clip(pipe: PyramidFlowPipeline, processes: Processes | None, **changes: Any) -> Made:
    """A clip as plain values; only the first process has frames."""
    made = clips.make(pipe, **{"num_inference_steps": 1, **changes}, processes=processes)
    has_frames = processes is None or processes.is_first
    assert has_frames or torch.equal(made.frames, made.latents)
    return {
        "seed": made.seeds[0],
        "text": made.text_digests[0],
        "ledger": made.ledgers[0].to_list(),
        "stages": made.stage_digests[0],
        "units": unit_digests(made.latents),
        "frames": frames_digest(made.frames[0]) if has_frames else None,
    }


def some_clips(processes: Processes | None, load: Load) -> Made:
    """For two processes."""
    pipe, made = load("miniflux"), {}
    made["shards 1"] = clip(pipe, processes, shards=1, units=1, workers=1)
    # The second unit is not guided: fewer pieces where the sequence is short than there are processes.
    made["shards 3"] = clip(pipe, processes, shards=3, video_guidance_scale=1.0, workers=2)
    made["the other family"] = clip(load("sd3"), processes, shards=3, units=1)
    made["with stand-ins"] = with_stand_ins(processes, load)
    made["no seed"] = clip(load("miniflux"), processes, shards=1, units=1, seed=None)
    return made


def with_stand_ins(processes: Processes | None, load: Load) -> Made:
    with pytest.MonkeyPatch.context() as patch:
        let_rows_and_heads_matter(patch)
        return clip(load("miniflux"), processes, shards=3)


def all_clips(processes: Processes | None, load: Load) -> Made:
    """As many as 1, 2, 3 or 6 processes can make."""
    made, number = {}, 1 if processes is None else len(processes.ranks)
    for name in ("miniflux", "sd3"):
        pipe = load(name)
        calls = {
            "guided": {},
            "2 workers": {"workers": 2},
            "guided at first": {"video_guidance_scale": 1.0},
            "steps": {"num_inference_steps": [1, 2, 1]},
            "from an image": {"image": clips.PICTURE},
        }
        for shards in (1, 3):
            if 2 * shards % number == 0:
                for what, changes in calls.items():
                    made[f"{name}, shards {shards}, {what}"] = clip(pipe, processes, shards=shards, **changes)
        if 6 % number == 0:
            first = clips.make(pipe, units=1, num_inference_steps=1, shards=3)
            made[f"{name}, a beginning"] = clip(
                pipe, processes, shards=3, beginning=Beginning(first.latents), units=3
            )
        if 3 % number == 0:
            made[f"{name}, unguided"] = clip(pipe, processes, shards=3, guidance_scale=1.0)
    made["with stand-ins"] = with_stand_ins(processes, load)
    return made


def other_seeds(processes: Processes, load: Load) -> Made:
    return clip(load("miniflux"), processes, shards=1, seed=5 + processes.index)


def other_shards(processes: Processes, load: Load) -> Made:
    return clip(load("miniflux"), processes, shards=3 if processes.index else 1)


def refused(processes: Processes, load: Load) -> Made:
    """By one rank, before it has anything to say to the others."""
    return clip(load("miniflux"), processes, shards=2 if processes.index else 1)


def at_step(number: int, act: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A callback that does something at one step."""
    return lambda pipe, step, timestep, tensors: act(tensors) if step == number else {}


def other_latents(processes: Processes, load: Load) -> Made:
    """One rank goes another way within the second unit."""
    change = at_step(4, lambda tensors: {"latents": tensors["latents"] + processes.index})
    return clip(load("miniflux"), processes, shards=1, callback_on_step_end=change)


def fails(processes: Processes, load: Load) -> Made:
    def fail(_: dict[str, Any]) -> dict[str, Any]:
        if processes.index == 1:
            raise OSError("no space left")
        return {}

    return clip(load("miniflux"), processes, shards=3, callback_on_step_end=at_step(4, fail))


def dies(processes: Processes, load: Load) -> Made:
    def die(_: dict[str, Any]) -> dict[str, Any]:
        if processes.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    return clip(load("miniflux"), processes, shards=3, callback_on_step_end=at_step(4, die))


def stopped(processes: Processes | None, load: Load) -> Made:
    """One rank stops the run within its second unit."""
    pipe = load("miniflux")

    def stop(_: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = processes is None or processes.index == 1
        return {}

    return clip(pipe, processes, units=3, shards=1, callback_on_step_end=at_step(5, stop))


def run(name: str, folder: Path, load: Load) -> int:
    """Call one of the functions above in a process of a launch; 1 if it raised."""
    logging.disable_progress_bar()
    shared_step.FEWEST_ROWS = 1
    status, rank = 0, os.environ.get("RANK", "0")
    try:
        made = globals()[name](processes_of_launch("cpu"), load)
        leave_launch()
    except Exception as error:
        made, status = {"error": f"{type(error).__name__}: {error}"}, 1
    if name == "fails" and rank == "1":  # the other one need not wait for the end of this process
        ends = time.monotonic() + 60
        while not (folder / "0.json").exists() and time.monotonic() < ends:
            time.sleep(0.01)
        status = 1 if (folder / "0.json").exists() else 3
    (folder / f"{rank}.json").write_text(json.dumps(made))
    return status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), cache(clips.load)))
