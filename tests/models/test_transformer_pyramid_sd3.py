"""What only the SD3 transformer has; the rest is in test_pyramid_transformers.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import PatchEmbed

from pyramid_seed.models.transformer_pyramid_sd3 import PyramidPatchEmbed, PyramidSD3Transformer3DModel

TINY = {
    "sample_size": 16,
    "in_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 12,
}


@pytest.fixture
def pos_embed():
    torch.manual_seed(0)
    settings = {"height": 16, "width": 16, "patch_size": 2, "in_channels": 4, "embed_dim": 16}
    return PyramidPatchEmbed(**settings, pos_embed_max_size=12).requires_grad_(False)


def positions_only(pos_embed, clips):
    pos_embed.proj.weight.zero_()
    pos_embed.proj.bias.zero_()
    return pos_embed(clips, clips[-1].shape[-2:])


def test_one_image_is_embedded_as_in_sd3(pos_embed):
    latents = torch.randn(2, 4, 1, 8, 12)
    sd3 = PatchEmbed.forward(pos_embed, latents[:, :, 0])
    assert torch.equal(pos_embed([latents], (8, 12)), sd3)


def test_frames_of_a_clip_are_embedded_one_after_the_other(pos_embed):
    latents = torch.randn(2, 4, 3, 8, 12)
    tokens = pos_embed([latents], (8, 12))
    frames = [pos_embed([latents[:, :, frame : frame + 1]], (8, 12)) for frame in range(3)]
    torch.testing.assert_close(tokens, torch.cat(frames, dim=1), rtol=0, atol=1e-6)


def test_positions_are_the_middle_of_the_grid(pos_embed):
    tokens = positions_only(pos_embed, [torch.zeros(1, 4, 1, 8, 12)])
    grid = pos_embed.pos_embed.reshape(12, 12, 16)
    assert torch.equal(tokens[0], grid[4:8, 3:9].reshape(-1, 16))


def test_half_sized_history_stands_at_the_mean_of_the_positions_that_it_covers(pos_embed):
    tokens = positions_only(pos_embed, [torch.zeros(1, 4, 2, 4, 8), torch.zeros(1, 4, 1, 8, 16)])
    grid = pos_embed.pos_embed.reshape(12, 12, 16)[4:8, 2:10]
    means = F.avg_pool2d(grid.permute(2, 0, 1)[None], 2).flatten(2)[0].T
    torch.testing.assert_close(tokens[0, :8], means, rtol=0, atol=1e-6)
    assert torch.equal(tokens[0, 8:16], tokens[0, :8])
    assert torch.equal(tokens[0, 16:], grid.reshape(-1, 16))


def test_an_image_larger_than_the_grid(pos_embed):
    with pytest.raises(ValueError, match=r"at most 24 .* got 8 x 26; use 8 x 24"):
        pos_embed([torch.zeros(1, 4, 1, 8, 26)], (8, 26))


def test_text_and_the_first_frame_are_not_rotated():
    model = PyramidSD3Transformer3DModel(**TINY)
    cos, sin = model.time_rope(torch.tensor([[0.0], [1.0]]))
    assert cos.shape == sin.shape == (2, 8)
    assert torch.equal(cos[0], torch.ones(8))
    assert torch.equal(sin[0], torch.zeros(8))
    angles = 10000.0 ** -(torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    torch.testing.assert_close(cos[1], angles.cos().repeat_interleave(2).float(), rtol=0, atol=1e-7)


def test_query_and_key_norms_of_the_published_model():
    """1e-6, as diffusers has it in its SD3 blocks, would pass the reference vectors' tolerance by half."""
    for block in PyramidSD3Transformer3DModel(**TINY).transformer_blocks:
        attn = block.attn
        assert {norm.eps for norm in (attn.norm_q, attn.norm_k, attn.norm_add_q, attn.norm_add_k)} == {1e-5}


def test_odd_head_width():
    with pytest.raises(ValueError, match="attention_head_dim must be even, got 7; use 6 or 8"):
        PyramidSD3Transformer3DModel(**{**TINY, "attention_head_dim": 7})
