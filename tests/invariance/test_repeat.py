"""Again: in the same process, after other work, from a folder that the pipeline wrote."""

from __future__ import annotations

import torch

from . import clips
from .clips import assert_same
from .conftest import FAMILY_NEUTRAL


@FAMILY_NEUTRAL
def test_again_in_the_same_process_with_other_work_between(make, reference):
    make("star", seed=5, height=128, num_inference_steps=1)
    assert_same(make(), reference)


def test_a_pipeline_loaded_again(model, reference):
    assert_same(clips.make(clips.load(model)), reference)


def test_a_pipeline_saved_and_loaded(pipe, reference, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert_same(clips.make(again), reference)


@FAMILY_NEUTRAL
def test_strict_after_relaxed(make, reference):
    """Of a relaxed clip the noise is promised, on a CPU as on a GPU."""
    assert make(determinism="relaxed").ledgers == reference.ledgers
    assert_same(make(), reference)


@FAMILY_NEUTRAL
def test_another_seed_is_another_clip(make, reference):
    """What the other tests compare is not the same whatever one does."""
    one, other = reference, make(seed=2)
    assert not torch.equal(one.latents, other.latents)
    assert (one.frames != other.frames).any()
    assert one.ledgers != other.ledgers
    assert one.text_digests == other.text_digests
