"""Every value is a function of root seed, library and ordinal, and of nothing else."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyramid_seed.keying import answers
from pyramid_seed.keying.answers import KeyedDraws, derive_seed
from pyramid_seed.keying.draws import answered
from tests.cases import check_cases

ROOT = Path(__file__).resolve().parents[2]


def drawn(*draws, root=7):
    """The values of some draws in a row."""
    with answered(KeyedDraws(root)):
        return [draw() for draw in draws]


def reference(ordinal: int, shape, root=7) -> torch.Tensor:
    """Standard normal float64 values of a draw, from its address alone."""
    text = f"pyramid-seed/keyed-v1/{root}/torch/{ordinal}"
    seed = int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "little")
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_seeds_of_addresses():
    """The scheme never changes."""
    vectors = {
        (0, "torch", 0): 462650732797702452,
        (7, "torch", 1): 13616229646551700962,
        (2**64 - 1, "numpy", 12): 10454081167059771472,
        (7, "python", 0): 14499490951400094485,
    }
    assert {address: derive_seed(*address) for address in vectors} == vectors


def test_first_values_of_a_root():
    """As above, with what torch, NumPy and Python make of the seeds."""
    values = drawn(
        lambda: torch.randn(2, dtype=torch.float64).tolist(),
        lambda: torch.rand(2, dtype=torch.float64).tolist(),
        lambda: torch.randint(1000, (3,)).tolist(),
        lambda: np.random.rand(),
        lambda: random.random(),
    )
    assert values == [
        [-0.5937651971504542, 0.7873283081015001],
        [0.4920708322829592, 0.2836558939030811],
        [954, 14, 111],
        0.6131230361126729,
        0.30995812854496985,
    ]


def digests_of_every_kind() -> list[str]:
    """Of enough values that instruction sets would show."""
    draws = KeyedDraws(7)
    x = torch.arange(1, 10_001) / 2**14  # exact, so that nothing but the draws can differ
    with answered(draws):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.complex64):
            torch.randn(10_001, dtype=dtype), torch.rand(10_001, dtype=dtype)
        torch.randn_like(x), torch.rand_like(x), x.clone().normal_(2.1, 3.3), x.clone().uniform_(-1.3, 1.7)
        torch.randint(10**9, x.shape), torch.randint_like(x, 999), x.clone().random_(), torch.randperm(10_001)
        torch.zeros(9).double().uniform_(-1.3, 1.7), torch.normal(2.1, 3.3, (9,), dtype=torch.float64)
        torch.normal(x, x), torch.bernoulli(x), torch.multinomial(x, 10_000, replacement=True)
        np.random.rand(10_000), np.random.randint(10**9, size=10_000), random.random()
    return [row.sha256 for row in draws.ledger]


@pytest.mark.slow
def test_other_instruction_sets_draw_the_same():
    """In float32, two in five values of the plainest of them would have other last bits."""
    code = "from tests.keying.test_answers import *; print(*digests_of_every_kind())"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == digests_of_every_kind(), done.stderr


def test_normal_values_in_every_way_of_asking():
    shape = (3, 4)
    like, there = torch.zeros(shape), torch.ones(shape)
    ways = {
        "randn": lambda: torch.randn(3, 4),
        "a tuple": lambda: torch.randn(shape),
        "size": lambda: torch.randn(size=shape),
        "randn_like": lambda: torch.randn_like(like),
        "of another layout": lambda: torch.randn_like(torch.zeros(4, 3).t()),
        "normal_": lambda: there.normal_(),
        "normal": lambda: torch.normal(torch.zeros(shape), torch.ones(shape)),
        "of numbers": lambda: torch.normal(0.0, 1.0, shape),
        "out": lambda: torch.randn(shape, out=torch.empty(0)),
        "a generator": lambda: torch.randn(shape, generator=torch.Generator().manual_seed(3)),
    }

    def rule(way):
        (values,) = drawn(way)
        assert torch.equal(values, reference(0, shape).float())

    check_cases({name: (way,) for name, way in ways.items()}, rule)
    _, second = drawn(lambda: torch.rand(5), lambda: torch.randn(3, 4, dtype=torch.bfloat16))
    assert torch.equal(second, reference(1, shape).bfloat16())
    expected = (5 + 2 * reference(0, shape)).float()
    scaled = {
        "normal_": lambda: torch.zeros(shape).normal_(5, std=2),
        "normal": lambda: torch.normal(5.0, 2.0, shape),
        "size": lambda: torch.normal(mean=5.0, std=2.0, size=shape),
        "a tensor": lambda: torch.normal(torch.full((4,), 5.0), torch.full((3, 1), 2.0)),
        "a tensor of means": lambda: torch.normal(torch.full(shape, 5.0), 2.0),
        "a tensor of deviations": lambda: torch.normal(5.0, torch.full(shape, 2.0)),
        "by name": lambda: torch.normal(mean=torch.full(shape, 5.0), std=torch.full(shape, 2.0)),
    }
    check_cases(
        {name: (way,) for name, way in scaled.items()},
        lambda way: torch.testing.assert_close(drawn(way)[0], expected, rtol=0, atol=0),
    )


def test_values_lie_where_and_how_they_were_asked_for():
    template = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    like, meta, leaf = drawn(
        lambda: torch.randn_like(template, dtype=torch.float16),
        lambda: torch.randn(2, device="meta"),
        lambda: torch.randn(2, requires_grad=True),
    )
    assert like.stride() == template.stride()
    assert like.dtype == torch.float16
    assert meta.is_meta
    assert leaf.is_leaf
    assert leaf.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_uniform_values_stay_below_the_end_of_their_interval(dtype):
    """Rounded to the nearest, one in 2 ** 9 of bfloat16 would be 1."""
    count = 20_000
    unit, like, wide = drawn(
        lambda: torch.rand(count, dtype=dtype),
        lambda: torch.rand_like(torch.empty(count, dtype=dtype)),
        lambda: torch.empty(count, dtype=dtype).uniform_(-2, to=6),
    )
    for values, low, high in ((unit, 0, 1), (like, 0, 1), (wide, -2, 6)):
        assert low <= values.min()
        assert values.max() < high
        assert abs(values.double().mean() - (low + high) / 2) < (high - low) * 0.02


def test_distributions():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    chosen, rows, heads, whole, like, permuted, bounded = drawn(
        lambda: torch.multinomial(weights, 8000, replacement=True),
        lambda: torch.multinomial(weights.expand(5, 4), num_samples=1),
        lambda: torch.bernoulli(torch.full((8000,), 0.25)),
        lambda: torch.randint(2, 5, (8000,)),
        lambda: torch.randint_like(torch.empty(8000), high=4),
        lambda: torch.randperm(50),
        lambda: torch.empty(8000).random_(3, 5),
    )
    counts = chosen.bincount(minlength=4)
    assert counts[0] == counts[3] == 0
    assert abs(counts[2] / counts[1] - 3) < 0.3
    assert rows.shape == (5, 1)
    assert abs(heads.mean() - 0.25) < 0.03
    assert set(whole.tolist()) == {2, 3, 4}
    assert set(like.tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert sorted(permuted.tolist()) == list(range(50))
    assert set(bounded.tolist()) == {3.0, 4.0}


def test_numpy_and_python_are_answered_by_their_own_functions():
    items = list(range(20))
    draws = KeyedDraws(7)
    with answered(draws):
        values = [np.random.normal(3, size=2), np.random.default_rng().random(), random.gauss(0, 1)]
        random.shuffle(items)
        seeded = np.random.default_rng(5).random()
    generator = np.random.RandomState(np.random.MT19937(derive_seed(7, "numpy", 0)))
    assert values[0].tolist() == generator.normal(3, size=2).tolist()
    assert values[1] == np.random.Generator(np.random.PCG64(derive_seed(7, "numpy", 1))).random()
    assert values[2] == random.Random(derive_seed(7, "python", 0)).gauss(0, 1)
    expected = list(range(20))
    random.Random(derive_seed(7, "python", 1)).shuffle(expected)
    assert items == expected
    assert seeded == np.random.default_rng(5).random()
    assert [(row.library, row.ordinal) for row in draws.ledger] == [
        ("numpy", 0), ("numpy", 1), ("python", 0), ("python", 1),
    ]  # fmt: skip


def test_what_no_seed_gives_is_refused_by_name_and_place():
    x = torch.ones(1, 1, 4, 4)
    calls = {
        "exponential_": lambda: x.clone().exponential_(),
        "bernoulli_": lambda: x.clone().bernoulli_(0.5),
        "poisson": lambda: torch.poisson(x),
        "dropout": lambda: F.dropout(x),
        "feature_alpha_dropout": lambda: F.feature_alpha_dropout(x, training=True),
        "rrelu": lambda: F.rrelu(x, training=True),
        "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        "gumbel_softmax": lambda: F.gumbel_softmax(x),
        "multinomial": lambda: torch.multinomial(x[0, 0], 2),
        "multinomial must have finite weights": lambda: torch.multinomial(x[0, 0] * 0, 1),
    }

    def rule(name, call):
        draws = KeyedDraws(0)
        with answered(draws), pytest.raises(ValueError, match=name):
            call()
        assert draws.ledger == []

    check_cases({name: (name, call) for name, call in calls.items()}, rule)
    with answered(KeyedDraws(0)), pytest.raises(ValueError, match=r"test_answers.py:\d+ \(<lambda>\).*eval"):
        calls["dropout"]()


def test_what_draws_only_while_it_trains_is_left_alone_otherwise():
    x = torch.ones(1, 1, 4, 4)
    draws = KeyedDraws(0)
    with answered(draws):
        for untouched in (
            torch.nn.Dropout(0.5).eval()(x),
            F.dropout(x, 0.0),
            F.dropout(x, 0.5, False),
            torch.dropout(x, 0.5, False),
            F.alpha_dropout(x),
            F.rrelu(x),
            F.scaled_dot_product_attention(x, x, x),
        ):
            assert torch.equal(untouched, x)
    assert draws.ledger == []


def test_two_draws_with_one_noise_are_refused(monkeypatch):
    monkeypatch.setattr(answers, "EFFECTIVE_SEEDS", 3)
    with (
        answered(KeyedDraws(1)),
        pytest.raises(ValueError, match=r"seed 1 gives the draws torch/\d and torch"),
    ):
        [torch.rand(1) for _ in range(4)]


def test_other_threads_keep_their_own_generators():
    values = []

    def draw():
        np.random.seed(0)
        random.seed(0)
        torch.manual_seed(0)
        values.append((np.random.rand(), random.random(), torch.rand(1).item()))

    draw()
    draws = KeyedDraws(1)
    with answered(draws):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
    assert values[0] == values[1]
    assert draws.ledger == []


@pytest.mark.parametrize("root", [-1, 2**64])
def test_roots_out_of_range(root):
    with pytest.raises(ValueError, match="seed must be in"):
        KeyedDraws(root)
