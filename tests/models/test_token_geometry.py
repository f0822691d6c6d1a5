from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyramid_seed.models.token_geometry import (
    causal_attention_mask,
    check_clips,
    frame_stops,
    interpolated_positions,
    pack_latents,
    text_without_padding,
    unpack_latents,
    video_positions,
)
from tests.cases import check_cases


def clip(frames, height, width):
    return torch.zeros(1, 1, frames, height, width)


def test_pack_and_unpack_are_inverse():
    def rule(patch_size):
        latents = torch.arange(2 * 3 * 2 * 4 * 8.0).reshape(2, 3, 2, 4, 8)
        tokens = pack_latents(latents, patch_size)
        assert tokens.shape == (2, 2 * 4 * 8 // patch_size**2, 3 * patch_size**2)
        assert torch.equal(unpack_latents(tokens, patch_size, 2, 4, 8), latents)

    check_cases([1, 2, 4], rule)


def test_order_inside_and_of_tokens():
    frames, channels, height, width = 2, 3, 4, 6
    latents = torch.arange(frames * channels * height * width).reshape(1, channels, frames, height, width)
    tokens = pack_latents(latents, 2)
    for frame, row, column in [(0, 0, 0), (0, 1, 2), (1, 0, 1)]:
        token = tokens[0, (frame * 2 + row) * 3 + column].reshape(2, 2, channels)
        patch = latents[0, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(token, patch.permute(1, 2, 0))


def test_positions_are_the_centres_of_the_cells_that_they_cover():
    def rule(length):
        cell = 16 // length
        expected = torch.arange(length) * cell + (cell - 1) / 2
        torch.testing.assert_close(interpolated_positions(length, 16), expected.float(), rtol=0, atol=0)

    check_cases([1, 2, 4, 8, 16], rule)


def test_video_positions():
    positions = video_positions([clip(2, 2, 4), clip(1, 4, 8)], patch_size=2)
    expected = [
        *((0, 0.5, 0.5), (0, 0.5, 2.5), (1, 0.5, 0.5), (1, 0.5, 2.5)),
        *((2, row, column) for row in range(2) for column in range(4)),
    ]
    assert positions.dtype == torch.float32
    assert torch.equal(positions, torch.tensor(expected, dtype=torch.float32))


def test_video_positions_without_history():
    assert torch.equal(video_positions([clip(1, 2, 2)], patch_size=2), torch.zeros(1, 3))


def test_mask_is_what_its_docstring_says():
    text_mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    video_times = torch.tensor([0.0, 0.0, 1.0, 2.0])
    mask = causal_attention_mask(text_mask, video_times)
    times = [0, 0, 0, 0, 0, 1, 2]
    assert mask.shape == (2, 1, 7, 7)
    assert mask.dtype == torch.bool
    for sample in range(2):
        real = [*text_mask[sample].bool().tolist(), *[True] * 4]
        for query in range(7):
            for key in range(7):
                allowed = real[query] == real[key] and times[key] <= times[query]
                assert mask[sample, 0, query, key] == allowed


def test_mask_takes_any_dtype_of_the_text_mask():
    def rule(dtype):
        text_mask = torch.tensor([[1, 1, 0]])
        times = torch.tensor([0.0, 1.0])
        assert torch.equal(
            causal_attention_mask(text_mask.to(dtype), times), causal_attention_mask(text_mask, times)
        )

    check_cases([torch.bool, torch.int64, torch.float32], rule)


def test_every_token_attends_to_something():
    """A row without a key would be NaN in some attention kernels."""
    mask = causal_attention_mask(torch.tensor([[0, 0], [1, 0]]), torch.tensor([0.0, 1.0]))
    assert mask.any(dim=-1).all()


def test_more_padding_leaves_the_rest_of_the_mask():
    text_mask, times = torch.tensor([[1, 0]]), torch.tensor([0.0, 1.0])
    longer = causal_attention_mask(F.pad(text_mask, (0, 3)), times)
    keep = [0, 1, 5, 6]
    assert torch.equal(longer[:, :, keep][..., keep], causal_attention_mask(text_mask, times))


def test_check_clips_accepts_what_patches_fit():
    check_clips([clip(1, 2, 4), clip(3, 4, 8)], patch_size=2)


def test_check_clips_refuses_the_rest():
    def rule(height, width, advice):
        with pytest.raises(ValueError, match=f"multiples of patch_size 2, {advice}"):
            check_clips([clip(1, 4, 4), clip(1, height, width)], patch_size=2)

    check_cases([(3, 4, "got 3 x 4; use 4 x 4"), (4, 5, "got 4 x 5; use 4 x 6")], rule)


def test_frame_stops():
    assert frame_stops([clip(2, 2, 4), clip(1, 4, 8)], patch_size=2) == [2, 4, 12]


def test_text_is_cut_to_the_longest_and_stands_last():
    text = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0]])
    cut, padding = text_without_padding(text, mask)
    assert padding.tolist() == [0, 1]
    assert torch.equal(cut[0], text[0, :3])
    assert torch.equal(cut[1, 1:], text[1, [0, 2]])


def test_no_text_at_all():
    def rule(mask):
        cut, padding = text_without_padding(torch.ones(2, mask.shape[1], 4), mask)
        assert cut.shape == (2, 0, 4)
        assert padding.tolist() == [0, 0]

    check_cases([torch.zeros(2, 3), torch.zeros(2, 0)], rule)
