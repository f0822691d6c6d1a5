"""Clips of a fraction of a second, and a studio for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyramid_seed.presets import Preset, load_preset
from pyramid_seed.ui.limits import Limits
from pyramid_seed.ui.studio import Studio


@pytest.fixture(scope="session")
def short() -> Preset:
    """The embedded model with one step a stage and two units, in files of twice the size."""
    return replace(
        load_preset("tiny"),
        name="short",
        num_frames=5,
        scale=2,
        num_inference_steps=(1, 1, 1),
        video_num_inference_steps=(1, 1, 1),
    )


@pytest.fixture
def studio(tmp_path: Path, short: Preset) -> Iterator[Studio]:
    studio = Studio(tmp_path / "clips", [short], Limits(max_frames=33, max_height=128, max_width=128))
    yield studio
    studio.queue.close()
