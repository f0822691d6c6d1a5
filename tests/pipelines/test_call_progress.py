"""A bar that moves by what steps cost."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from benchmarks.sequence import attended_pairs, frame_tokens
from tqdm import tqdm

from pyramid_seed.bars import bar_options
from pyramid_seed.geometry import LatentShape, PyramidGeometry
from pyramid_seed.pipelines.call_progress import CallProgress, tokens_of_step
from pyramid_seed.pipelines.denoise import Place, UnitSettings
from pyramid_seed.pipelines.inputs import Request
from tests.batch.test_progress import Terminal

GEOMETRY = PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)
SHAPE = LatentShape(16, 48, 80, 3)  # 384 x 640 pixels
UNITS = (UnitSettings((2, 1, 3), 7.0), *[UnitSettings((1, 2, 1), 5.0)] * 3)


def test_a_step_costs_its_tokens_and_the_pairs_that_attend():
    for unit in (0, 1, 2, 3, 9):
        for stage in range(3):
            frames = frame_tokens(GEOMETRY, 384, 640, unit, stage)
            pairs = attended_pairs(frames, num_text=20)
            cost = tokens_of_step(GEOMETRY, 48, 80, unit, stage, 20, hidden=100)
            assert cost == pytest.approx(20 + sum(frames) + pairs / 600)


def moved(units, num_clips=1, num_known=0):
    """Where the bar is after each step, and what it shows last."""
    images = (object(),) * num_known
    request = Request(num_clips, 1, SHAPE, units, images, "unit", (), 20)
    with tqdm(total=request.num_steps, file=io.StringIO(), **{"smoothing": 0}) as bar:
        progress = CallProgress(
            bar, request, lambda unit, stage: tokens_of_step(GEOMETRY, 48, 80, unit, stage, 20, hidden=100)
        )
        ends = [0.0]
        for clip in range(num_clips):
            for unit in range(num_known, len(units)):
                for stage, steps in enumerate(units[unit].num_inference_steps):
                    for step in range(steps):
                        progress.show(clip, Place(unit, stage, step))
                        ends.append(bar.n)
    assert ends[-1] == request.num_steps
    return [later - earlier for earlier, later in pairwise(ends)], bar.postfix


def test_steps_with_more_tokens_move_it_farther_and_clips_equally():
    shares, told = moved(UNITS)
    assert told == "unit 4/4, stage 3/3"
    assert shares[0] == pytest.approx(shares[1])  # of one stage
    assert shares[0] < shares[2] < shares[3] < shares[-1]
    two, told = moved(UNITS, num_clips=2)
    assert told == "clip 2/2, unit 4/4, stage 3/3"
    assert two == pytest.approx(shares * 2)
    known, _ = moved(UNITS, num_known=1)
    assert len(known) == len(shares) - 6


def test_half_of_an_unguided_unit_is_saved():
    free = (*UNITS[:3], replace(UNITS[3], guidance_scale=1.0))
    guided, unguided = moved(UNITS)[0], moved(free)[0]
    saved = (unguided[-1] / unguided[0]) / (guided[-1] / guided[0])
    assert saved == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_a_pipe_gets_whole_lines_and_none_for_short_work(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    with tqdm(total=10, desc="generating", **bar_options()) as bar:
        bar.start_t -= 40
        bar.last_print_t -= 40
        bar.update(4)
    text = stream.getvalue()
    if stream.isatty():
        assert text.count("\r") > 1
    else:
        assert text.splitlines() == ["generating: 40 %, 01:00 left"] * 2
        stream.seek(0)
        stream.truncate()
        with tqdm(total=10, **bar_options()) as bar:
            bar.update(10)
        assert stream.getvalue() == ""
