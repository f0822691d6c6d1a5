"""A clip does not depend on how many workers share its pieces out, for any shards: threads of one process.

Into how many pieces the sequence is cut is a setting, and other shards make a clip that differs in its last
bits. Stand-in products, see `stand_ins`, show that it is by these pieces that the bits are the same.
"""

from __future__ import annotations

import json
import threading
from functools import cache, partial
from itertools import combinations, product

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from peft import LoraConfig

from pyramid_seed import generate
from pyramid_seed.pieces.processes import Processes
from pyramid_seed.pieces.workers import usable_cores
from pyramid_seed.pipelines import shared_step
from pyramid_seed.pipelines.beginning import Beginning
from pyramid_seed.pipelines.sharing import worker_count
from pyramid_seed.reproduce import extend, verify
from tests.cases import check_cases
from tests.refusals import not_refused

from . import clips
from .stand_ins import let_rows_and_heads_matter

FAMILY_NEUTRAL = pytest.mark.parametrize(
    "model", ["miniflux", pytest.param("sd3", marks=pytest.mark.slow)], indirect=True
)
SHARDS = [None, 1, 3]
CALLS = {
    "guided": {},
    "unguided": {"guidance_scale": 1.0},
    "guided at first": {"video_guidance_scale": 1.0},
    "from an image": {"image": clips.PICTURE},
    "an image": {"units": 1},
    "steps": {"num_inference_steps": [1, 2, 1], "units": 3},
}
LORA = LoraConfig(r=2, target_modules=["to_q", "to_v", "to_add_out"], init_lora_weights=False)


@pytest.fixture(params=["miniflux", "sd3"])
def model(request) -> str:
    """Those of three heads."""
    return request.param


@pytest.fixture(autouse=True)
def _short_sequences_are_cut(monkeypatch):
    monkeypatch.setattr(shared_step, "FEWEST_ROWS", 1)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pyramid-seed ")]


def clip(pipe, shards, workers, call="guided", **changes):
    return clips.make(
        pipe, **{"num_inference_steps": 1, **CALLS[call], "shards": shards, "workers": workers, **changes}
    )


@pytest.fixture(scope="module")
def made_by_one(loaded):
    """The clip of a model, of shards and of a call, made by one worker."""
    return cache(lambda model, shards, call: clip(loaded(model), shards, 1, call))


@pytest.fixture
def of_one(model, made_by_one):
    return partial(made_by_one, model)


def assert_same(one, other) -> None:
    clips.assert_same(one, other)
    assert one.stage_digests == other.stage_digests


CASES = [("guided", None, 2), ("guided", 3, 4), ("from an image", 1, 3)]


def test_any_number_of_workers_makes_the_clip_of_one(model, pipe, of_one):
    check_cases(
        CASES if model == "miniflux" else CASES[1:2],  # families differ in their layers alone
        lambda call, shards, workers: assert_same(clip(pipe, shards, workers, call), of_one(shards, call)),
    )


@pytest.mark.slow
def test_any_number_of_workers_for_all_calls_and_shards(pipe, of_one):
    check_cases(
        product(CALLS, SHARDS, [2, 3, 4, 7]),
        lambda call, shards, workers: assert_same(clip(pipe, shards, workers, call), of_one(shards, call)),
    )


@pytest.mark.slow
def test_the_embedded_model(loaded):
    """It has five heads."""
    check_cases(
        product([1, 5], [2, 4]),
        lambda shards, workers: assert_same(
            clip(loaded("tiny"), shards, workers), clip(loaded("tiny"), shards, 1)
        ),
    )
    with pytest.raises(ValueError, match="divide the 5 heads of the transformer, got 3; use one of 1, 5"):
        clip(loaded("tiny"), 3, 2)


def test_other_shards_make_nearly_the_same_clip(of_one):
    """In pieces the velocity is that of the whole sequence: a few bits apart, and so nowhere wrong."""
    whole, in_pieces = of_one(1, "guided"), of_one(3, "guided")
    assert whole.ledgers == in_pieces.ledgers
    assert whole.text_digests == in_pieces.text_digests
    torch.testing.assert_close(in_pieces.latents, whole.latents, rtol=0, atol=1e-3)


@pytest.mark.slow
@FAMILY_NEUTRAL
def test_prefixes_and_beginnings(pipe, of_one):
    shorter = of_one(3, "guided")
    whole = clip(pipe, 3, 3, units=3)
    assert torch.equal(whole.latents[:, :, :2], shorter.latents)
    assert (whole.frames[:, : shorter.frames.shape[1]] == shorter.frames).all()
    assert whole.stage_digests[0][:2] == shorter.stage_digests[0]
    longer = clip(pipe, 3, 2, units=3, beginning=Beginning(shorter.latents))
    assert torch.equal(longer.latents, whole.latents)
    assert (longer.frames == whole.frames).all()
    assert longer.ledgers == whole.ledgers


