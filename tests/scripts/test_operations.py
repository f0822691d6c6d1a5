"""What a step asks of a device, held: few operations, no waiting, nothing on the wrong device."""

from __future__ import annotations

import pytest
import torch
from benchmarks.operations import META, DeviceOperations, unit_operations

from pyramid_seed import (
    AutoencoderKLCausalVideo,
    PyramidFluxTransformer3DModel,
    PyramidSD3Transformer3DModel,
)

SMALL = {"num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 8}
MODELS = {
    "miniflux": (PyramidFluxTransformer3DModel, {**SMALL, "num_layers": 1, "num_single_layers": 2}, 240),
    "sd3": (PyramidSD3Transformer3DModel, {**SMALL, "num_layers": 2, "pos_embed_max_size": 64}, 240),
}
"""Class, its smallest config of published structure, and the most operations of a step."""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["miniflux", pytest.param("sd3", marks=pytest.mark.slow)])
def test_a_step_asks_for_little_and_waits_for_nothing(family):
    """At 384p, on the meta device, which no tensor of the CPU may meet."""
    model_class, config, most_operations = MODELS[family]
    with META:
        transformer = model_class(**config).eval()
    steps = {}
    for unit in (1, 30):
        steps[unit], whole = unit_operations(transformer, 384, 640, unit)
        assert whole.read_back == 1, "whether all steps were finite, at the end of a unit"
        assert [(step.sent, step.read_back) for step in steps[unit]] == [(0, 0)] * 3
    for stage in range(3):
        assert steps[30][stage].attention <= 2 * steps[1][stage].attention
        assert steps[30][stage].operations <= most_operations


@torch.no_grad()
def test_the_decoder_reads_nothing_back_and_stays_on_its_device():
    with META:
        vae = AutoencoderKLCausalVideo(
            encoder_block_out_channels=(4, 4, 4, 4),
            decoder_block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
        ).eval()
    decode = vae.chunk_decoder()
    latents = torch.empty(1, 16, 1, 8, 8, device=META)
    with DeviceOperations() as mode:
        shapes = [tuple(decode(latents, is_last=is_last).shape) for is_last in (False, True)]
    assert shapes == [(1, 3, 1, 64, 64), (1, 3, 8, 64, 64)]
    assert (mode.counts().sent, mode.counts().read_back) == (0, 0)
