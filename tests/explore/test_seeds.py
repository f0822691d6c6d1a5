"""Lists of seeds as people write them."""

from __future__ import annotations

from pyramid_seed.explore.seeds import parse_seeds
from tests.refusals import not_refused


def test_seeds():
    seeds = {
        "0-3": (0, 1, 2, 3),
        "7": (7,),
        "3, 7, 100-102": (3, 7, 100, 101, 102),
        "5-5": (5,),
        "9,1": (9, 1),
        str(2**64 - 1): (2**64 - 1,),
    }
    assert {text: parse_seeds(text) for text in seeds} == seeds


def test_what_is_no_list_of_seeds():
    words = {
        "": "such as 0-15",
        "1,,2": "such as 0-15",
        "a-b": "such as 0-15",
        "-3": "such as 0-15",
        "1.5": "such as 0-15",
        "٣": "such as 0-15",
        "9-3": "use 3-9",
        "1,0-4": "seed 1 is given twice",
        str(2**64): "seed must be a whole number in 0 .. 2**64 - 1",
        f"0-{2**64}": "seed must be a whole number in 0 .. 2**64 - 1",
        "9" * 5000: "seed must be a whole number in 0 .. 2**64 - 1",
        "0-99999999999": "at most 10000",
    }
    assert not_refused(parse_seeds, words) == {}
