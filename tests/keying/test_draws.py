"""Every way to draw is seen, with its place, also out of compiled code."""

from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from pyramid_seed.keying.answers import KeyedDraws
from pyramid_seed.keying.draws import RANDOM, answered, global_states

# Operators with no function of their own: parts of others, for other devices, or attention without dropout.
NOT_CALLED_BY_NAME = {
    "_cudnn_init_dropout_state", "_fill_mem_eff_dropout_mask_", "_fused_dropout", "_fused_sdp_choice",
    "_nested_tensor_softmax_with_shape", "_sample_dirichlet", "_standard_gamma", "normal_functional",
    "native_dropout", "rrelu_with_noise", "rrelu_with_noise_", "rrelu_with_noise_functional",
    # functional forms, made by compilers
    "cauchy", "exponential", "geometric", "log_normal", "random", "uniform",
    # recurrent layers, which no pipeline has; what they draw in training is noticed as unseen
    "gru", "lstm", "rnn_relu", "rnn_tanh", "_cudnn_rnn", "_lstm_mps", "miopen_rnn",
}  # fmt: skip


def test_every_operator_that_torch_calls_random_is_known():
    """torch marks them: a new one must be answered, refused, or named here."""
    marked = {
        schema.name.removeprefix("aten::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::")
        and torch.Tag.nondeterministic_seeded
        in getattr(getattr(torch.ops.aten, schema.name[6:]), schema.overload_name or "default").tags
    }
    known = {function.__name__ for function in RANDOM} | NOT_CALLED_BY_NAME
    unknown = {name for name in marked - known if "attention" not in name}
    assert unknown == set()
    assert len(marked) > 50


def test_the_place_is_that_of_the_code_that_asks():
    line = inspect.currentframe().f_lineno
    draws = KeyedDraws(0)
    with answered(draws):
        torch.rand(1)
        randn_tensor((2, 1), generator=[torch.Generator(), torch.Generator()])
        nn.init.trunc_normal_(torch.empty(3))
        np.random.rand()
        random.choice([1, 2])
    sites = [row.site for row in draws.ledger]
    assert [site.line - line for site in sites] == [3, 4, 4, 5, 6, 7]
    file = "tests/keying/test_draws.py"
    function = "test_the_place_is_that_of_the_code_that_asks"
    assert {(site.file, site.function) for site in sites} == {(file, function)}
    assert str(sites[0]) == f"{file}:{line + 3} ({function})"


def test_global_generators_are_read_by_nobody():
    before = global_states()
    with answered(KeyedDraws(0)):
        torch.rand(1), torch.zeros(1).normal_(), np.random.rand(), random.random()
    assert global_states() == before
    torch.rand(1)
    assert global_states() != before


class _Noisy(nn.Module):
    """Draws in the middle of what can be compiled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cos(x) + torch.randn(3)
        x = nn.functional.dropout(x, 0.5, self.training) * torch.rand(3)
        return torch.sin(x)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_code_is_answered_as_other_code_is(backend):
    """Also if it was compiled before, when nobody asked."""
    torch.compiler.reset()
    plain, x = _Noisy().eval(), torch.ones(3)
    compiled = torch.compile(plain, backend=backend)
    compiled(x)
    made, ledgers = [], []
    for model in (plain, compiled, compiled):
        draws = KeyedDraws(5)
        with answered(draws), torch.no_grad():
            made.append(model(x))
        ledgers.append(draws.ledger)
    assert [row.name for row in ledgers[0]] == ["randn", "rand"]
    assert ledgers[0] == ledgers[1] == ledgers[2]
    torch.testing.assert_close(made[1], made[0])
    assert torch.equal(made[1], made[2])


@pytest.mark.slow
def test_compiled_flex_attention_passes():
    """A mode that looks at operators, and not at functions, is refused by it."""
    torch.compiler.reset()
    x = torch.ones(1, 1, 128, 16)
    attention = torch.compile(flex_attention)
    with torch.no_grad():
        expected = attention(x, x, x)
        with answered(KeyedDraws(0)):
            assert torch.equal(attention(x, x, x), expected)
