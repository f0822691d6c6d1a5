"""When memory runs out, the message names what would fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from pyramid_seed.pipelines import out_of_memory
from pyramid_seed.pipelines.out_of_memory import (
    GenerationOutOfMemoryError,
    bytes_asked,
    is_out_of_memory,
    memory_need,
    out_of_memory_advice,
)

from .test_memory_modes import GIB, need

CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.1 GiB of which"
)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (CUDA_MESSAGE, 20 * GIB),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1024 bytes. Error code 12", 1024),
        ("MPS backend out of memory (...). Tried to allocate 1.50 GB on private pool.", 1.5e9),
        ("Unable to allocate 2.00 MiB for an array with shape (2097152,) and data type uint8", 2**21),
        ("std::bad_alloc", 0),
    ],
)
def test_what_was_asked_for_is_read_from_the_message(message, wanted):
    assert bytes_asked(message) == wanted


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError(CUDA_MESSAGE))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught:
        np.ones(2**50, dtype=np.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_an_image_that_is_too_large_for_this_machine(pipe, monkeypatch):
    """A real allocation that fails: 2 TiB of noise, of a size that a call refuses."""
    monkeypatch.setattr("pyramid_seed.pipelines.inputs.MAX_SIDE", 2**20)
    with pytest.raises(GenerationOutOfMemoryError) as caught:
        pipe("a", height=2**20, width=2**20, num_frames=1, num_inference_steps=1, seed=1)
    message = str(caught.value)
    assert "out of memory on cpu: weights take" in message
    assert "the work at least 2048 GiB" in message
    (height, width) = map(int, re.search(r"height=(\d+), width=(\d+)", message).groups())
    assert height == width < 2**20
    assert height % pipe.geometry.size_multiple == 0
    assert "offload" not in message
    assert is_out_of_memory(caught.value.__cause__)


def test_other_errors_pass(pipe):
    with pytest.raises(RuntimeError, match=r"^shapes$"), out_of_memory_advice(pipe):
        raise RuntimeError("shapes")


def test_tiles_are_advised_where_the_decoder_ran_out(own_pipe, monkeypatch, small):
    def refuse(*_):
        torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(own_pipe.vae.decoder, "forward", refuse)
    own_pipe.vae.tile_sample_min_height = own_pipe.vae.tile_sample_min_width = 32
    own_pipe.vae.tile_sample_stride_height = own_pipe.vae.tile_sample_stride_width = 24
    with pytest.raises(GenerationOutOfMemoryError, match=r"vae.enable_tiling\(\)"):
        own_pipe("a", seed=1, **{**small, "num_frames": 1, "output_type": "uint8"})


@pytest.mark.parametrize("name", ["text_encoder_2", "transformer", "vae"])
def test_the_component_that_ran_out_is_known(own_pipe, monkeypatch, small, name):
    def refuse(*_, **__):
        torch.empty(2**50, dtype=torch.uint8)

    *_, innermost = (module for module in own_pipe.components[name].modules() if list(module.children()))
    monkeypatch.setattr(innermost, "forward", refuse)
    with pytest.raises(GenerationOutOfMemoryError) as caught:
        own_pipe("a text of its own", seed=1, **{**small, "num_frames": 1, "output_type": "uint8"})
    assert out_of_memory._at_work(caught.value.__cause__, own_pipe) == name


def test_tiles_remember_the_clip_and_an_image_has_none(own_pipe):
    own_pipe.vae.tile_sample_min_height = own_pipe.vae.tile_sample_min_width = 32
    own_pipe.vae.tile_sample_stride_height = own_pipe.vae.tile_sample_stride_width = 24
    cpu = torch.device("cpu")
    whole, tiled = out_of_memory.decoding_needs(own_pipe.vae, (64, 64), cpu)
    clip, image = (memory_need(own_pipe, cpu, 1, (64, 64), "vae", is_clip) for is_clip in (True, False))
    assert (clip.work, clip.tile_share) == (whole, tiled / whole)
    assert (image.work, image.tile_share) == (1, 0.25)
    assert image.tile_share < clip.tile_share < 1


def test_on_an_accelerator(own_pipe, monkeypatch, small):
    """No GPU at hand: what torch would tell of one is put in its place."""

    def refuse(*_, **__):
        raise torch.OutOfMemoryError(CUDA_MESSAGE)

    device = torch.device("cuda", 0)
    numbers = {"mem_get_info": (5 * GIB, 80 * GIB), "memory_reserved": 70 * GIB, "memory_allocated": 50 * GIB}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    told = memory_need(own_pipe, device, bytes_asked(CUDA_MESSAGE))
    assert (told.available, told.work) == (75 * GIB, 70 * GIB)

    monkeypatch.setattr(own_pipe.transformer, "forward", refuse)
    monkeypatch.setattr(out_of_memory, "memory_need", lambda *_: need(available=12 * GIB))
    with pytest.raises(GenerationOutOfMemoryError, match=r'12 GiB are available; would fit.*"free"'):
        own_pipe("a", seed=1, **small)
