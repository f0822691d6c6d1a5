"""Seeds stay text until they are Python's whole numbers."""

from __future__ import annotations

import pytest

from pyramid_seed.ui.seeds import parse_seed, random_seed_text, seed_for_run
from tests.refusals import not_refused


def test_every_root_seed_survives():
    seeds = {"0": 0, "42": 42, str(2**53 + 1): 2**53 + 1, str(2**64 - 1): 2**64 - 1, "  7\n": 7}
    assert {text: parse_seed(text) for text in seeds} == seeds


def test_other_text_is_refused():
    texts = ("", " ", "-1", "1.0", "1e3", "0x10", str(2**64), "٤٢", "1 2", "9" * 5000, "²")
    words = dict.fromkeys(texts, "seed must be a whole number in 0 .. 2**64 - 1, got")
    assert not_refused(parse_seed, words) == {}


def test_a_random_seed_is_a_seed_and_not_the_last_one():
    texts = {random_seed_text() for _ in range(8)}
    assert len(texts) == 8
    assert all(0 <= parse_seed(text) < 2**64 for text in texts)


def test_a_locked_seed_is_used_and_another_one_is_drawn_anew():
    assert seed_for_run("42", locked=True) == 42
    assert seed_for_run("42", locked=False) != 42
    assert seed_for_run("no seed", locked=False) >= 0
    with pytest.raises(ValueError, match="seed must be"):
        seed_for_run("no seed", locked=True)
