"""The tiny checkpoints of both families as pipelines, loaded once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from pyramid_seed.checkpoints.load import load_components
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.pipelines import PyramidFlowPipeline, PyramidFlowPipelineOutput

REFERENCE = Path(__file__).parents[1] / "reference"
FAMILIES = {"miniflux": "miniflux-tiny", "sd3": "sd3-tiny"}

FAMILY_NEUTRAL = pytest.mark.parametrize(
    "family", ["miniflux", pytest.param("sd3", marks=pytest.mark.slow)], indirect=True
)
"""For tests of code in which families do not differ: with the second one they are repetitions."""

SMALL = {
    "height": 64,
    "width": 64,
    "num_frames": 9,
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "output_type": "latent",
}
"""Two units of one step a stage, guided, not decoded: a fraction of a second."""


def quiet(pipe: PyramidFlowPipeline) -> PyramidFlowPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def load() -> Callable[[str], PyramidFlowPipeline]:
    """The pipeline of a family; shared, so not to be changed."""
    return cache(
        lambda family: quiet(
            PyramidFlowPipeline(**load_components(read_source(REFERENCE / FAMILIES[family], variant="384p")))
        )
    )


@pytest.fixture(params=list(FAMILIES))
def family(request) -> str:
    return request.param


@pytest.fixture
def pipe(family, load) -> PyramidFlowPipeline:
    """The shared pipeline of each family in turn."""
    return load(family)


@pytest.fixture
def own_pipe(pipe) -> PyramidFlowPipeline:
    """A copy that a test may change."""
    return quiet(PyramidFlowPipeline(**{name: copy.deepcopy(part) for name, part in pipe.components.items()}))


@pytest.fixture
def make(pipe) -> Callable[..., PyramidFlowPipelineOutput]:
    """Generate from the shared pipeline with small settings, changed as given."""
    return lambda prompt="a red circle", **changes: pipe(prompt, **{**SMALL, "seed": 7, **changes})


@pytest.fixture(scope="session")
def clip_of(load) -> Callable[[str, str], PyramidFlowPipelineOutput]:
    """The clip of a family and of a call, as JSON knows it, made once."""

    @cache
    def make(family: str, call: str) -> PyramidFlowPipelineOutput:
        prompt, settings = json.loads(call)
        return load(family)(prompt, **settings)

    return make


@pytest.fixture
def known(family, clip_of) -> Callable[..., PyramidFlowPipelineOutput]:
    """What `make` gives, made once for all tests that compare with it; not to be changed.

    A clip is a function of what is asked for, so this is for calls of plain values: no callbacks, no images.
    """
    return lambda prompt="a red circle", **changes: clip_of(
        family, json.dumps([prompt, {**SMALL, "seed": 7, **changes}], sort_keys=True)
    )


@pytest.fixture
def small() -> dict:
    return dict(SMALL)


@pytest.fixture
def forwards(pipe) -> Iterator[list[int]]:
    """The batch size of every call of the shared pipeline's transformer."""
    calls: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(args[0].shape[0]), with_kwargs=True
    )
    yield calls
    handle.remove()
