"""In a batch: which clips are beside it, and at which place it is, changes no bit of a clip."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from .clips import PROMPTS, SEEDS, assert_same, clip_of


@pytest.fixture
def alone(make):
    """Three clips of prompts of different lengths, each made alone."""
    return [make(prompt, seed=seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]


def test_three_clips_in_all_orders(make, alone):
    for order in permutations(range(3)):
        batch = make([PROMPTS[index] for index in order], seed=[SEEDS[index] for index in order])
        for place, index in enumerate(order):
            assert_same(clip_of(batch, place), alone[index])


def test_videos_of_a_prompt(make):
    batch = make(PROMPTS[:2], num_videos_per_prompt=2, seed=[1, 2, 3, 4])
    for index, (prompt, seed) in enumerate([(0, 1), (0, 2), (1, 3), (1, 4)]):
        assert_same(clip_of(batch, index), make(PROMPTS[prompt], seed=seed))


def test_another_seed_of_one_item_changes_that_item_only(make):
    before, after = make(PROMPTS, seed=[1, 2, 3]), make(PROMPTS, seed=[1, 4, 3])
    for index in (0, 2):
        assert_same(clip_of(after, index), clip_of(before, index))
    assert not torch.equal(after.latents[1], before.latents[1])
    assert not np.array_equal(after.frames[1], before.frames[1])
