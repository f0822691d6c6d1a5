"""When memory runs out, the message names what would fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from pyramid_seed.pipelines import out_of_memory
from pyramid_seed.pipelines.out_of_memory import (
    GenerationOutOfMemoryError,
    MemoryNeed,
    Situation,
    advice,
    bytes_asked,
    is_out_of_memory,
    memory_modes,
    memory_need,
    out_of_memory_advice,
)

GIB = 2**30
CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.1 GiB of which"
)


def need(**changes):
    weights = {"text_encoder": 1 * GIB, "text_encoder_2": 9 * GIB, "transformer": 4 * GIB, "vae": 1 * GIB}
    values = {
        "weights": weights,
        "largest_block": GIB // 4,
        "largest_layer": GIB // 16,
        "text_encoders": ("text_encoder", "text_encoder_2"),
        "work": 6 * GIB,
        "available": 16 * GIB,
    }
    return MemoryNeed(**{**values, **changes})


def situation(**changes):
    values = {
        "on_accelerator": True,
        "is_float32": False,
        "tile_share": 1.0,
        "size": (768, 1280),
        "size_multiple": 64,
    }
    return Situation(**{**values, **changes})


def peaks(*arguments):
    return {mode.call.split("(")[0]: mode.peak / GIB for mode in memory_modes(*arguments)}


def test_the_arithmetic_of_every_mode():
    told = peaks(need(), situation(is_float32=True, tile_share=0.25))
    assert told == {
        'text_encoders="free"': 15 - 10 + 6,
        "pipeline.vae.enable_tiling": 15 + 1.5,
        "load_pipeline": (15 + 6) / 2,
        "pipeline.enable_model_cpu_offload": 9 + 6,
        "pipeline.enable_group_offload": 0.5 + 6,
        "pipeline.enable_sequential_cpu_offload": 1 / 16 + 6,
        "height=256, width=512": 15 + 6 * (256 * 512) / (768 * 1280),
    }


def test_modes_that_cannot_help_are_not_named():
    on_cpu = peaks(need(text_encoders=()), situation(on_accelerator=False, size=None))
    assert on_cpu == {}
    assert "height" not in "".join(peaks(need(available=12 * GIB), situation()))  # weights alone are more
    assert "height" not in "".join(peaks(need(available=None), situation()))


def test_only_what_fits_is_advised():
    told = advice(need(available=12 * GIB), situation())
    assert 'text_encoders="free" (about 11 GiB)' in told
    assert "group_offload" in told
    assert "model_cpu_offload" not in told


def test_where_nothing_fits():
    told = advice(need(available=5 * GIB), situation())
    assert told.startswith(
        "no memory mode fits alone; pipeline.enable_sequential_cpu_offload() comes closest"
    )
    nothing = advice(need(text_encoders=()), situation(on_accelerator=False, size=None))
    assert nothing == "no memory mode helps here: use a smaller height and width, or fewer frames"


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


def test_a_picture_that_is_too_large_for_this_machine(pipe):
    """A real allocation that fails: 2 TiB of noise."""
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
    with pytest.raises(GenerationOutOfMemoryError, match=r"vae.enable_tiling\(\)"):
        own_pipe("a", seed=1, **{**small, "output_type": "uint8"})


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
    with pytest.raises(GenerationOutOfMemoryError, match=r'12 GiB can be had; would fit.*"free"'):
        own_pipe("a", seed=1, **small)
