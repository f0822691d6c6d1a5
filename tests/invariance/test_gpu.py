"""The promises on an accelerator, in bfloat16: `pytest -m gpu`. Skipped, one by one, where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from pyramid_seed.pipelines import PyramidFlowPipeline

from . import clips
from .clips import PROMPTS, SEEDS, assert_same, clip_of
from .global_draws import global_draws_raise

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE is None, reason="there is no accelerator"),
]


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"], scope="module")
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=clips.MODELS, scope="module")
def load(request, dtype):
    return partial(clips.load, request.param, dtype=dtype, device=DEVICE)


@pytest.fixture(scope="module")
def pipe(load):
    return load()


@pytest.fixture
def pyramid_flow(pipe):
    """The model, for what only Pyramid Flow has."""
    if not isinstance(pipe, PyramidFlowPipeline):
        pytest.skip("only Pyramid Flow has this")
    return pipe


@pytest.fixture
def make(pipe):
    return partial(clips.make, pipe)


def test_twenty_repeats(make):
    first = make()
    for _ in range(20):
        assert_same(make(), first)


def test_loaded_again(load, make):
    assert_same(clips.make(load()), make())


def test_a_batch_in_all_orders(make):
    alone = [make(prompt, seed=seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    for order in permutations(range(3)):
        batch = make([PROMPTS[index] for index in order], seed=[SEEDS[index] for index in order])
        for place, index in enumerate(order):
            assert_same(clip_of(batch, place), alone[index])


def test_prefixes(pipe, make):
    whole = make(units=5)
    for units in range(1, 5):
        shorter = make(units=units)
        assert torch.equal(shorter.latents, whole.latents[:, :, : shorter.latents.shape[2]])
        assert np.array_equal(shorter.frames, whole.frames[:, : pipe.geometry.num_frames(units)])
        longer = make(units=5, beginning=clips.beginning(pipe, shorter.latents, units))
        assert torch.equal(longer.latents, whole.latents)
        assert np.array_equal(longer.frames, whole.frames)


@pytest.mark.parametrize("mode", ["model", "sequential", "group"])
def test_offload(load, make, mode):
    own = load(device="cpu")
    if mode == "group":
        own.enable_group_offload(DEVICE, offload_type="leaf_level")
    else:
        getattr(own, f"enable_{mode}_cpu_offload")(device=DEVICE)
    for _ in range(2):
        assert_same(clips.make(own), make())


def test_noise_is_that_of_the_cpu(load, make):
    assert make().ledgers == clips.make(load(device="cpu")).ledgers


def test_relaxed_repeats_its_noise(make):
    """Frames are not promised at this level; what was seen belongs in docs/reproducibility.md."""
    assert make(determinism="relaxed").ledgers == make().ledgers


def test_strict_after_relaxed(make):
    first = make()
    make(determinism="relaxed")
    assert_same(make(), first)


def test_every_global_draw_raises(make):
    first = make()
    with global_draws_raise():
        guarded = make()
    assert_same(guarded, first)


def test_a_fresh_process(make, load, dtype, tmp_path):
    name = load.args[0]
    program = (
        "import json, torch\n"
        "from tests.invariance.clips import identity, load, make\n"
        f"print(json.dumps(identity(make(load({name!r}, dtype={dtype}, device={str(DEVICE)!r})))))"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    output = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(output.stdout) == json.loads(json.dumps(clips.identity(make())))


def test_recorded_steps_change_no_bit(pyramid_flow, monkeypatch):
    """Steps as CUDA graphs; stages of three steps have none, those of five have one."""
    from pyramid_seed.pipelines import guided

    if DEVICE.type != "cuda":
        pytest.skip("CUDA graphs are of CUDA")
    recorded = []

    class Counted(guided.StepGraph):
        def __init__(self, *args):
            recorded.append(args)
            super().__init__(*args)

    monkeypatch.setattr(guided, "StepGraph", Counted)
    call = partial(
        pyramid_flow,
        "a boat",
        seed=3,
        height=64,
        width=64,
        num_frames=pyramid_flow.geometry.num_frames(3),
        num_inference_steps=[3, 5, 6],
        guidance_scale=3.0,
        video_guidance_scale=1.0,
        output_type="uint8",
    )
    plain = call()
    assert not recorded
    pyramid_flow.enable_cuda_graphs()
    try:
        graphs = call()
    finally:
        pyramid_flow.disable_cuda_graphs()
    assert len(recorded) == 3 * 2
    assert torch.equal(graphs.latents, plain.latents)
    assert torch.equal(torch.as_tensor(graphs.frames), torch.as_tensor(plain.frames))


def test_decoding_beside_the_next_unit_changes_no_bit(pyramid_flow, make, monkeypatch):
    """Frames of a stream of their own, against those of the one stream; not timed here."""
    from pyramid_seed.pipelines import decode

    if DEVICE.type != "cuda":
        pytest.skip("there is one stream only")
    told: list[tuple[int, int]] = []
    beside = make(num_frames=33, callback_on_chunk_end=lambda clip, chunk, _: told.append((clip, chunk)))
    assert told == [(0, chunk) for chunk in range(pyramid_flow.geometry.num_units(33))]
    monkeypatch.setattr(decode, "can_run_beside", lambda vae, device: False)
    assert_same(make(num_frames=33), beside)
