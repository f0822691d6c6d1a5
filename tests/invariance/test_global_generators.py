"""A generation neither reads nor changes a global generator."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.cases import check_cases

from .clips import assert_same
from .conftest import FAMILY_NEUTRAL
from .global_draws import GlobalDrawError, global_draws_raise, global_states


@pytest.fixture
def picture(model) -> Image.Image | None:
    """An image to begin with, but for Helios, of which one model always has its own."""
    if model.startswith("helios"):
        return None
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_the_guard_raises():
    cases = [
        lambda: torch.rand(3),
        lambda: torch.randn(3),
        lambda: torch.randint(0, 9, (3,)),
        lambda: torch.randperm(3),
        lambda: torch.rand_like(torch.zeros(3)),
        lambda: torch.zeros(3).normal_(),
        lambda: torch.zeros(3).uniform_(),
        lambda: torch.bernoulli(torch.full((3,), 0.5)),
        lambda: torch.multinomial(torch.ones(3), 1),
        lambda: torch.normal(torch.zeros(3), torch.ones(3)),
        lambda: F.dropout(torch.ones(3)),
        lambda: F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 4, 4), dropout_p=0.5),
        lambda: torch.manual_seed(0),
        lambda: np.random.rand(3),
        lambda: np.random.seed(0),
        lambda: np.random.shuffle([1, 2]),
        lambda: random.random(),
        lambda: random.seed(0),
        lambda: random.choice([1, 2]),
        lambda: os.urandom(4),
    ]

    def rule(draw):
        with global_draws_raise(), pytest.raises(GlobalDrawError):
            draw()
        draw()

    check_cases(cases, rule)


@pytest.mark.parametrize("with_picture", [False, True], ids=["text", "picture"])
def test_a_generation_works_while_every_global_draw_raises(make, picture, with_picture):
    asked = {"image": picture if with_picture else None, "num_inference_steps": 1}
    with global_draws_raise():
        guarded = make(**asked)
    assert_same(guarded, make(**asked))


def test_global_generators_stay_as_they_are(make, picture):
    before = global_states()
    make(image=picture, num_inference_steps=1)
    assert global_states() == before


@FAMILY_NEUTRAL
def test_disturbed_global_generators_change_nothing(make, picture):
    def disturb(*args):
        torch.manual_seed(len(args))
        torch.rand(3)
        np.random.seed(3)
        np.random.rand(3)
        random.seed(3)
        random.random()

    prompts = ["star", "a red circle"]
    asked = {"prompt": prompts, "seed": [1, 2], "image": picture, "num_inference_steps": 1}
    disturbed = make(**asked, callback_on_step_end=disturb, callback_on_unit_end=disturb)
    assert_same(disturbed, make(**asked))
