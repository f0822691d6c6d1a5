"""Shared fixtures: the smallest real checkpoints there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Settings of a clip that takes a fraction of a second: random weights, one step a stage."""
    return {
        "model": str(REFERENCE / "miniflux-tiny"),
        "variant": "384p",
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 1,
        "video_num_inference_steps": 1,
        "progress": False,
    }
