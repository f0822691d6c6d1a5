"""In a batch: which clips are beside it, and at which place it is, changes no bit of a clip."""

from __future__ import annotations

from functools import cache, partial
from itertools import permutations

import pytest
import torch

from . import clips
from .clips import PROMPTS, SEEDS, assert_same, clip_of
from .conftest import FAMILY_NEUTRAL

FORTH, BACK = (0, 1, 2), (2, 1, 0)


@pytest.fixture
def make(pipe):
    return partial(clips.make, pipe, num_inference_steps=1)


@pytest.fixture(scope="module")
def alone_by_model(loaded):
    return cache(
        lambda model, prompt, seed: clips.make(
            loaded(model), PROMPTS[prompt], seed=seed, num_inference_steps=1
        )
    )


@pytest.fixture
def alone(model, alone_by_model):
    """The clip of a prompt (of different lengths) and a seed, made alone."""
    return partial(alone_by_model, model)


def assert_made_in(order, make, alone):
    """A batch in this order holds the clips that are made alone."""
    batch = make([PROMPTS[index] for index in order], seed=[SEEDS[index] for index in order])
    for place, index in enumerate(order):
        assert_same(clip_of(batch, place), alone(index, SEEDS[index]))


@FAMILY_NEUTRAL
def test_three_clips_forth_and_back(make, alone):
    """What is made before a clip is never the same in both."""
    assert_made_in(FORTH, make, alone)
    assert_made_in(BACK, make, alone)


@pytest.mark.slow
def test_three_clips_in_all_other_orders(make, alone):
    for order in set(permutations(range(3))) - {FORTH, BACK}:
        assert_made_in(order, make, alone)


@pytest.mark.slow
@FAMILY_NEUTRAL
def test_videos_of_a_prompt(make, alone):
    batch = make(PROMPTS[:2], num_videos_per_prompt=2, seed=[SEEDS[0], 5, SEEDS[1], 6])
    for index, (prompt, seed) in enumerate([(0, SEEDS[0]), (0, 5), (1, SEEDS[1]), (1, 6)]):
        assert_same(clip_of(batch, index), alone(prompt, seed))


@FAMILY_NEUTRAL
def test_another_seed_of_one_item_changes_that_item_only(make, alone):
    batch = make(PROMPTS, seed=[SEEDS[0], 7, SEEDS[2]])
    for index in (0, 2):
        assert_same(clip_of(batch, index), alone(index, SEEDS[index]))
    before = alone(1, SEEDS[1])
    assert not torch.equal(batch.latents[1:2], before.latents)
    assert (batch.frames[1:2] != before.frames).any()
