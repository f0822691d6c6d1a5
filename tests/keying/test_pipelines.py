"""What `keyed` promises, of real pipelines of diffusers with tiny random weights."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

from pyramid_seed import audit, keyed, load_pipeline
from pyramid_seed.keying.audit import Audit
from tests.cases import check_cases
from tests.forks import fork

from .tiny_pipelines import PIPELINES, made

_FAST = ("LTX",)
EVERY = [name if name in _FAST else pytest.param(name, marks=pytest.mark.slow) for name in PIPELINES]


@pytest.fixture(params=EVERY)
def case(request):
    return made(request.param)


@pytest.fixture
def wan():
    return made("Wan")


def two_prompts(call):
    """The call for two clips, of which the first one has other texts."""
    texts = {
        name: call[name] for name in call if "prompt" in name and isinstance(call[name], str | torch.Tensor)
    }
    return call | {
        name: [f"{value} at sea", value] if isinstance(value, str) else torch.cat([value + 1, value])
        for name, value in texts.items()
    }


def test_a_clip_is_the_seeds_again_with_other_globals_and_in_a_batch(case):
    """The audit makes all of them: it must find nothing."""
    pipe, call = case
    found = audit(keyed(pipe), seed=2**64 - 1, **call)
    assert found.failures == []
    assert found.differences == {"repeat": None, "globals": None, "batch": None}
    assert {draw.drawn_from for draw in found.draws} == {"seed"}


def test_neighbours_with_other_prompts_seeds_and_processes_change_nothing(case, tmp_path):
    pipe, call = case
    make = keyed(pipe)
    both = make(**two_prompts(call), seed=[9, 5])

    def in_another_process() -> int:
        torch.rand(11), np.random.rand(3), random.random()
        clip = make(**call, seed=5).clips[0]
        (tmp_path / "clip.json").write_text(json.dumps([clip.digest, [row.sha256 for row in clip.ledger]]))
        return 0

    status, errors = fork(in_another_process).wait()
    assert status == 0, errors
    digest, draws = json.loads((tmp_path / "clip.json").read_text())
    first, second = both.clips
    assert second.digest == digest
    assert [row.sha256 for row in second.ledger] == draws
    assert first.digest != second.digest
    assert {row.sha256 for row in first.ledger}.isdisjoint(draws)
    assert both.seeds == [9, 5]


def test_the_output_is_the_pipelines_own(wan):
    pipe, call = wan
    make = keyed(pipe)
    output = make(**call | {"prompt": ["a boat", "a car"], "negative_prompt": "red"}, seed=3)
    assert type(output) is WanPipelineOutput
    assert output.frames.shape == (2, 9, 16, 16, 3)
    assert output.seeds == [3, 3]
    (frames,) = make(**call, seed=3, return_dict=False)
    assert np.array_equal(frames[0], output.frames[0])
    many = make(**call, seed=3, num_videos_per_prompt=2)
    assert many.seeds == [3, 4]
    assert np.array_equal(many.frames[0], output.frames[0])
    drawn = make(**call)
    assert np.array_equal(make(**call, seed=drawn.seeds[0]).frames, drawn.frames)
    images = make(**call | {"output_type": "pil"}, seed=3)
    tensors = make(**call | {"output_type": "pt"}, seed=3)
    assert images.clips[0].digest == tensors.clips[0].digest == output.clips[0].digest
    latents = make(**call | {"output_type": "latent"}, seed=3)
    with pytest.raises(ValueError, match="output_type"):
        _ = latents.clips[0].digest


def test_the_noise_is_that_of_the_ledger_on_every_path(wan):
    """Callbacks and offloading neither add a draw nor change one."""
    pipe, call = wan
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(step)
        return tensors

    make = keyed(pipe)
    plain = make(**call, seed=1)
    watched = make(**call, seed=1, callback_on_step_end=callback)
    assert seen == [0, 1]
    assert np.array_equal(plain.frames, watched.frames)
    relaxed = keyed(pipe, determinism="relaxed")(**call, seed=1)
    assert relaxed.clips[0].ledger == plain.clips[0].ledger


@pytest.mark.slow
def test_offload_hooks_and_compiled_parts_keep_working():
    from diffusers.hooks import apply_group_offloading

    from .tiny_pipelines import wan

    torch.manual_seed(0)
    pipe = wan()
    pipe.set_progress_bar_config(disable=True)
    _, call = made("Wan")
    plain = keyed(pipe)(**call, seed=1)
    for part in (pipe.transformer, pipe.vae):
        apply_group_offloading(part, torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    assert np.array_equal(keyed(pipe)(**call, seed=1).frames, plain.frames)
    pipe = wan()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    make = keyed(pipe)
    compiled = make(**call, seed=1)
    assert compiled.clips[0].ledger == plain.clips[0].ledger
    assert np.array_equal(make(**call, seed=1).frames, compiled.frames)


def test_draws_that_nobody_sees_are_refused(wan):
    pipe, call = wan

    def elsewhere(pipe, step, timestep, tensors):
        thread = threading.Thread(target=torch.rand, args=(1,))
        thread.start()
        thread.join()
        return tensors

    with pytest.raises(
        RuntimeError, match=r"global generator of torch unseen .* 1 draw, .*pipeline_wan.py:355"
    ):
        keyed(pipe)(**call, seed=1, callback_on_step_end=elsewhere)


@pytest.mark.slow
def test_draws_that_a_compiler_takes_into_its_graph_are_refused(wan):
    """Those of randn_like; of randn and rand compiled code is answered, see test_draws."""
    pipe, call = wan
    noisy = torch.compile(lambda latents: latents + torch.randn_like(latents))

    def compiled(pipe, step, timestep, tensors):
        return tensors | {"latents": noisy(tensors["latents"])}

    with pytest.raises(RuntimeError, match=r"global generator of torch unseen \(compiled code"):
        keyed(pipe)(**call, seed=1, callback_on_step_end=compiled)


def test_what_cannot_be_keyed_is_refused_before_anything_runs(wan):
    pipe, call = wan
    make = keyed(pipe)
    embeds = torch.zeros(2, 16, 32)
    refusals = {
        "generator must be left out": {"generator": torch.Generator()},
        "seed must be an int": {"seed": "7"},
        "seed must be in": {"seed": -1},
        "a list for seed must have one entry for each of the 1 clips": {"seed": [1, 2]},
        "of one length: prompt has 2, negative_prompt has 1": {
            "prompt": ["a", "b"],
            "negative_prompt": ["c"],
        },
        "of one length: prompt has 0": {"prompt": []},
        "latents must be left out": {"prompt": ["a", "b"], "latents": torch.zeros(2, 1)},
        "num_videos_per_prompt must be at least 1": {"num_videos_per_prompt": 0},
        "prompt_embeds has 2": {"prompt": ["a"], "prompt_embeds": embeds},
        "unexpected keyword argument 'frames'": {"frames": 3},
    }
    seen = []

    def rule(message, changes):
        watched = call | {"callback_on_step_end": seen.append} | changes
        with pytest.raises((ValueError, TypeError), match=message):
            make(**watched)

    check_cases({message: (message, changes) for message, changes in refusals.items()}, rule)
    assert seen == []
    with pytest.raises(ValueError, match="determinism must be one of"):
        keyed(pipe, determinism="loose")
    with pytest.raises(TypeError, match="pipe must be a DiffusionPipeline"):
        keyed(pipe.vae)


def test_a_pipeline_with_seeds_of_its_own_is_refused():
    with pytest.raises(ValueError, match="PyramidFlowPipeline takes a seed of its own"):
        keyed(load_pipeline("embedded:tiny"))


# What diffusers 0.42 draws that no seed reaches: file and line as of 0.42.1.
KNOWN_LEAKS = {
    "LTX": {
        ("diffusers/models/autoencoders/autoencoder_kl_ltx.py", "forward", "global", 5),
    },
    "SkyReels": {
        (
            "diffusers/pipelines/skyreels_v2/pipeline_skyreels_v2_diffusion_forcing.py",
            "__call__",
            "global",
            4,
        ),
    },
    "Helios": {
        (
            "diffusers/pipelines/helios/pipeline_helios_pyramid.py",
            "sample_block_noise",
            "the first clip's",
            4,
        ),
    },
}


def line_of(file: str, line: int) -> str:
    import diffusers

    source = Path(diffusers.__file__).parents[1] / file
    return source.read_text().splitlines()[line - 1]


@pytest.mark.parametrize("name", EVERY)
def test_the_audit_finds_the_known_leaks_of_diffusers_and_no_others(name):
    pipe, call = made(name)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found: Audit = audit(pipe, **call)
    leaks = {(leak.site.file, leak.site.function, leak.drawn_from, leak.count) for leak in found.leaks}
    assert leaks == KNOWN_LEAKS.get(name, set())
    for leak in found.leaks:
        assert leak.name in line_of(leak.site.file, leak.site.line)
        assert any("no seed reaches" in note or "only the first" in note for note in leak.notes)
    assert found.differences["repeat"] is None
    assert (found.differences["globals"] is None) == (name not in ("LTX", "SkyReels"))
    assert all("other instruction sets" in " ".join(draw.notes) for draw in found.draws)
    assert found.unseen == ()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_a_planted_leak_is_named_with_its_place(wan):
    """Of each library."""
    pipe, call = wan

    def leak(pipe, step, timestep, tensors):
        tensors["latents"] = tensors["latents"] + torch.randn(1) + np.random.rand()
        return tensors

    found = audit(pipe, **call, batch=False, callback_on_step_end=leak)
    line = leak.__code__.co_firstlineno + 1
    assert [str(draw.site) for draw in found.leaks] == [f"tests/keying/test_pipelines.py:{line} (leak)"] * 2
    assert [(draw.name, draw.count) for draw in found.leaks] == [("randn", 2), ("rand", 2)]
    assert found.failures == ["2 leaks", "globals: clip 0 differs"]


@pytest.mark.slow
def test_draws_of_other_generators_and_where_nobody_looks_are_told(wan):
    pipe, call = wan

    def own(pipe, step, timestep, tensors):
        torch.rand(1, generator=torch.Generator())
        return tensors

    (draw,) = audit(pipe, **call, batch=False, callback_on_step_end=own).leaks
    assert draw.drawn_from == "its own"

    def elsewhere(pipe, step, timestep, tensors):
        thread = threading.Thread(target=torch.rand, args=(1,))
        thread.start()
        thread.join()
        return tensors

    found = audit(pipe, **call, batch=False, callback_on_step_end=elsewhere)
    assert found.unseen == ("torch",)
    assert found.failures == ["unseen draws from the global generator of torch"]


def test_an_audit_of_what_is_no_clip_is_refused(wan):
    pipe, call = wan
    with pytest.raises(ValueError, match="give one prompt"):
        audit(pipe, **call | {"prompt": ["a", "b"]})
    with pytest.raises(ValueError, match="seed must be in"):
        audit(pipe, seed=2**64, **call)
    with pytest.raises(TypeError, match="pipe must be a DiffusionPipeline or what keyed made"):
        audit(pipe.vae)


@pytest.mark.slow
def test_a_batch_that_raises_is_told(wan):
    pipe, call = wan

    def fail(pipe, step, timestep, tensors):
        if len(tensors["latents"]) > 1:
            raise OSError("no space left")
        return tensors

    found = audit(pipe, **call, callback_on_step_end=fail)
    assert found.differences["batch"] == "raises OSError: no space left"