@pytest.mark.slow
@FAMILY_NEUTRAL
def test_lora_and_its_scale(own_pipe):
    own_pipe.transformer.add_adapter(LORA)
    make, scale = partial(clip, own_pipe, call="an image"), {"attention_kwargs": {"scale": 0.5}}
    full, half = make(3, 1), make(3, 1, **scale)
    assert not torch.equal(full.latents, half.latents)
    assert_same(make(3, 3, **scale), half)
    assert_same(make(3, 3), full)  # the scale has gone with its call
    # Once for both halves of guidance, as for those in one batch: a few bits apart.
    for shards, workers in ((None, 1), (1, 2)):
        torch.testing.assert_close(make(shards, workers, **scale).latents, half.latents, rtol=0, atol=1e-3)


@FAMILY_NEUTRAL
def test_a_scale_of_lora_goes_with_a_call_that_fails(own_pipe):
    own_pipe.transformer.add_adapter(LORA)
    before = clip(own_pipe, 3, 2, "an image")
    hook = own_pipe.transformer.proj_out.register_forward_hook(fails)
    with pytest.raises(ArithmeticError, match="the reason"):
        clip(own_pipe, 3, 2, "an image", attention_kwargs={"scale": 0.5})
    hook.remove()
    assert_same(clip(own_pipe, 3, 2, "an image"), before)


def fails(*_):
    raise ArithmeticError("the reason")


@FAMILY_NEUTRAL
def test_a_step_cache_keeps_a_state_for_each_half(own_pipe):
    make = partial(clip, own_pipe, 1, call="an image", num_inference_steps=2)
    plain = make(1)
    own_pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    first = make(1)
    assert not torch.equal(first.latents, plain.latents)
    assert_same(make(2), first)
    with pytest.raises(ValueError, match="shards must be 1 here, got 3: a step cache decides for a whole"):
        clips.make(own_pipe, shards=3)
    own_pipe.transformer.disable_cache()
    assert_same(make(2), plain)


@FAMILY_NEUTRAL
def test_attention_reference_has_the_halves_as_its_pieces(pipe):
    make = partial(clip, pipe, 1, call="an image", attention="reference")
    assert_same(make(2), make(1))


# ---- callbacks, errors, interrupts


@FAMILY_NEUTRAL
def test_callbacks_are_told_in_order(pipe, of_one):
    steps, units, chunks = [], [], []
    made = clip(
        pipe,
        3,
        4,
        callback_on_step_end=lambda pipe, step, *_: steps.append((step, threading.current_thread())) or {},
        callback_on_unit_end=lambda clip, unit, *_: units.append(unit),
        callback_on_chunk_end=lambda clip, chunk, frames: chunks.append((chunk, frames)),
    )
    assert_same(made, of_one(3, "guided"))
    assert steps == [(step, threading.current_thread()) for step in range(6)]
    assert units == [0, 1]
    assert [chunk for chunk, _ in chunks] == [0, 1]
    assert np.array_equal(np.concatenate([frames for _, frames in chunks]), made.frames[0])


@FAMILY_NEUTRAL
def test_a_stopped_run_keeps_its_whole_units(pipe, of_one):
    def stop(pipe, step, *_):
        pipe._interrupt = pipe.current_place.unit == 2
        return {}

    made = clip(pipe, 3, 3, units=4, callback_on_step_end=stop)
    assert made.interrupted
    whole = of_one(3, "guided")
    assert torch.equal(made.latents, whole.latents)
    assert (made.frames == whole.frames).all()


@FAMILY_NEUTRAL
@pytest.mark.parametrize(
    ("callback", "error"), [("step", KeyboardInterrupt), ("unit", OSError), ("chunk", KeyboardInterrupt)]
)
def test_what_a_callback_raises_ends_the_call_and_its_threads(pipe, of_one, callback, error):
    def raises(*_):
        raise error("the reason")

    with pytest.raises(error, match="the reason"):
        clip(pipe, 3, 3, **{f"callback_on_{callback}_end": raises})
    assert not [thread.name for thread in threading.enumerate() if "pyramid-seed" in thread.name]
    if callback == "step":
        assert_same(clip(pipe, 3, 3), of_one(3, "guided"))


@FAMILY_NEUTRAL
@pytest.mark.parametrize("shards", [1, 3])
def test_a_piece_that_fails_ends_the_call_with_its_error(own_pipe, shards):
    """The others wait for what it should have given them; and one after several steps, not the first."""
    calls = []
    block = own_pipe.transformer.transformer_blocks[1]
    block.register_forward_pre_hook(lambda *_: fails() if calls.append(1) or len(calls) == 9 else None)
    with pytest.raises(ArithmeticError, match="the reason"):
        clip(own_pipe, shards, 2, units=3)
    assert len(calls) >= 9


@FAMILY_NEUTRAL
def test_frames_that_are_not_finite_end_the_call_at_their_unit(pipe, monkeypatch):
    decode, chunks = pipe.vae._decode_chunk, []

    def spoiled(z, cache):
        chunks.append(1)
        return decode(z * torch.nan if len(chunks) == 2 else z, cache)

    monkeypatch.setattr(pipe.vae, "_decode_chunk", spoiled)
    with pytest.raises(FloatingPointError, match=r"decoded frames of latent frame [12] are not finite"):
        clip(pipe, 1, 3, units=3)


# ---- what is refused


