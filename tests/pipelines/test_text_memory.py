"""Equal texts are encoded once, and only as long as nothing that has a part in it has changed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from pyramid_seed.determinism import determinism_level
from pyramid_seed.pipelines import text_encoders
from pyramid_seed.pipelines.text import encode_text
from pyramid_seed.pipelines.text_memory import TextMemory
from tests.pipelines.conftest import FAMILY_NEUTRAL

CPU = torch.device("cpu")


@pytest.fixture
def encoded(own_pipe, monkeypatch):
    """The texts that the pipeline really encodes, in order."""
    texts: list[str] = []
    encode = text_encoders.encode_text

    def spy(text, *rest):
        texts.append(text)
        return encode(text, *rest)

    monkeypatch.setattr(text_encoders, "encode_text", spy)
    return texts


def fresh_text(pipe, text):
    """A text encoded now, as a call does it."""
    with torch.no_grad():
        return encode_text(text, pipe._text_encoders(), 20, CPU)


def assert_bits(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_remembered_is_what_encoding_again_gives(own_pipe, encoded):
    first = own_pipe.remembered_text("a red circle", 20)
    again = own_pipe.remembered_text("a red circle", 20)
    assert encoded == ["a red circle"]
    assert_bits(first, again)
    assert_bits(first, fresh_text(own_pipe, "a red circle"))


@FAMILY_NEUTRAL
def test_a_negative_prompt_is_encoded_once_for_many_calls(own_pipe, encoded, small):
    small["num_frames"] = 1
    calls = [own_pipe(text, negative_prompt="fog", seed=1, **small) for text in ("a", "b", "a")]
    assert encoded == ["a", "fog", "b"]
    assert torch.equal(calls[0].latents, calls[2].latents)
    assert calls[0].text_digests == calls[2].text_digests


@FAMILY_NEUTRAL
def test_clips_do_not_depend_on_what_is_remembered(own_pipe, small):
    small["num_frames"] = 1
    first = own_pipe("a", negative_prompt="fog", seed=1, **small)
    own_pipe(["b", "c"], negative_prompt="rain", seed=1, **small)
    again = own_pipe("a", negative_prompt="fog", seed=1, **small)
    own_pipe.__dict__.pop("_text_memory")
    fresh = own_pipe("a", negative_prompt="fog", seed=1, **small)
    for other in (again, fresh):
        assert torch.equal(first.latents, other.latents)
        assert (first.text_digests, first.ledgers) == (other.text_digests, other.ledgers)


def write(pipe):
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).mul_(1.5)


def load(pipe):
    state = {name: values * 1.5 for name, values in pipe.text_encoder.state_dict().items()}
    pipe.text_encoder.load_state_dict(state)


def replace(pipe):
    pipe.text_encoder = type(pipe.text_encoder)(pipe.text_encoder.config).eval()


def cast(pipe):
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if getattr(pipe, name) is not None:
            getattr(pipe, name).to(torch.bfloat16)


def add_adapter(pipe):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, pipe.text_encoder)


@FAMILY_NEUTRAL
@pytest.mark.parametrize("change", [write, load, replace, cast, add_adapter], ids=lambda f: f.__name__)
def test_a_change_of_an_encoder_is_noticed(own_pipe, encoded, change):
    before = own_pipe.remembered_text("a", 20)
    change(own_pipe)
    after = own_pipe.remembered_text("a", 20)
    assert encoded == ["a", "a"]
    assert not torch.equal(before.pooled_prompt_embeds, after.pooled_prompt_embeds)
    assert_bits(after, fresh_text(own_pipe, "a"))


@FAMILY_NEUTRAL
def test_merging_an_adapter_is_noticed(own_pipe, encoded):
    add_adapter(own_pipe)
    layer = next(module for module in own_pipe.text_encoder.modules() if hasattr(module, "merged_adapters"))
    own_pipe.remembered_text("a", 20)
    layer.set_scale("default", 0.5)
    own_pipe.remembered_text("a", 20)
    layer.merge()
    own_pipe.remembered_text("a", 20)
    assert encoded == ["a"] * 3


@FAMILY_NEUTRAL
def test_length_and_settings_of_the_process_count(own_pipe, encoded):
    own_pipe.remembered_text("a", 20)
    own_pipe.remembered_text("a", 21)
    with determinism_level("strict"):
        own_pipe.remembered_text("a", 20)
    with torch.autocast("cpu", torch.bfloat16):
        own_pipe.remembered_text("a", 20)
    assert len(encoded) == 4
    own_pipe.remembered_text("a", 20)
    assert len(encoded) == 4


def test_the_least_recently_used_text_goes_first():
    memory, encoded = TextMemory(limit=2), []
    for text in ("a", "b", "a", "c", "a", "b"):
        memory.get(text, 8, CPU, [], lambda text=text: encoded.append(text))
    assert encoded == ["a", "b", "c", "b"]


@FAMILY_NEUTRAL
def test_memory_does_not_keep_encoders(own_pipe):
    own_pipe.remembered_text("a", 20)
    encoder = weakref.ref(own_pipe.text_encoder)
    own_pipe.text_encoder = None
    gc.collect()
    assert encoder() is None
