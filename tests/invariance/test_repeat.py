"""Again: in the same process, after other work, from a folder that the pipeline wrote."""

from __future__ import annotations

import torch

from pyramid_seed import PyramidFlowPipeline

from . import clips
from .clips import assert_same


def test_again_in_the_same_process(make):
    first = make()
    other = make("star", seed=5, height=128)
    assert not torch.equal(first.latents[..., :8, :8], other.latents[..., :8, :8])
    assert_same(make(), first)


def test_a_pipeline_loaded_again(model, make):
    assert_same(clips.make(clips.load(model)), make())


def test_a_pipeline_saved_and_loaded(pipe, make, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = PyramidFlowPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert_same(clips.make(again), make())


def test_another_seed_is_another_clip(make):
    """What the other tests compare is not the same whatever one does."""
    one, other = make(seed=1), make(seed=2)
    assert not torch.equal(one.latents, other.latents)
    assert (one.frames != other.frames).any()
    assert one.ledgers != other.ledgers
    assert one.text_digests == other.text_digests
