"""What saves memory changes no bit; tiles of the VAE do where a picture needs more than one."""

from __future__ import annotations

import accelerate
import numpy as np
import pytest
import torch

from . import clips
from .clips import assert_same
from .conftest import FAMILY_NEUTRAL, PYRAMID_FLOW


@FAMILY_NEUTRAL
def test_offload_of_accelerate(own_pipe, reference):
    """What sequential offload does to each model, with the CPU as the device: the weights live elsewhere."""
    for part in own_pipe.components.values():
        if isinstance(part, torch.nn.Module):
            accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert own_pipe.transformer.proj_out.weight.device.type == "meta"
    assert_same(clips.make(own_pipe), reference)
    assert_same(clips.make(own_pipe), reference)


@FAMILY_NEUTRAL
def test_model_offload_of_accelerate(own_pipe, reference):
    hook = None
    for name in own_pipe.model_cpu_offload_seq.split("->"):
        if getattr(own_pipe, name) is not None:
            _, hook = accelerate.cpu_offload_with_hook(getattr(own_pipe, name), "cpu", prev_module_hook=hook)
    assert_same(clips.make(own_pipe), reference)


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        pytest.param("miniflux", None, id="leaves-miniflux"),
        pytest.param("miniflux", 1, id="blocks-miniflux"),
        pytest.param("sd3", None, id="leaves-sd3", marks=pytest.mark.slow),
        pytest.param("sd3", 1, id="blocks-sd3"),
        pytest.param("helios", None, id="leaves-helios", marks=pytest.mark.slow),
        pytest.param("helios", 1, id="blocks-helios", marks=pytest.mark.slow),
        pytest.param("helios-image", 1, id="blocks-helios-image", marks=pytest.mark.slow),
    ],
    indirect=["model"],
)
def test_group_offload(own_pipe, reference, blocks):
    kind = "leaf_level" if blocks is None else "block_level"
    own_pipe.enable_group_offload(torch.device("cpu"), offload_type=kind, num_blocks_per_group=blocks)
    assert_same(clips.make(own_pipe), reference)
    assert_same(clips.make(own_pipe), reference)


@pytest.mark.slow  # with Pyramid Flow, pipelines/test_text_encoders.py does it by default
@pytest.mark.parametrize("model", ["helios"], indirect=True)
@pytest.mark.parametrize("then", ["offload", "free"])
def test_text_encoders_that_leave(own_pipe, reference, then):
    for _ in range(2):
        assert_same(clips.make(own_pipe, text_encoders=then), reference)


@PYRAMID_FLOW
def test_slicing(own_pipe, make):
    batch = {"prompt": ["star", "a red circle"], "seed": [1, 2], "num_inference_steps": 1}
    own_pipe.vae.enable_slicing()
    own_pipe.enable_attention_slicing()
    assert_same(clips.make(own_pipe, **batch), make(**batch))


@PYRAMID_FLOW
def test_tiles_that_hold_the_whole_picture(own_pipe, reference):
    own_pipe.vae.enable_tiling(64, 64, 48, 48)
    assert_same(clips.make(own_pipe), reference)


@pytest.mark.slow
@PYRAMID_FLOW
def test_smaller_tiles_change_pictures_and_nothing_else(own_pipe, reference):
    """Not promised: a tile sees less around it than a picture. Repeats and prefixes hold all the same."""
    own_pipe.vae.enable_tiling(32, 32, 24, 24)
    tiled, whole = clips.make(own_pipe), reference
    assert torch.equal(tiled.latents, whole.latents)
    assert tiled.ledgers == whole.ledgers
    assert not np.array_equal(tiled.frames, whole.frames)
    longer = clips.make(own_pipe, units=3)
    assert np.array_equal(longer.frames[:, : tiled.frames.shape[1]], tiled.frames)
    own_pipe.vae.disable_tiling()
    assert_same(clips.make(own_pipe), whole)
