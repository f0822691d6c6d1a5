"""Linear layers through oneDNN: the same numbers, of every row alone, and only where they are meant."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyramid_seed import private_apis
from pyramid_seed.models import onednn_linear, rounding
from pyramid_seed.models.onednn_linear import (
    FEWEST_ROWS,
    OneDnnLinear,
    fast_linears,
    use_onednn,
)
from tests.cases import check_cases

CPU = torch.zeros(1)
SHAPES = [(160, 640), (800, 160), (33, 7)]


@torch.no_grad()
def test_it_is_a_linear_layer():
    def rule(shape, bias):
        layer = OneDnnLinear(*shape, bias=bias)
        x = torch.randn(2, 50, shape[0])
        with fast_linears(CPU):
            found = layer(x)
        exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-6)

    check_cases(product(SHAPES, [True, False]), rule)


@torch.no_grad()
@pytest.mark.usefixtures("onednn")
def test_a_row_does_not_depend_on_its_neighbours():
    def rule(shape, rows):
        layer = OneDnnLinear(*shape)
        x = torch.randn(rows, shape[0])
        with fast_linears(CPU):
            alone, pair = layer(x), layer(torch.stack([x, x.flip(0)]))
            assert torch.equal(pair[0], alone)
            assert torch.equal(pair[1].flip(0), alone)
            assert torch.equal(layer(x[:FEWEST_ROWS]), alone[:FEWEST_ROWS])

    check_cases(product(SHAPES, [16, 17, 100, 333]), rule)


@torch.no_grad()
def test_where_rows_depend_on_their_number_torch_multiplies(monkeypatch):
    def rounds_otherwise_by_rows(x, weight, bias):
        return F.linear(x, weight, bias) + x.shape[:-1].numel() * 1e-6

    def rounds_otherwise_by_place(x, weight, bias):
        product = F.linear(x, weight, bias)
        return product + 1e-6 * torch.arange(product.shape[-2])[:, None]

    def rule(kernel):
        monkeypatch.setattr(onednn_linear, "onednn_linear", kernel)
        layer, x = OneDnnLinear(64, 64), torch.randn(40, 64)
        with fast_linears(CPU):
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))

    check_cases([rounds_otherwise_by_rows, rounds_otherwise_by_place], rule)


@pytest.fixture
def kernels(monkeypatch):
    """Outputs of oneDNN's kernel, as it is called."""
    made, kernel = [], private_apis.onednn_linear

    def counted(*args):
        made.append(kernel(*args))
        return made[-1]

    monkeypatch.setattr(onednn_linear, "onednn_linear", counted)
    monkeypatch.setattr(onednn_linear, "rows_are_independent", lambda *_: True)
    return made


@torch.no_grad()
def test_what_is_not_meant_is_left_to_torch(kernels):
    class Special(torch.Tensor):
        pass

    layer, x = OneDnnLinear(64, 64), torch.randn(40, 64)
    half, special = OneDnnLinear(64, 64).bfloat16(), OneDnnLinear(64, 64)
    special.weight = nn.Parameter(torch.randn(64, 64).as_subclass(Special))
    with fast_linears(CPU):
        for other, values in ((layer, x[: FEWEST_ROWS - 1]), (half, x.bfloat16()), (special, x)):
            assert torch.equal(other(values), F.linear(values, other.weight, other.bias))
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert not kernels
    with fast_linears(CPU):
        layer(x)
    assert len(kernels) == 1


def test_nothing_is_done_with_gradients_or_elsewhere(kernels):
    layer, x = OneDnnLinear(64, 64), torch.randn(40, 64)

    def num_kernels(latents):
        kernels.clear()
        with fast_linears(latents):
            layer(x)
        return len(kernels)

    assert num_kernels(CPU) == 0
    with torch.no_grad():
        assert [num_kernels(latents) for latents in (CPU, CPU.bfloat16(), CPU.to("meta"))] == [1, 0, 0]


def test_plain_linear_layers_alone_are_changed():
    class Special(nn.Linear):
        pass

    model = nn.ModuleDict({"plain": nn.Linear(2, 2), "special": Special(2, 2), "norm": nn.LayerNorm(2)})
    weights = [*model.parameters()]
    use_onednn(model)
    assert [type(module) for module in model.values()] == [OneDnnLinear, Special, nn.LayerNorm]
    assert all(a is b for a, b in zip(weights, model.parameters(), strict=True))


@pytest.mark.slow
def test_a_process_keeps_few_kernels():
    """In a process of its own: both caches are made when they are first used, whatever was set by then."""
    code = """
import ctypes, torch
from pyramid_seed.models.onednn_linear import OneDnnLinear, fast_linears

class Heap(ctypes.Structure):
    _fields_ = [(f"f{number}", ctypes.c_size_t) for number in range(10)]

libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype = Heap
used = lambda: libc.mallinfo2().f7 + libc.mallinfo2().f4
torch.set_num_threads(1)
layer, x = OneDnnLinear(160, 640), torch.randn(900, 160)
with torch.no_grad(), fast_linears(x):
    marks = []
    for rows in range(20, 740):
        layer(x[:rows].contiguous())
        if rows in (219, 739):
            marks.append(used())
print((marks[1] - marks[0]) / 520)
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert float(done.stdout) < 20_000, "bytes per further number of rows: 280,000 with torch's caches"


@torch.no_grad()
def test_bfloat16_is_computed_in_float32_where_the_cpu_has_no_kernels_for_it(monkeypatch, kernels):
    layer, x = OneDnnLinear(64, 64).bfloat16(), torch.randn(40, 64).bfloat16()
    for has_kernels in (True, False):
        monkeypatch.setattr(rounding, "has_bfloat16_kernels", lambda has=has_kernels: has)
        with fast_linears(x):
            found = layer(x)
        assert len(kernels) == (not has_kernels)
    assert torch.equal(found, kernels[0].bfloat16())
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(kernels[0].double(), exact, rtol=0, atol=5e-6)
