"""Frames are told as they are made: in order, the same as those of the output, and none is kept in vain."""

from __future__ import annotations

import gc

import accelerate
import numpy as np
import pytest
import torch

from pyramid_seed.pipelines.beginning import Beginning
from pyramid_seed.pipelines.decode import ClipDecoder, decode_chunks, to_uint8
from tests.pipelines.conftest import FAMILY_NEUTRAL

SHAPES = [(1, 64, 64, 3), (8, 64, 64, 3)]


@pytest.fixture
def told():
    """What a callback was told: (clip, chunk, frames)."""
    return []


@pytest.fixture
def tell(told):
    return lambda *call: told.append(call)


def frames_of(told, clip):
    return np.concatenate([frames for index, _, frames in told if index == clip])


@FAMILY_NEUTRAL
@pytest.mark.parametrize(
    ("output_type", "num_frames"), [("uint8", 9), ("latent", 1), ("np", 1), ("pt", 1), ("pil", 1)]
)
def test_frames_of_two_clips(make, known, told, tell, output_type, num_frames):
    settings = {"seed": [1, 2], "num_frames": num_frames}
    expected = known(["a", "b"], **settings, output_type="uint8")
    output = make(["a", "b"], **settings, output_type=output_type, callback_on_chunk_end=tell)
    plain = known(["a", "b"], **settings, output_type=output_type)

    shapes = SHAPES if num_frames == 9 else SHAPES[:1]
    assert [call[:2] for call in told] == [(clip, chunk) for clip in range(2) for chunk in range(len(shapes))]
    assert [frames.shape for *_, frames in told] == shapes * 2
    assert all(isinstance(frames, np.ndarray) and frames.dtype == np.uint8 for *_, frames in told)
    for clip in range(2):
        assert np.array_equal(frames_of(told, clip), expected.frames[clip])
    assert torch.equal(output.latents, expected.latents)
    if output_type == "pil":
        same = [list(map(np.asarray, clip)) for clip in output.frames]
        assert np.array_equal(same, [list(map(np.asarray, clip)) for clip in plain.frames])
    else:
        assert np.array_equal(output.frames, plain.frames)


@FAMILY_NEUTRAL
def test_the_frames_are_the_callees_to_change(make, known):
    def spoil(clip, chunk, frames):
        frames[:] = 0

    plain = known(output_type="uint8")
    assert np.array_equal(make(output_type="uint8", callback_on_chunk_end=spoil).frames, plain.frames)


@FAMILY_NEUTRAL
def test_a_chunk_is_told_before_the_next_unit_begins(make):
    events = []
    make(
        workers=1,
        num_frames=17,
        callback_on_step_end=lambda pipe, *_: events.append(("step", pipe.current_place.unit)),
        callback_on_unit_end=lambda clip, unit, latents, digests: events.append(("unit", unit)),
        callback_on_chunk_end=lambda clip, chunk, frames: events.append(("chunk", chunk)),
    )
    order = [event for index, event in enumerate(events) if event not in events[:index]]
    assert order == [(what, unit) for unit in range(3) for what in ("step", "unit", "chunk")]


@FAMILY_NEUTRAL
def test_known_units_are_told_first(make, known, told, tell):
    whole = known(num_frames=25, output_type="uint8")
    steps = []
    make(
        workers=1,
        num_frames=25,
        beginning=Beginning(whole.latents[:, :, :2]),
        callback_on_step_end=lambda *_: steps.append(len(told)) or {},
        callback_on_chunk_end=tell,
    )
    assert steps[0] == 2
    assert np.array_equal(frames_of(told, 0), whole.frames[0])


@FAMILY_NEUTRAL
def test_it_may_stop_the_run(pipe, make, known, told):
    def stop(clip, chunk, frames):
        told.append(chunk)
        pipe._interrupt = chunk == 1

    output = make(workers=1, num_frames=25, output_type="uint8", callback_on_chunk_end=stop)
    assert told == [0, 1]
    assert output.interrupted
    assert output.latents.shape[2] == 2
    assert np.array_equal(output.frames, known(num_frames=9, output_type="uint8").frames)


@FAMILY_NEUTRAL
def test_no_unit_pays_for_a_garbage_collection(make, monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda *_: pytest.fail("collected"))
    make(num_frames=17, output_type="uint8")


@FAMILY_NEUTRAL
def test_what_it_raises_ends_the_run(make, told, tell):
    def fail(*call):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        make(callback_on_chunk_end=fail)


@FAMILY_NEUTRAL
def test_values_that_are_not_finite_end_the_run_at_their_unit(pipe, make, told, tell, monkeypatch):
    decode = pipe.vae._decode_chunk
    monkeypatch.setattr(
        pipe.vae,
        "_decode_chunk",
        lambda z, cache: decode(z, cache) if not told else decode(z * torch.nan, cache),
    )
    units = []
    with pytest.raises(FloatingPointError, match="decoded frames of latent frame 1 are not finite"):
        make(
            workers=1,
            num_frames=25,
            callback_on_chunk_end=tell,
            callback_on_unit_end=lambda clip, unit, *_: units.append(unit),
        )
    assert units == [0, 1]


@FAMILY_NEUTRAL
def test_under_model_offload_frames_come_after_the_last_unit(own_pipe, known, small, told, tell):
    """Else each unit would carry the transformer away from its device and back."""
    expected = known(["a", "b"], num_frames=9, output_type="uint8")
    hook = None
    for name in own_pipe.model_cpu_offload_seq.split("->"):
        if getattr(own_pipe, name) is not None:
            _, hook = accelerate.cpu_offload_with_hook(getattr(own_pipe, name), "cpu", prev_module_hook=hook)
    steps = []
    own_pipe(
        ["a", "b"],
        **small | {"seed": 7},
        callback_on_step_end=lambda *_: steps.append(len(told)) or {},
        callback_on_chunk_end=tell,
    )
    assert set(steps) == {0}
    for clip in range(2):
        assert np.array_equal(frames_of(told, clip), expected.frames[clip])


@torch.no_grad()
def test_an_image_leaves_nothing_behind(pipe):
    """The cache is for chunks to come; an image has none."""
    chunks = []
    decoder = ClipDecoder(pipe.vae, lambda chunk, pixels: chunks.append(pixels))
    latents = torch.randn(1, pipe.vae.config.latent_channels, 1, 8, 8)
    decoder.put(latents, is_last=True)
    decoder.poll()
    decoder.finish()
    (pixels,) = chunks
    assert not decoder._decode._caches
    assert torch.equal(pixels, next(decode_chunks(pipe.vae, latents)))
    assert to_uint8(pixels).shape == (1, 1, 64, 64, 3)
