"""A shorter clip is the beginning of a longer one, and a clip goes on from its beginning."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from . import clips
from .clips import assert_same
from .conftest import FAMILY_NEUTRAL

UNITS = 4
"""With three units behind it, the last one has history at every resolution there is."""


@pytest.fixture(scope="module")
def whole_clip(loaded):
    return cache(lambda model: clips.make(loaded(model), units=UNITS, num_inference_steps=1))


@pytest.fixture
def whole(model, whole_clip):
    """The clip with all its units, made once per model."""
    return whole_clip(model)


def test_every_shorter_clip_is_the_beginning(pipe, make, whole):
    for units in range(1, UNITS):
        shorter = make(units=units, num_inference_steps=1)
        assert torch.equal(shorter.latents, whole.latents[:, :, : units * pipe.geometry.frames_per_unit])
        assert (shorter.frames == whole.frames[:, : pipe.geometry.num_frames(units)]).all()
        assert list(shorter.ledgers[0]) == list(whole.ledgers[0])[: len(shorter.ledgers[0])]


@FAMILY_NEUTRAL
def test_a_clip_goes_on_from_every_beginning(pipe, make, whole):
    for known in range(1, UNITS):
        longer = make(
            units=UNITS, num_inference_steps=1, beginning=clips.beginning(pipe, whole.latents, known)
        )
        assert torch.equal(longer.latents, whole.latents)
        assert (longer.frames == whole.frames).all()
        assert longer.ledgers == whole.ledgers


@FAMILY_NEUTRAL
def test_a_known_clip_is_only_decoded(pipe, make, whole):
    again = make(units=UNITS, num_inference_steps=1, beginning=clips.beginning(pipe, whole.latents, UNITS))
    assert torch.equal(again.latents, whole.latents)
    assert (again.frames == whole.frames).all()
    assert again.ledgers == whole.ledgers


@FAMILY_NEUTRAL
def test_the_beginning_of_a_batch(pipe, make):
    prompts = {"prompt": ["star", "a red circle"], "seed": [1, 2], "num_inference_steps": 1}
    whole = make(**prompts)
    known = [clips.beginning(pipe, latents, 1) for latents in whole.latents.split(1)]
    assert_same(make(**prompts, beginning=known), whole)
    assert_same(make(**prompts), whole)
