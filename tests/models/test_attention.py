"""Attention by the calls of a plan against attention with a mask, and who sees whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb

from pyramid_seed.models import attention_plan as plans
from pyramid_seed.models.attention import (
    PyramidAttnProcessor,
    add_to_last,
    compiled_attention,
    planned_attention,
    rotary_tables,
    rotate,
)
from pyramid_seed.models.attention_plan import attention_plan
from pyramid_seed.models.token_geometry import causal_attention_mask
from tests.cases import check_cases

STOPS = [9, 12, 15, 27, 75]
PADDING = torch.tensor([3, 0])
NO_PADDING = torch.zeros(1, dtype=torch.int64)
NUM_TEXT = 5


@pytest.fixture(params=["prefix", "grouped", "grouped, calls for nothing"])
def plan(request, monkeypatch):
    """The plan of the tokens below: each time alone, all history together, as many calls as may be."""
    if request.param.endswith("nothing"):
        monkeypatch.setattr(plans, "CALL_COST", 0)
        monkeypatch.setattr(plans, "MASKED_PAIRS", 0)
    return attention_plan(STOPS, PADDING, 48, torch.empty(0), grouped=request.param != "prefix")


@pytest.fixture
def tokens():
    """Query, key and value of a guidance pair, (2, 75, 4, 16)."""
    return torch.randn(3, 2, 75, 4, 16, generator=torch.Generator().manual_seed(0)).unbind()


def attended(tokens, plan, **options):
    return planned_attention(*tokens, plan.calls, **options)


def dense_mask():
    text_mask = torch.arange(NUM_TEXT) >= PADDING[:, None]
    times = torch.searchsorted(torch.tensor(STOPS), torch.arange(NUM_TEXT, 75), right=True)
    return causal_attention_mask(text_mask, times)


def without_padding(attended):
    """(2, 75, 4, 16) with zeros where nobody reads."""
    return attended.masked_fill((torch.arange(75) < PADDING[:, None])[..., None, None], 0)


def test_it_is_attention_with_the_dense_mask(tokens, plan):
    dense = without_padding(dispatch_attention_fn(*tokens, attn_mask=dense_mask()))
    assert (without_padding(attended(tokens, plan)) - dense).norm() <= 1e-6 * dense.norm()


def test_gradients_are_those_of_the_dense_mask(tokens, plan):
    weights = without_padding(torch.randn(2, 75, 4, 16, generator=torch.Generator().manual_seed(1)))

    def gradients(attend):
        leaves = [values.clone().requires_grad_() for values in tokens]
        return torch.autograd.grad((attend(leaves) * weights).sum(), leaves)

    dense = gradients(lambda leaves: dispatch_attention_fn(*leaves, attn_mask=dense_mask()))
    for actual, expected in zip(gradients(lambda leaves: attended(leaves, plan)), dense, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_what_comes_later_changes_no_bit(tokens, plan):
    before = attended(tokens, plan)

    def rule(first):
        changed = [torch.cat([each[:, :first], each[:, first:] + 1], dim=1) for each in tokens]
        assert torch.equal(attended(changed, plan)[:, :first], before[:, :first])
        assert not torch.equal(attended(changed, plan)[:, first:], before[:, first:])

    check_cases(STOPS[:-1], rule)


def test_padding_is_finite_and_changes_no_bit(tokens, plan):
    changed = [values.clone() for values in tokens]
    for values in changed:
        values[0, : PADDING[0]] = 1e4
    assert torch.equal(without_padding(attended(changed, plan)), without_padding(attended(tokens, plan)))
    assert attended(changed, plan).isfinite().all()


def test_less_padding_changes_no_bit_where_a_sample_has_its_own_call(tokens, plan):
    alone = [values[:1, PADDING[0] :].contiguous() for values in tokens]
    shorter = [stop - int(PADDING[0]) for stop in STOPS]
    unpadded = attention_plan(shorter, NO_PADDING, 48, torch.empty(0), grouped=True)
    expected, actual = attended(tokens, plan)[:1, -48:], attended(alone, unpadded)[:, -48:]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    has_own_call = plan.calls[-1].mask is None
    assert torch.equal(actual, expected) or not has_own_call


def test_the_last_queries_alone(tokens, plan):
    def rule(num_queries):
        query, key, value = tokens
        last = attended((query[:, -num_queries:], key, value), plan)
        torch.testing.assert_close(last, attended(tokens, plan)[:, -num_queries:], rtol=0, atol=1e-6)

    check_cases([1, 48, 50, 60, 63], rule)


def test_values_go_where_they_are_wanted(tokens, plan):
    wide = torch.full((2, 75, 100), torch.nan)
    out = wide[..., 20:84].unflatten(2, (4, 16))
    assert planned_attention(*tokens, plan.calls, out=out) is out
    assert torch.equal(out, attended(tokens, plan))
    assert wide[..., :20].isnan().all()
    assert wide[..., 84:].isnan().all()


def test_the_operation_of_compiled_code(tokens, plan):
    assert torch.equal(compiled_attention(*tokens, plan.marks, PADDING, None), attended(tokens, plan))
    torch.library.opcheck(compiled_attention, (*tokens, plan.marks, PADDING, None))


def test_a_backend_by_its_name(tokens, plan):
    torch.testing.assert_close(
        attended(tokens, plan, backend="_native_math"), attended(tokens, plan), rtol=0, atol=1e-5
    )


def test_rotation_is_that_of_diffusers(tokens):
    def rule(dtype):
        angles = torch.randn(75, 8, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, dim=1)
        query, rotary = tokens[0].to(dtype), rotary_tables(angles.cos(), angles.sin())
        expected = apply_rotary_emb(query, (rotary.cos, rotary.sin), sequence_dim=1)
        assert expected.dtype == dtype
        torch.testing.assert_close(rotate(query, rotary), expected)

    check_cases([torch.float32, torch.bfloat16], rule)


def test_last_queries_are_rotated_by_the_last_positions(tokens, plan):
    query, key, value = tokens
    angles = torch.randn(75, 8, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, dim=1)
    rotary, attend = rotary_tables(angles.cos(), angles.sin()), PyramidAttnProcessor().attend
    last = attend(query[:, -48:].contiguous(), key, value, plan, rotary)
    assert last.shape == (2, 48, 64)
    torch.testing.assert_close(last, attend(query, key, value, plan, rotary)[:, -48:], rtol=0, atol=1e-6)


def test_add_to_last():
    result = add_to_last(torch.zeros(2, 5, 3), torch.ones(2, 2, 3))
    assert torch.equal(result, F.pad(torch.ones(2, 2, 3), (0, 0, 3, 0)))
    assert torch.equal(add_to_last(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)), torch.ones(2, 2, 3))
