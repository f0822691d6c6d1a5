"""Attention by prefixes against attention with a mask, and who sees whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb

from pyramid_seed.models.attention import (
    PyramidAttnProcessor,
    add_to_last,
    compiled_attention,
    prefix_attention,
    prefix_plan,
    rotate,
)
from pyramid_seed.models.token_geometry import causal_attention_mask
from tests.cases import check_cases

STOPS = torch.tensor([9, 12, 15, 27, 75])
PADDING = torch.tensor([3, 0])
NUM_TEXT = 5


@pytest.fixture
def tokens():
    """Query, key and value of a guidance pair, (2, 75, 4, 16)."""
    return torch.randn(3, 2, 75, 4, 16, generator=torch.Generator().manual_seed(0)).unbind()


def attended(tokens, padding=PADDING, **options):
    return prefix_attention(*tokens, STOPS, padding, **options)


def dense_mask():
    text_mask = torch.arange(NUM_TEXT) >= PADDING[:, None]
    times = torch.searchsorted(STOPS, torch.arange(NUM_TEXT, 75), right=True)
    return causal_attention_mask(text_mask, times)


def test_it_is_attention_with_the_dense_mask(tokens):
    dense = dispatch_attention_fn(*tokens, attn_mask=dense_mask())
    dense[0, : PADDING[0]] = 0
    assert (attended(tokens) - dense).norm() <= 1e-6 * dense.norm()


def test_gradients_are_those_of_the_dense_mask(tokens):
    weights = torch.randn(2, 75, 4, 16, generator=torch.Generator().manual_seed(1))
    weights[0, : PADDING[0]] = 0

    def gradients(attend):
        leaves = [values.clone().requires_grad_() for values in tokens]
        return torch.autograd.grad((attend(leaves) * weights).sum(), leaves)

    dense = gradients(lambda leaves: dispatch_attention_fn(*leaves, attn_mask=dense_mask()))
    for actual, expected in zip(gradients(attended), dense, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_what_comes_later_changes_no_bit(tokens):
    def rule(first):
        changed = [torch.cat([each[:, :first], each[:, first:] + 1], dim=1) for each in tokens]
        assert torch.equal(attended(changed)[:, :first], attended(tokens)[:, :first])
        assert not torch.equal(attended(changed)[:, first:], attended(tokens)[:, first:])

    check_cases(STOPS[:-1].tolist(), rule)


def test_padding_is_zero_and_changes_no_bit(tokens):
    changed = [values.clone() for values in tokens]
    for values in changed:
        values[0, : PADDING[0]] = 1e4
    assert torch.equal(attended(changed), attended(tokens))
    assert not attended(tokens)[0, : PADDING[0]].any()


def test_less_padding_changes_no_bit(tokens):
    alone = [values[:1, PADDING[0] :].contiguous() for values in tokens]
    result = prefix_attention(*alone, STOPS - PADDING[0], torch.zeros(1, dtype=torch.int64))
    assert torch.equal(result, attended(tokens)[:1, PADDING[0] :])


def test_the_last_queries_alone(tokens):
    def rule(num_queries):
        query, key, value = tokens
        last = attended((query[:, -num_queries:], key, value))
        torch.testing.assert_close(last, attended(tokens)[:, -num_queries:], rtol=0, atol=1e-6)

    check_cases([1, 48, 50, 70, 75], rule)


def test_the_operation_of_compiled_code(tokens):
    plan = prefix_plan(STOPS.tolist(), PADDING, 48)
    assert torch.equal(plan.stops, STOPS)
    assert torch.equal(compiled_attention(*tokens, plan.is_stop, PADDING, None), attended(tokens))
    torch.library.opcheck(compiled_attention, (*tokens, plan.is_stop, PADDING, None))


def test_a_backend_by_its_name(tokens):
    torch.testing.assert_close(attended(tokens, backend="_native_math"), attended(tokens), rtol=0, atol=1e-5)


def test_rotation_is_that_of_diffusers(tokens):
    def rule(dtype):
        angles = torch.randn(75, 8, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, dim=1)
        query, rotary = tokens[0].to(dtype), (angles.cos(), angles.sin())
        expected = apply_rotary_emb(query, rotary, sequence_dim=1)
        assert expected.dtype == dtype
        torch.testing.assert_close(rotate(query, rotary), expected)

    check_cases([torch.float32, torch.bfloat16], rule)


def test_last_queries_are_rotated_by_the_last_positions(tokens):
    query, key, value = tokens
    angles = torch.randn(75, 8, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, dim=1)
    plan, rotary = prefix_plan(STOPS.tolist(), PADDING, 48), (angles.cos(), angles.sin())
    attend = PyramidAttnProcessor().attend
    last = attend(query[:, -48:].contiguous(), key, value, plan, rotary)
    assert last.shape == (2, 48, 64)
    torch.testing.assert_close(last, attend(query, key, value, plan, rotary)[:, -48:], rtol=0, atol=1e-6)


def test_add_to_last():
    result = add_to_last(torch.zeros(2, 5, 3), torch.ones(2, 2, 3))
    assert torch.equal(result, F.pad(torch.ones(2, 2, 3), (0, 0, 3, 0)))
    assert torch.equal(add_to_last(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)), torch.ones(2, 2, 3))
