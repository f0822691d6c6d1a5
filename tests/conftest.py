"""Shared fixtures: the smallest real checkpoints there are."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# Also where the checkout was installed before it had the plugin.
pytest_plugins = ["pytester", "pyramid_seed.testing"]

if TYPE_CHECKING:
    from pyramid_seed import Clip

# One thread a process: tests run in as many processes as there are cores, and threads that wait for each
# other on a busy machine make everything crawl. Read when torch is imported, which is later than this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nor do the workers of a clip outnumber the cores: pytest's processes share them as those of a launch do.
# Tests of several workers say how many.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["PYTEST_XDIST_WORKER_COUNT"])

# Imports make half a million objects that stay. To look at them in every garbage collection took a quarter of
# the time of the pipelines' tests, so none happens while tests are collected, and later ones leave them out.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on only what tests make is looked at."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # Python's own looks so often that it took a twentieth of the time
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _fresh_generations() -> None:
    """What earlier modules imported and keep is not looked at either, where something calls gc.collect()."""
    gc.collect(1)
    gc.freeze()


# Much time for an example, so that a busy machine is not a failure.
# The same inputs on every run, so that the suite cannot fail by luck; a campaign looks for new ones.
settings.register_profile("pyramid_seed", deadline=timedelta(seconds=20), max_examples=25, derandomize=True)
settings.register_profile(
    "campaign",
    settings.get_profile("pyramid_seed"),
    deadline=timedelta(seconds=5),
    max_examples=1000,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("pyramid_seed")

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Settings of a clip that takes a fraction of a second: random weights, one step a stage.

    Its files are twice as large as the clip, not six times as the preset has it: encoding takes longest.
    """
    return {
        "model": str(REFERENCE / "miniflux-tiny"),
        "variant": "384p",
        "preset": "tiny",
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 1,
        "video_num_inference_steps": 1,
        "scale": 2,
        "progress": False,
    }


@pytest.fixture
def onednn() -> None:
    """For tests of what runs through oneDNN: with some versions of torch, such as 2.10, nothing may."""
    import torch

    from pyramid_seed.models.onednn_linear import rows_are_independent
    from pyramid_seed.private_apis import onednn_linear

    if not rows_are_independent(onednn_linear, torch.get_num_threads()):
        pytest.skip("here, oneDNN chooses its kernel by the number of rows, so torch multiplies")


@pytest.fixture(scope="session")
def helios_folder(tmp_path_factory) -> Callable[[str], str]:
    """The folder of a tiny Helios model, "base", "mid" or "distilled", made once."""
    from tests.reference import helios_tiny

    return cache(lambda name: helios_tiny.saved(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def quick_helios(helios_folder) -> dict[str, Any]:
    """The same as `quick`, with a model of Helios, whose units have 33 frames."""
    return {
        "model": helios_folder("distilled"),
        "height": 64,
        "width": 64,
        "num_frames": 66,
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "max_sequence_length": 16,
        "fps": 24,
        "progress": False,
    }


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache of weight digests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def made(quick) -> Clip:
    from pyramid_seed import generate

    return generate("a boat", seed=2**64 - 1, **quick)


@pytest.fixture(scope="session")
def saved(made, tmp_path_factory) -> Path:
    """An .mp4 with its sidecar and latents."""
    return made.save(tmp_path_factory.mktemp("saved") / "boat.mp4", scale=2, sidecar=True, keep_latents=True)


@pytest.fixture
def tampered(saved, tmp_path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Writes the clip's manifest, changed, as a .json; its root is that of the changed stages."""
    from pyramid_seed.provenance.manifest import stage_root

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        manifest = json.loads(saved.with_suffix(".json").read_text(encoding="utf-8"))
        change(manifest)
        if "digests" in manifest:
            digests = manifest["digests"]
            digests["root"] = stage_root(digests["stages"], digests["units"])
        path = tmp_path / "tampered.json"
        path.write_text(json.dumps(manifest), encoding="utf-8")
        return path

    return write
