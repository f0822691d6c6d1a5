"""Every promise is kept by the embedded model and by both published families, here with random weights.

The embedded model has the classes of miniFLUX, so with it most tests are repetitions, which are slow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest

from pyramid_seed import PyramidFlowPipeline, run_batch

from . import clips
from .launches import ROWS, digests, write_list

FAMILY_NEUTRAL = pytest.mark.parametrize(
    "model",
    ["miniflux", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tiny", "sd3"))],
    indirect=True,
)
"""For promises that code keeps in which families do not differ: with the second one they are repetitions."""


@pytest.fixture(scope="session")
def loaded() -> Callable[[str], PyramidFlowPipeline]:
    """A model by its name in `clips.MODELS`; shared, so not to be changed."""
    return cache(clips.load)


@pytest.fixture(params=[pytest.param("tiny", marks=pytest.mark.slow), "miniflux", "sd3"])
def model(request) -> str:
    return request.param


@pytest.fixture
def pipe(model, loaded) -> PyramidFlowPipeline:
    """Each model in turn; shared, so not to be changed."""
    return loaded(model)


@pytest.fixture
def own_pipe(pipe) -> PyramidFlowPipeline:
    """A copy that a test may change."""
    own = PyramidFlowPipeline(**{name: copy.deepcopy(part) for name, part in pipe.components.items()})
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
