"""The arithmetic of memory, against the tensors that are alive in real runs, to 10 %."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from benchmarks.live_memory import LiveMemory
from benchmarks.needs import step_bytes
from benchmarks.sequence import frame_tokens, published_geometry
from benchmarks.sizes import text_inputs

from pyramid_seed import (
    AutoencoderKLCausalVideo,
    PyramidFluxTransformer3DModel,
    PyramidSD3Transformer3DModel,
)
from pyramid_seed.geometry import history_plan
from pyramid_seed.models import causal_video_blocks, onednn_linear
from pyramid_seed.pipelines import out_of_memory
from pyramid_seed.pipelines.memory_modes import MemoryNeed, memory_modes
from pyramid_seed.pipelines.out_of_memory import decoding_needs, warn_of_decoding
from pyramid_seed.pipelines.working_memory import decode_bytes
from tests.cases import check_cases

CPU = torch.device("cpu")
WITHIN = 0.1
SMALL = {"num_attention_heads": 4, "joint_attention_dim": 64}


@pytest.fixture
def vae(monkeypatch):
    """Of the published structure, laid out and convolved as on a GPU."""
    for of_cpu in ("has_fast_channels_last", "_is_slow_as_clip"):
        monkeypatch.setattr(causal_video_blocks, of_cpu, lambda _: False)
    widths = {"encoder_block_out_channels": (8, 8, 16, 16), "decoder_block_out_channels": (8, 16, 32, 32)}
    vae = AutoencoderKLCausalVideo(**widths, norm_num_groups=4).eval()
    yield vae
    vae.disable_tiling()


@torch.no_grad()
def decoded(vae, height, width, units=3):
    """The peak of decoding the third latent frame of a longer clip."""
    decode = vae.chunk_decoder()
    with LiveMemory() as memory:
        for _ in range(units):
            memory.peak = memory.live
            decode(torch.randn(1, 16, 1, height // 8, width // 8))
    return memory.peak


def test_live_memory_counts_what_is_alive():
    weight = torch.ones(1000)
    with LiveMemory() as memory:
        a = weight + 1
        view, b = a[:10], a * 2
        del a, b
        assert memory.live == 4000  # the view keeps all of it
        del view
        assert (memory.live, memory.peak) == (0, 8000)
        weight.mul_(2)
    assert memory.peak == 8000


@pytest.mark.slow
def test_decoding(vae):
    """As a whole and in tiles, and what the advice makes of the work for tiles."""
    height, width = 64, 128
    whole, tiled = decoding_needs(vae, (height, width), CPU)
    assert whole == pytest.approx(decoded(vae, height, width), rel=WITHIN)

    vae.enable_tiling(64, 64, 48, 48)
    measured = decoded(vae, height, width)
    whole, tiled = decoding_needs(vae, (height, width), CPU)
    assert tiled == pytest.approx(measured, rel=WITHIN)
    weights = {"vae": sum(weight.nbytes for weight in vae.parameters())}
    need = MemoryNeed(weights, 0, 0, (), whole, None, False, False, tiled / whole, None, 64)
    (mode,) = memory_modes(need)
    assert mode.call == "pipeline.vae.enable_tiling()"
    assert mode.peak == pytest.approx(weights["vae"] + measured, rel=WITHIN)


def test_decoding_grows_with_the_picture(vae):
    """Whole pictures in proportion; bfloat16 takes half; cuDNN's copies come on top."""
    small, large = (decode_bytes(vae.config, side, side, 4) for side in (128, 256))
    assert large == 4 * small
    assert decode_bytes(vae.config, 128, 128, 2) == small / 2
    assert decode_bytes(vae.config, 128, 128, 4, kernel_copies=True) > small


@pytest.mark.slow
@torch.no_grad()
def test_a_step(monkeypatch):
    """Of both families and dtypes, with a short and a longer history."""
    monkeypatch.setattr(onednn_linear, "needs_float32", lambda _: False)  # which no GPU has
    geometry = published_geometry()
    transformers = {
        "miniflux": PyramidFluxTransformer3DModel(**SMALL, num_layers=1, num_single_layers=2).eval(),
        "sd3": PyramidSD3Transformer3DModel(**SMALL, num_layers=2, pos_embed_max_size=64).eval(),
    }

    def rule(family, dtype, place):
        height, width, unit = place
        transformer = transformers[family].to(dtype)
        rows, columns = geometry.latent_size(height, width)
        history = [
            torch.randn(2, 16, clip.stop - clip.start, rows >> (2 - clip.stage), columns >> (2 - clip.stage))
            for clip in history_plan(unit, 3, 2)
        ]
        text = text_inputs(transformer, CPU)
        text["encoder_attention_mask"] = torch.ones_like(text["encoder_attention_mask"])
        latents, timestep = torch.randn(2, 16, 1, rows, columns).to(dtype), torch.full((2,), 500.0)
        with LiveMemory() as memory:
            transformer(latents, [clip.to(dtype) for clip in history], timestep, **text)
        *past, current = frame_tokens(geometry, height, width, unit, 2)
        found = step_bytes(transformer, sum(past), current, dtype.itemsize)
        assert found == pytest.approx(memory.peak, rel=WITHIN)

    check_cases(product(transformers, [torch.float32, torch.bfloat16], [(128, 192, 1), (192, 320, 3)]), rule)


def test_a_gpu_too_small_for_whole_pictures_is_told_before_the_steps(own_pipe, monkeypatch, caplog):
    """No GPU at hand: what torch would tell of one is put in its place."""
    device = torch.device("cuda", 0)
    monkeypatch.setattr(type(own_pipe), "_execution_device", device)
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    whole, _ = out_of_memory.decoding_needs(own_pipe.vae, (768, 1280), device)
    for room in (whole, whole - 1):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, room=room: (room, room))
        assert not caplog.messages
        warn_of_decoding(own_pipe, (768, 1280))
    (message,) = caplog.messages
    assert message.startswith("decoding 768x1280 as a whole takes about")
    assert "enable_tiling() it takes about" in message
    caplog.clear()
    own_pipe.vae.enable_tiling()
    warn_of_decoding(own_pipe, (768, 1280))
    assert not caplog.messages
