from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed.noise import IMAGE_KEYS, SCHEMES, NoiseKey, check_root, derive_seed, history_keys
from tests.cases import check_cases

ROOTS = st.integers(0, 2**64 - 1)
KEYS = st.one_of(
    st.builds(NoiseKey, st.just("initial"), st.integers(0, 99), st.just(0)),
    st.builds(NoiseKey, st.just("renoise"), st.integers(0, 99), st.integers(1, 5)),
    st.just(NoiseKey("posterior", 0, 0)),
)
KEYS_OF_V2 = st.one_of(
    st.builds(NoiseKey, st.sampled_from(["image_sigma", "image_noise"]), st.just(0), st.just(0)),
    st.builds(
        NoiseKey,
        st.sampled_from(["history_posterior", "history_sigma", "history_noise"]),
        st.just(0),
        st.integers(0, 99),
    ),
)
GOLDEN = [
    (0, NoiseKey("initial", 0, 0), 15377859166942804189),
    (42, NoiseKey("renoise", 3, 2), 4586423225105485672),
    (2**64 - 1, NoiseKey("posterior", 0, 0), 18020922936655291588),
    (1, NoiseKey("initial", 7, 0), 14724750649030631009),
    (1 + 2**32, NoiseKey("initial", 7, 0), 3844595630783845599),
    (0, NoiseKey("image_sigma", 0, 0), 12068099122186675561),
    (42, NoiseKey("image_noise", 0, 0), 17463670310390220618),
    (42, NoiseKey("history_posterior", 0, 0), 17787575712644923429),
    (2**64 - 1, NoiseKey("history_sigma", 0, 3), 9718404330290694744),
    (1, NoiseKey("history_noise", 0, 1), 15401882864409446443),
]


def test_derived_seeds_never_change():
    def rule(root, key, seed):
        assert SCHEMES == ("pyramid-seed/v1", "pyramid-seed/v2")
        assert derive_seed(root, key) == seed

    check_cases(GOLDEN, rule)


@given(ROOTS, st.one_of(KEYS, KEYS_OF_V2))
def test_derivation_is_what_the_scheme_says(root, key):
    scheme = b"v1" if key.stream in ("initial", "renoise", "posterior") else b"v2"
    assert key.scheme == f"pyramid-seed/{scheme.decode()}"
    text = b"pyramid-seed/%s/%d/%s/%d/%d" % (scheme, root, key.stream.encode(), key.unit, key.stage)
    assert derive_seed(root, key).to_bytes(8, "little") == hashlib.blake2b(text, digest_size=64).digest()[:8]


@given(st.sets(st.tuples(ROOTS, st.one_of(KEYS, KEYS_OF_V2)), min_size=2, max_size=20))
def test_other_roots_or_keys_have_other_seeds(addresses):
    assert len({derive_seed(root, key) for root, key in addresses}) == len(addresses)


def test_keys_out_of_range():
    cases = [
        ("velocity", 0, 0, "stream must be one of initial, renoise, posterior, .*, got 'velocity'"),
        ("initial", -1, 0, "unit must be at least 0, got -1"),
        ("initial", 0, 1, "stage must be 0 in stream initial, got 1"),
        ("renoise", 0, 0, "stage must be at least 1 in stream renoise, got 0"),
        ("renoise", 0, -1, "stage must be at least 0, got -1"),
        ("posterior", 1, 0, "unit must be 0 in stream posterior, got 1"),
        ("posterior", 0, 1, "stage must be 0 in stream posterior, got 1"),
        ("image_sigma", 0, 1, "stage must be 0 in stream image_sigma, got 1"),
        ("history_noise", 1, 0, "unit must be 0 in stream history_noise, got 1"),
    ]

    def rule(stream, unit, stage, message):
        with pytest.raises(ValueError, match=message):
            NoiseKey(stream, unit, stage)

    check_cases(cases, rule)


def test_the_draws_for_an_image():
    """Its posterior has the address of v1. All belong to unit 0, so that no branch changes them."""
    assert [f"{key.scheme[-2:]} {key}" for key in (*IMAGE_KEYS, *history_keys(0), history_keys(2)[0])] == [
        "v1 posterior/0/0",
        "v2 image_sigma/0/0",
        "v2 image_noise/0/0",
        "v2 history_posterior/0/0",
        "v2 history_sigma/0/0",
        "v2 history_noise/0/0",
        "v2 history_posterior/0/2",
    ]


def test_only_whole_numbers():
    def rule(value):
        with pytest.raises(TypeError, match="unit must be an int"):
            NoiseKey("initial", value, 0)
        with pytest.raises(TypeError, match="stage must be an int"):
            NoiseKey("renoise", 0, value)
        with pytest.raises(TypeError, match="seed must be an int"):
            check_root(value)

    check_cases([True, 1.0, "1", None], rule)


def test_roots_out_of_range():
    def rule(root, nearest):
        check_root(nearest)
        with pytest.raises(ValueError, match=f"got {root}; use {nearest}$"):
            check_root(root)

    check_cases([(-1, 0), (2**64, 2**64 - 1)], rule)
