from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from pyramid_seed.noise import (
    Branch,
    NoiseKey,
    NoiseStreams,
    RecordedNoise,
    check_root,
    derive_seed,
    noise_digest,
    root_from_entropy,
    root_from_generator,
)
from tests.cases import check_cases

INITIAL = NoiseKey("initial", 0, 0)
RENOISE = NoiseKey("renoise", 1, 2)
POSTERIOR = NoiseKey("posterior", 0, 0)
SHAPE = (1, 4, 1, 4, 4)


def test_draws_never_change():
    cases = [
        (42, INITIAL, (1, 16, 1, 8, 16), "a873d3bd67fe34ef91ed521da2c91ace0301d3d1b3c04d618457ab613f70f601"),
        (42, RENOISE, SHAPE, "312adafb4bcc49d49d116784c0a597b7958a764abe5cad980b5d330aef4c4b32"),
        (0, POSTERIOR, (1, 3), "54602ef2cfd4e827953ba43e262687ae2b683bc31743cf2558952f98b48a03a9"),
    ]

    def rule(root, key, shape, sha256):
        assert noise_digest(NoiseStreams(root).draw(key, shape)) == sha256

    check_cases(cases, rule)


def test_a_draw_is_float64_normal_noise_of_the_derived_seed_rounded():
    generator = torch.Generator().manual_seed(derive_seed(7, RENOISE))
    expected = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(torch.float32)
    assert torch.equal(NoiseStreams(7).draw(RENOISE, SHAPE), expected)
    assert NoiseStreams(7).generator(RENOISE).initial_seed() == derive_seed(7, RENOISE)


def test_draws_do_not_depend_on_one_another():
    streams = NoiseStreams(3)
    forth = {key: streams.draw(key, SHAPE) for key in (INITIAL, RENOISE, POSTERIOR)}
    back = {key: streams.draw(key, SHAPE) for key in (POSTERIOR, RENOISE, INITIAL, RENOISE)}
    for key, values in forth.items():
        assert torch.equal(back[key], values)
        assert torch.equal(NoiseStreams(3).draw(key, SHAPE), values)
    assert len({noise_digest(values) for values in forth.values()}) == 3


def test_other_roots_give_other_noise():
    def rule(other):
        assert not torch.equal(NoiseStreams(1).draw(INITIAL, SHAPE), NoiseStreams(other).draw(INITIAL, SHAPE))

    check_cases([0, 2, 1 + 2**32, 1 + 2**63], rule)


def test_draws_are_standard_normal_and_uncorrelated():
    first = NoiseStreams(5).draw(INITIAL, (1, 1_000_000)).double()
    second = NoiseStreams(5).draw(RENOISE, (1, 1_000_000)).double()
    # Five standard errors each: of the mean, the variance (2/n), the fourth moment (96/n), the product.
    error = 5 / math.sqrt(first.numel())
    assert abs(first.mean()) < error
    assert abs(first.square().mean() - 1) < error * math.sqrt(2)
    assert abs(first.pow(4).mean() - 3) < error * math.sqrt(96)
    assert abs((first * second).mean()) < error


def test_global_generators_are_neither_read_nor_moved():
    torch.manual_seed(0)
    state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()
    values = NoiseStreams(9).draw(INITIAL, SHAPE)
    root_from_entropy()
    root_from_generator(torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert random.getstate() == python_state
    torch.manual_seed(1)
    assert torch.equal(NoiseStreams(9).draw(INITIAL, SHAPE), values)


def test_one_clip_at_a_time():
    def rule(*shape):
        with pytest.raises(ValueError, match="shape must start with 1"):
            NoiseStreams(0).draw(INITIAL, shape)
        with pytest.raises(ValueError, match="shape must start with 1"):
            RecordedNoise({INITIAL: torch.zeros(shape)})

    check_cases([(), (2, 4), (0, 4)], rule)


def test_bad_roots_and_devices():
    with pytest.raises(ValueError, match=r"seed must be in 0 .. 2\*\*64 - 1"):
        NoiseStreams(2**64)
    with pytest.raises(TypeError, match="seed must be an int, got True"):
        NoiseStreams(True)
    with pytest.raises(ValueError, match="use noise_device='cpu'"):
        NoiseStreams(0, device="mps")


def test_a_branch_that_no_manifest_could_hold_is_refused():
    cases = [
        ((1.0, 7), TypeError, "from_unit must be an int, got 1.0 of type float"),
        ((True, 7), TypeError, "from_unit must be an int, got True of type bool"),
        ((1, 7.0), TypeError, "seed must be an int, got 7.0 of type float"),
        ((1, -1), ValueError, "seed must be in 0 .. 2\\*\\*64 - 1, got -1; use 0"),
    ]

    def rule(values, error, message):
        with pytest.raises(error, match=message):
            Branch(*values)

    check_cases(cases, rule)


def test_branches_change_the_root_from_their_units_on():
    streams = NoiseStreams(1, branches=[Branch(2, 20), Branch(3, 30)])
    roots = {0: 1, 1: 1, 2: 20, 3: 30, 4: 30}
    for unit, root in roots.items():
        for key in (NoiseKey("initial", unit, 0), NoiseKey("renoise", unit, 2)):
            assert streams.root_of(key) == root
            assert torch.equal(streams.draw(key, SHAPE), NoiseStreams(root).draw(key, SHAPE))
            assert streams.generator(key).initial_seed() == derive_seed(root, key)
    assert streams.root == 1


def test_branches_are_branches():
    for wrong in (None, (1, 5), "1"):
        with pytest.raises(TypeError, match="branches must be a list of Branch, got "):
            NoiseStreams(1, branches=[wrong])


def test_branches_must_rise():
    def rule(units):
        with pytest.raises(ValueError, match="branches must start at increasing units of at least 1, got"):
            NoiseStreams(1, branches=[Branch(unit, 5) for unit in units])

    check_cases([[0], [-1], [2, 2], [3, 1]], rule)


def test_root_from_generator_is_one_draw_below_2_63():
    first = root_from_generator(torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    assert first == torch.randint(0, 2**63 - 1, (), generator=generator).item()
    assert root_from_generator(generator) != first
    check_root(first)


def test_root_from_entropy_is_a_root_and_new_each_time():
    roots = {root_from_entropy() for _ in range(100)}
    assert len(roots) == 100
    assert max(roots) > 2**60
    for root in roots:
        check_root(root)


def test_recorded_noise_replays_copies():
    values = torch.arange(3.0)[None]
    source = RecordedNoise({INITIAL: values})
    source.draw(INITIAL, (1, 3)).zero_()
    assert torch.equal(source.draw(INITIAL, (1, 3)), values)
    source.close()


def test_recorded_noise_complains():
    source = RecordedNoise({INITIAL: torch.zeros(1, 3), RENOISE: torch.zeros(1, 3)})
    with pytest.raises(
        ValueError, match="no draw recorded for posterior/0/0; recorded is initial/0/0, renoise/1/2"
    ):
        source.draw(POSTERIOR, (1, 3))
    with pytest.raises(ValueError, match=r"initial/0/0 is recorded as \(1, 3\), asked for \(1, 4\)"):
        source.draw(INITIAL, (1, 4))
    source.draw(INITIAL, (1, 3))
    with pytest.raises(ValueError, match="1 recorded draws were not used: renoise/1/2"):
        source.close()
    with pytest.raises(ValueError, match=r"initial/0/0 must be float32, got torch.float64"):
        RecordedNoise({INITIAL: torch.zeros(1, 3, dtype=torch.float64)})
