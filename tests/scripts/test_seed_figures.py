"""The figures of docs/seeds.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyramid_seed.explore.findings import findings_of, paired_differences
from pyramid_seed.explore.measured import MeasuredClip
from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.prompts import Prompt
from scripts.seed_figures import PAGE, figures, with_figures


def clips(step):
    frames = np.full((1, 16, 16, 3), 100, np.uint8)
    values = {measure.name: 0.0 for measure in MEASURES}
    return [
        MeasuredClip(
            Prompt(text), seed, Path("a.mp4"), True, "", 9, {**values, "motion": 10 + step * seed}, frames
        )
        for text in ("a", "b")
        for seed in (0, 1)
    ]


def test_figures():
    usual, other = findings_of(clips(2)), findings_of(clips(4))
    paired = paired_differences(clips(4), {(clip.prompt, clip.seed): clip.values for clip in clips(2)})
    text = figures(
        usual,
        type(other)(other.prompts, other.common_seeds, other.shares, paired),
        {"motion": 0.5},
        "A machine.",
    )
    assert "2 prompts, 2 seeds. A machine." in text
    # All variance is the seed's: means 11, deviation sqrt(2); the difference is 0 and 2.
    assert "| `motion` | 11 | 1.41 | 0.5 | 0.0 % | 100.0 % | 0.0 % |" in text
    assert "| a | 1 |" in text
    assert "| `motion` | 1 | -2.04 to 4.04 | 2.24 | 1.41 | 1.00 |" in text
    assert "`flicker`" not in text


def test_figures_are_put_in_their_place():
    page = PAGE.read_text(encoding="utf-8")
    with_other = with_figures(page, "other figures")
    assert "\n\nother figures\n\n" in with_other
    assert with_figures(with_other, "other figures") == with_other
    with pytest.raises(ValueError, match="must have one line"):
        with_figures("# Seeds\n", "figures")
