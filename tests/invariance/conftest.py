"""Every promise is kept by the embedded model and by all published families, here with random weights.

The embedded model has the classes of miniFLUX, so with it most tests are repetitions, which are slow. Clips
of Helios have 33 frames a unit and are slow, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest

from pyramid_seed import run_batch
from pyramid_seed.pipelines.clip_pipeline import ClipPipeline

from . import clips
from .launches import ROWS, digests, write_list


def _slow(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def _with_slow(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", ["miniflux", *_slow(*names)], indirect=True)


FAMILY_NEUTRAL = _with_slow("tiny", "sd3", "helios", "helios-image")
"""For promises that code keeps in which families do not differ: with the second one they are repetitions."""
PYRAMID_FLOW = _with_slow("tiny", "sd3")
"""The same for what only Pyramid Flow has."""


@pytest.fixture(scope="session")
def loaded() -> Callable[[str], ClipPipeline]:
    """A model by its name in `clips.MODELS`; shared, so not to be changed."""
    return cache(clips.load)


@pytest.fixture(params=["miniflux", "sd3", *_slow("tiny", "helios", "helios-image")])
def model(request) -> str:
    return request.param


@pytest.fixture
def pipe(model, loaded) -> ClipPipeline:
    """Each model in turn; shared, so not to be changed."""
    return loaded(model)


@pytest.fixture
def own_pipe(pipe) -> ClipPipeline:
    """A copy that a test may change."""
    config = {name: value for name, value in pipe.config.items() if name.startswith("is_")}
    own = type(pipe)(**{name: copy.deepcopy(part) for name, part in pipe.components.items()}, **config)
    own.set_progress_bar_config(disable=True)
    return own


@pytest.fixture
def make(pipe) -> Callable[..., Any]:
    """`clips.make` with each model in turn."""
    return partial(clips.make, pipe)


@pytest.fixture
def reference(model, reference_clip) -> Any:
    """The clip that `make()` gives without changes, made once a model."""
    return reference_clip(model)


@pytest.fixture(scope="session")
def reference_clip(loaded) -> Callable[[str], Any]:
    """The clip that `clips.make` gives without changes, by the model's name."""
    return cache(lambda name: clips.make(loaded(name)))


@pytest.fixture(scope="session")
def settings(quick) -> dict:
    """Of a batch."""
    return {name: value for name, value in quick.items() if name not in ("num_frames", "progress")}


@pytest.fixture(scope="session")
def plain(settings, tmp_path_factory) -> dict[str, tuple[str, str]]:
    """What `digests` finds after one plain run."""
    folder = tmp_path_factory.mktemp("plain")
    summary = run_batch(write_list(folder, ROWS), folder / "clips", progress=False, **settings)
    assert summary.status == 0
    assert summary.digests == {file: digest for file, (digest, _) in digests(folder / "clips").items()}
    return digests(folder / "clips")
