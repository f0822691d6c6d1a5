"""Seeds stay text until they are Python's whole numbers."""

from __future__ import annotations

import pytest

from pyramid_seed.ui.seeds import parse_seed, roll, seed_for_run


@pytest.mark.parametrize("text", ["0", "42", str(2**53 + 1), str(2**64 - 1), "  7\n"])
def test_every_root_seed_survives(text):
    assert parse_seed(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "1.0", "1e3", "0x10", str(2**64), "٤٢", "1 2", "9" * 5000, "²"]
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match=r"seed must be a whole number in 0 \.\. 2\^64 - 1, got"):
        parse_seed(text)


def test_a_roll_is_a_seed_and_not_the_last_one():
    rolls = {roll() for _ in range(8)}
    assert len(rolls) == 8
    assert all(0 <= parse_seed(text) < 2**64 for text in rolls)


def test_a_locked_seed_is_used_and_another_one_is_drawn_anew():
    assert seed_for_run("42", locked=True) == 42
    assert seed_for_run("42", locked=False) != 42
    assert seed_for_run("no seed", locked=False) >= 0
    with pytest.raises(ValueError, match="seed must be"):
        seed_for_run("no seed", locked=True)
