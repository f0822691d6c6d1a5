"""Linear layers through oneDNN: the same numbers, of every row alone, and only where they are meant."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from pyramid_seed.models.onednn_linear import FEWEST_ROWS, OneDnnLinear, fast_linears
from tests.cases import check_cases

CPU = torch.zeros(1)
SHAPES = [(160, 640), (800, 160), (33, 7)]


@torch.no_grad()
def test_it_is_a_linear_layer():
    def rule(shape, bias):
        layer = nn.Linear(*shape, bias=bias)
        x = torch.randn(2, 50, shape[0])
        with fast_linears(CPU):
            found = layer(x)
        exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-6)

    check_cases(product(SHAPES, [True, False]), rule)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours():
    def rule(shape, rows):
        layer = nn.Linear(*shape)
        x = torch.randn(rows, shape[0])
        with fast_linears(CPU):
            alone, pair = layer(x), layer(torch.stack([x, x.flip(0)]))
            assert torch.equal(pair[0], alone)
            assert torch.equal(pair[1].flip(0), alone)
            assert torch.equal(layer(x[:FEWEST_ROWS]), alone[:FEWEST_ROWS])

    check_cases(product(SHAPES, [16, 17, 100, 333]), rule)


@torch.no_grad()
def test_what_is_not_meant_is_left_to_torch():
    class Special(torch.Tensor):
        pass

    layer, few = nn.Linear(64, 64), torch.randn(FEWEST_ROWS - 1, 64)
    half = nn.Linear(64, 64).bfloat16()
    special = torch.randn(64, 64).as_subclass(Special)
    x = torch.randn(40, 64)
    expected = [layer(few), half(x.bfloat16()), F.linear(x, special)]
    with OneDnnLinear():
        actual = [layer(few), half(x.bfloat16()), F.linear(x, special)]
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert type(ours) is type(theirs)


def test_nothing_is_done_with_gradients_or_elsewhere():
    assert not isinstance(fast_linears(CPU), OneDnnLinear)
    with torch.no_grad():
        assert isinstance(fast_linears(CPU), OneDnnLinear)
        assert not isinstance(fast_linears(CPU.bfloat16()), OneDnnLinear)
        assert not isinstance(fast_linears(CPU.to("meta")), OneDnnLinear)
