"""Lists of seeds as people write them."""

from __future__ import annotations

import pytest

from pyramid_seed.explore.seeds import parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("7", (7,)),
        ("3, 7, 100-102", (3, 7, 100, 101, 102)),
        ("5-5", (5,)),
        ("9,1", (9, 1)),
        (str(2**64 - 1), (2**64 - 1,)),
    ],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as 0-15"),
        ("1,,2", "such as 0-15"),
        ("a-b", "such as 0-15"),
        ("-3", "such as 0-15"),
        ("1.5", "such as 0-15"),
        ("٣", "such as 0-15"),
        ("9-3", "use 3-9"),
        ("1,0-4", "seed 1 is given twice"),
        (str(2**64), "2\\^64"),
        ("0-99999999999", "at most 10000"),
    ],
)
def test_what_is_no_list_of_seeds(text, words):
    with pytest.raises(ValueError, match=words):
        parse_seeds(text)
