"""Numbers in sentences."""

from __future__ import annotations

from pyramid_seed.texts import counted, size_text


def test_one_thing_is_no_plural():
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]


def test_sizes_are_said_in_the_largest_unit_of_which_there_is_one():
    sizes = {
        0: "0.0 kB",
        42_544: "42.5 kB",
        999_999: "1000.0 kB",
        1_000_000: "1.0 MB",
        14_385_664_806: "14.4 GB",
    }
    assert {size: size_text(size) for size in sizes} == sizes
