"""Saved clips to look at, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyramid_seed import Clip, generate


@pytest.fixture(scope="session")
def made(quick) -> Clip:
    return generate("a boat", seed=2**64 - 1, **quick)


@pytest.fixture(scope="session")
def saved(made, tmp_path_factory) -> Path:
    """An .mp4 with its sidecar and latents."""
    return made.save(tmp_path_factory.mktemp("saved") / "boat.mp4", scale=2, sidecar=True, keep_latents=True)


@pytest.fixture
def tampered(saved, tmp_path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Writes the clip's manifest, changed, as a .json."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        manifest = json.loads(saved.with_suffix(".json").read_text(encoding="utf-8"))
        change(manifest)
        path = tmp_path / "tampered.json"
        path.write_text(json.dumps(manifest), encoding="utf-8")
        return path

    return write
