"""Blocks of the autoencoder that run in another way than they are written down."""

from __future__ import annotations

import copy
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from pyramid_seed.models import rounding
from pyramid_seed.models.causal_video_blocks import (
    CausalConv3d,
    CausalUpsample,
    FrameGroupNorm,
    TemporalCache,
    TimeConv3d,
)
from tests.cases import check_cases

LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)


def conv(channels_in, channels_out, kernel=3, stride=(1, 1, 1)) -> tuple[TimeConv3d, nn.Conv3d]:
    """The same weights in both kinds."""
    torch.manual_seed(0)
    space = kernel // 2
    arguments = (channels_in, channels_out, kernel, stride)
    ours, plain = (kind(*arguments, padding=(0, space, space)) for kind in (TimeConv3d, nn.Conv3d))
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@torch.no_grad()
def test_it_is_a_convolution_of_the_clip():
    def rule(kernel, stride, num_frames, channels, batch):
        ours, plain = conv(channels, 6, kernel, stride)
        x = torch.randn(batch, channels, num_frames, 40, 12)
        expected = plain(x)
        for layout in LAYOUTS:
            actual = ours(x.contiguous(memory_format=layout))
            torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)

    strides, channels = [(1, 1, 1), (1, 2, 2), (2, 1, 1)], (4, 64)  # 64 are too much for the slow kernel
    check_cases(product((1, 3), strides, (3, 4, 6, 10), channels, (1, 2)), rule)


@torch.no_grad()
def test_frames_before_the_clip_are_zero():
    def rule(num_empty, num_frames):
        ours, plain = conv(5, 6)
        x = torch.randn(1, 5, num_frames - num_empty, 8, 8)
        expected = plain(F.pad(x, (0, 0, 0, 0, num_empty, 0)))
        torch.testing.assert_close(ours(x, num_empty=num_empty), expected, rtol=0, atol=1e-5)

    check_cases(product((0, 1, 2), (3, 4)), rule)


@torch.no_grad()
def test_an_activation_in_front_changes_no_bit():
    def rule(layout, split):
        module = CausalConv3d(4, 6, kernel_size=3)
        x = torch.randn(1, 4, 9, 16, 16).contiguous(memory_format=layout)
        plain, ours = TemporalCache(), TemporalCache()
        for part in x.split(split, dim=2):
            part = part.contiguous(memory_format=layout)
            expected = module(F.silu(part), plain)
            assert torch.equal(module(part.clone(), ours, after_silu=True), expected)

    check_cases(product(LAYOUTS, ([9], [1, 8], [1, 4, 4], [1, 1, 1, 6])), rule)


def test_gradients_with_an_activation_in_front():
    module = CausalConv3d(4, 6, kernel_size=3)
    x = torch.randn(1, 4, 5, 8, 8)
    actual = []
    for after_silu in (True, False):
        leaf, cache = x.clone().requires_grad_(), TemporalCache()
        parts = [part * 1 if after_silu else F.silu(part) for part in leaf.split([1, 4], dim=2)]
        out = torch.cat([module(part, cache, after_silu=after_silu) for part in parts], dim=2)
        actual.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    torch.testing.assert_close(*actual, rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_convolution():
    for num_frames in (3, 6):
        ours, plain = conv(4, 6)
        x = torch.randn(2, 4, num_frames, 8, 8)
        grads = []
        for module in (ours, plain):
            module(x).square().sum().backward()
            grads.append((module.weight.grad, module.bias.grad))
        for actual, expected in zip(*grads, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
@torch.no_grad()
def test_bfloat16_is_rounded_once_where_the_cpu_has_no_kernels_for_it(monkeypatch):
    monkeypatch.setattr(rounding, "has_bfloat16_kernels", lambda: False)

    def rule(kernel_size, num_frames):
        conv = CausalConv3d(4, 6, kernel_size).bfloat16()
        x = torch.randn(1, 4, num_frames, 6, 8).bfloat16()
        in_float32 = copy.deepcopy(conv).float()(x.float())
        assert torch.equal(conv(x), in_float32.bfloat16())

    check_cases(product([1, 3], [1, 4]), rule)


def test_chunks_of_a_strided_convolution():
    def rule(time):
        module = CausalConv3d(4, 4, kernel_size=3, stride=(time, 2, 2))
        x = torch.randn(1, 4, 9, 8, 8)
        whole = module(x)
        padded = F.pad(x, (1, 1, 1, 1, 2, 0))
        by_definition = F.conv3d(padded, module.conv.weight, module.conv.bias, (time, 2, 2))
        torch.testing.assert_close(whole, by_definition, rtol=0, atol=1e-5)
        cache = TemporalCache()
        parts = [module(part, cache) for part in x.split([1, 4, 4], dim=2)]
        torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=1e-5)

    check_cases([1, 2], rule)


@torch.no_grad()
def test_channels_become_time_and_space_in_every_layout(monkeypatch):
    from pyramid_seed.models import causal_video_blocks as blocks

    module = CausalUpsample(4, (2, 2, 2))
    x = torch.randn(1, 4, 3, 6, 5)
    last = module(x)
    monkeypatch.setattr(blocks, "has_fast_channels_last", lambda x: False)
    first = module(x)
    assert last.shape == first.shape == (1, 4, 5, 12, 10)
    assert first.is_contiguous() or first.stride(-1) == 1
    assert last.stride(1) == 1
    torch.testing.assert_close(last, first, rtol=0, atol=1e-6)


@torch.no_grad()
def test_frames_are_normalised_one_by_one_without_a_copy():
    norm = FrameGroupNorm(2, 4)
    x = torch.randn(1, 4, 3, 6, 5).contiguous(memory_format=torch.channels_last_3d)
    frames = [nn.GroupNorm.forward(norm, frame) for frame in x.unbind(2)]
    actual = norm(x)
    torch.testing.assert_close(actual, torch.stack(frames, dim=2), rtol=0, atol=1e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last_3d)