@FAMILY_NEUTRAL
def test_shards_and_workers_that_cannot_be(pipe, own_pipe):
    def given(arguments):
        return clips.make(pipe, units=1, num_inference_steps=1, **dict(arguments))

    def processes(number):
        return Processes(tuple(range(number)), 0, torch.device("cpu"), None)

    words = {
        (("shards", 2),): "shards must divide the 3 heads of the transformer, got 2; use one of 1, 3",
        (("shards", 6),): "shards must divide the 3 heads of the transformer, got 6; use one of 1, 3",
        (("shards", 0),): "shards must be",
        (("workers", 0),): "workers must be",
        (("workers", 129),): "workers must be",
        (("workers", 2), ("determinism", "relaxed")): "workers are for determinism strict on a CPU, got 2 on "
        "cpu at relaxed, where kernels share the work out; leave workers out",
        (("shards", 3), ("attention", "reference")): "shards must be 1 here, got 3: attention 'reference'",
        (("processes", processes(2)),): "a clip that 2 processes make must be in pieces: give shards=1",
        (
            ("processes", processes(4)),
            ("shards", 3),
        ): "must divide its 6 pieces (shards x 2), got 4; use 1 or 2 or 3 or 6 processes, or other shards",
        (
            ("processes", processes(3)),
            ("shards", 1),
        ): "must divide its 2 pieces (shards x 2), got 3; use 1 or 2 processes, or other shards",
        (("processes", processes(2)), ("shards", 3), ("guidance_scale", 1.0)): "must divide its 3 pieces "
        "(shards), got 2; use 1 or 3 processes, or other shards",
    }
    assert not_refused(given, words) == {}
    kinds = {(("shards", "3"),): "shards must be", (("workers", 1.5),): "workers must be"}
    assert not_refused(given, kinds, TypeError) == {}
    own_pipe.transformer.compile_repeated_blocks()  # it would be compiled by its first call
    with pytest.raises(ValueError, match="shards must be 1 here, got 3: the transformer is compiled"):
        clips.make(own_pipe, shards=3)


@FAMILY_NEUTRAL
def test_how_many_workers_there_are(pipe, own_pipe):
    cpu = torch.device("cpu")

    def count(pipe, requested, device=cpu, is_strict=True):
        return worker_count(requested, device, pipe.transformer, pipe.vae, is_strict=is_strict)

    assert count(pipe, None) == usable_cores()
    assert count(pipe, 7) == 7
    assert [count(pipe, requested, is_strict=False) for requested in (None, 1)] == [1, 1]
    assert [count(pipe, requested, torch.device("cuda")) for requested in (None, 1)] == [1, 1]
    # Where hooks or a cache take one call at a time.
    own_pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    assert [count(own_pipe, requested) for requested in (None, 4)] == [1, 1]


def test_arguments_of_generate(quick, monkeypatch):
    monkeypatch.setattr(
        "pyramid_seed.shared_pipeline.load_source", lambda *_, **__: pytest.fail("the model was loaded")
    )
    with pytest.raises(TypeError, match="processes must be a Processes, got int"):
        generate("a boat", processes=2, **quick)
    for workers in (0, 129):
        with pytest.raises(ValueError, match="workers must be a whole number of at least 1"):
            generate("a boat", workers=workers, **quick)


# ---- saved clips


@pytest.mark.slow
def test_verified_and_extended_by_another_number_of_workers(quick, tmp_path):
    settings = quick | {"shards": 3, "num_frames": 1}
    made = generate("a boat", seed=3, workers=2, **settings)
    assert made.manifest["settings"]["shards"] == 3
    assert "workers" not in json.dumps(made.manifest)
    path = made.save(tmp_path / "boat.mp4", keep_latents=True)
    given = {"model": quick["model"], "progress": False}
    assert verify(path, workers=1, **given).difference is None
    whole = generate("a boat", seed=3, workers=1, **settings | {"num_frames": 9})
    longer = extend(path, 9, workers=3, **given)
    assert longer.recipe.settings.shards == 3
    assert longer.manifest["digests"] == whole.manifest["digests"]


# ---- that it is not luck


@FAMILY_NEUTRAL
def test_with_products_that_depend_on_their_rows(pipe, of_one, monkeypatch):
    """The same clip by any number of workers; another one where shards are tied to that number."""
    alone = of_one(3, "guided")
    let_rows_and_heads_matter(monkeypatch)
    fixed = clip(pipe, 3, 1)
    assert not torch.allclose(fixed.latents, alone.latents, rtol=0, atol=1e-3)
    assert_same(clip(pipe, 3, 3), fixed)

    tied = {workers: clip(pipe, shards, workers, "an image") for workers, shards in enumerate(SHARDS, 1)}
    for one, other in combinations(tied.values(), 2):
        assert not torch.allclose(one.latents, other.latents, rtol=0, atol=1e-3)
    for workers, shards in ((2, None), (1, 1), (2, 3)):
        assert_same(clip(pipe, shards, workers, "an image"), tied[SHARDS.index(shards) + 1])
    with pytest.raises(AssertionError):
        assert_same(tied[3], tied[1])
