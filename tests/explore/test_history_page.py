"""Curves of a history: where values and bands are drawn."""

from __future__ import annotations

from pyramid_seed.explore.bands import Band
from pyramid_seed.explore.history_page import HEIGHT, WIDTH, curve


def test_values_lie_between_the_ends_and_gaps_interrupt_the_line():
    drawn = curve([0.0, 1.0, None, 0.5])
    assert (drawn.low, drawn.high) == (0, 1)
    bottom, top = drawn.dots[0][1], drawn.dots[1][1]
    assert 0 < top < bottom < HEIGHT
    assert drawn.dots[2] is None
    assert drawn.dots[3] == (WIDTH * 7 / 8, HEIGHT / 2)
    assert [step[0] for step in drawn.path.split()[::2]] == ["M", "L", "M"]


def test_a_band_is_a_bar_as_high_as_its_values():
    drawn = curve([1.0, 1.0], [None, Band(0.0, 2.0)])
    ((x, y, width, height),) = drawn.bars
    assert (x, width) == (WIDTH / 2, WIDTH / 2)
    assert drawn.dots[1] == (WIDTH * 3 / 4, y + height / 2)
    assert curve([3.0]).dots == ((WIDTH / 2, HEIGHT / 2),)
