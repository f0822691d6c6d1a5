"""One sweep for all tests that read a report; a test that changes it puts it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_seed import run_sweep
from pyramid_seed.explore.sweep import SweepSummary

from .sweeps import FEW, PROMPTS, SEEDS


@pytest.fixture(scope="session")
def swept(tmp_path_factory) -> tuple[Path, SweepSummary]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run_sweep(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)
