"""Text encoders that are given up or moved after use."""

from __future__ import annotations

import weakref

import pytest
import torch

from pyramid_seed import generate, load_pipeline, run_batch
from pyramid_seed.pipelines import text_encoders
from pyramid_seed.presets import Settings, load_preset, with_settings
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.pipelines.conftest import FAMILY_NEUTRAL

GONE = "the text encoders have been freed, and 'b' was not encoded before that; give prompt_embeds"


@pytest.fixture
def one_frame(small):
    """Settings of what is enough to show a text."""
    return small | {"num_frames": 1}


@pytest.fixture
def picture(quick):
    """The same for `generate`."""
    return quick | {"num_frames": 1}


def encoders(pipe):
    return [part for name, part in pipe.components.items() if name.startswith("text_encoder")]


class TestEncodePrompt:
    LONG = "a big yellow triangle, slowly, slowly, moves up"

    @torch.no_grad()
    def test_a_list_gives_what_each_gives_alone(self, pipe):
        """Bit for bit, also beside a text of another length and twice in one list."""
        prompts = ["a", self.LONG, "a"]
        together = pipe.encode_prompt(prompts, ["fog", "", "rain"], max_sequence_length=24)
        for index, (prompt, negative) in enumerate(zip(prompts, ["fog", "", "rain"], strict=True)):
            alone = pipe.encode_prompt(prompt, negative, max_sequence_length=24)
            for ours, theirs in zip(together, alone, strict=True):
                assert torch.equal(ours[index : index + 1], theirs)

    @FAMILY_NEUTRAL
    def test_videos_of_a_prompt_are_next_to_each_other(self, pipe):
        one = pipe.encode_prompt(["a", "b"], max_sequence_length=24)
        three = pipe.encode_prompt(["a", "b"], num_videos_per_prompt=3, max_sequence_length=24)
        for values, repeated in zip(one, three, strict=True):
            assert torch.equal(repeated, values[[0, 0, 0, 1, 1, 1]])

    def test_without_guidance_there_are_no_negative_ones(self, pipe):
        encoded = pipe.encode_prompt("a", "fog", do_classifier_free_guidance=False)
        assert encoded.negative is None
        assert encoded[3:] == (None, None, None)

    def test_what_is_given_is_not_encoded(self, pipe):
        encoded = pipe.encode_prompt(["a", "b"], "fog", max_sequence_length=24)
        given = encoded.positive._asdict()
        again = pipe.encode_prompt(negative_prompt="fog", **given)
        one_for_all = {f"negative_{name}": values[:1] for name, values in encoded.negative._asdict().items()}
        for other in (again, pipe.encode_prompt(**given, **one_for_all)):
            assert all(torch.equal(*pair) for pair in zip(encoded, other, strict=True))

    def test_gradients_flow_through(self, own_pipe):
        for encoder in encoders(own_pipe):
            if encoder is not None:
                encoder.requires_grad_(True)
        encoded = own_pipe.encode_prompt("a", "fog", max_sequence_length=24)
        assert all(values.requires_grad for values in encoded if values.is_floating_point())
        (encoded.prompt_embeds.sum() + encoded.pooled_prompt_embeds.sum()).backward()
        for encoder in encoders(own_pipe):
            if encoder is not None:
                assert any(weight.grad is not None and weight.grad.any() for weight in encoder.parameters())

    def test_a_call_gives_the_same_clip_with_its_embeddings(self, pipe, known, one_frame):
        with torch.no_grad():
            embeddings = pipe.encode_prompt("a", "fog")
        given = pipe(**embeddings._asdict(), seed=7, **one_frame)
        encoded = known("a", negative_prompt="fog", num_frames=1)
        assert torch.equal(given.latents, encoded.latents)
        assert given.text_digests == encoded.text_digests
        with_gradients = pipe.encode_prompt("a", "fog")
        for values, expected in zip(with_gradients, embeddings, strict=True):
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
        assert pipe(**with_gradients._asdict(), seed=7, **one_frame).latents.isfinite().all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "give a prompt or prompt_embeds"),
            ({"prompt": 3}, "prompt must be a str or a non-empty list of str, got 3"),
            ({"prompt": "a", "negative_prompt": ["b", "c"]}, "one entry for each of the 1 prompts, got 2"),
            ({"prompt_embeds": torch.zeros(1, 4, 8)}, "prompt_embeds must come with prompt_attention_mask"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, pipe, arguments, message):
        with pytest.raises(ValueError, match=message):
            pipe.encode_prompt(**arguments)


@FAMILY_NEUTRAL
@pytest.mark.parametrize("then", ["keep", "offload", "free"])
def test_the_clip_is_the_same(own_pipe, known, one_frame, then):
    kept = known("a", negative_prompt="fog", num_frames=1)
    other = own_pipe("a", negative_prompt="fog", seed=7, text_encoders=then, **one_frame)
    assert torch.equal(kept.latents, other.latents)
    assert kept.text_digests == other.text_digests


@FAMILY_NEUTRAL
def test_freed_encoders_leave_memory_before_the_units_are_made(own_pipe, small):
    (references,) = [[weakref.ref(encoder) for encoder in encoders(own_pipe) if encoder is not None]]
    alive = []

    def look(*_):
        alive.append([reference for reference in references if reference() is not None])

    own_pipe("a", seed=1, text_encoders="free", callback_on_unit_end=look, **small)
    assert alive[0] == []
    assert encoders(own_pipe) == [None] * len(encoders(own_pipe))


@FAMILY_NEUTRAL
def test_after_freeing_old_texts_work_and_new_ones_say_what_to_do(own_pipe, one_frame):
    first = own_pipe("a", negative_prompt="fog", seed=1, text_encoders="free", **one_frame)
    again = own_pipe("a", negative_prompt="fog", seed=1, text_encoders="free", **one_frame)
    assert torch.equal(first.latents, again.latents)
    own_pipe.free_text_encoders()
    assert torch.equal(first.latents, own_pipe("a", negative_prompt="fog", seed=1, **one_frame).latents)
    with pytest.raises(ValueError, match=GONE):
        own_pipe("b", negative_prompt="fog", seed=1, **one_frame)


@FAMILY_NEUTRAL
def test_the_way_of_diffusers(own_pipe, known, one_frame):
    """Encode first, take the encoders away, give embeddings."""
    whole = known("b", negative_prompt="fog", num_frames=1)
    with torch.no_grad():
        embeddings = own_pipe.encode_prompt("b", "fog")
    own_pipe.text_encoder = own_pipe.text_encoder_2 = own_pipe.text_encoder_3 = None
    with pytest.raises(ValueError, match=GONE):
        own_pipe("b", **one_frame)
    given = own_pipe(**embeddings._asdict(), seed=7, **one_frame)
    assert torch.equal(whole.latents, given.latents)


@FAMILY_NEUTRAL
def test_new_encoders_work_after_freeing(own_pipe, pipe, known, one_frame):
    own_pipe.free_text_encoders()
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        setattr(own_pipe, name, getattr(pipe, name))
    assert torch.equal(own_pipe("b", seed=7, **one_frame).latents, known("b", num_frames=1).latents)


@FAMILY_NEUTRAL
def test_what_to_do_after_use_must_be_known(own_pipe, small):
    with pytest.raises(ValueError, match="text_encoders must be one of keep, offload, free, got 'drop'"):
        own_pipe("a", text_encoders="drop", **small)
    assert None not in [own_pipe.text_encoder, own_pipe.text_encoder_2]


def test_generate_frees_and_loads_again(picture):
    one, other = (generate("a", seed=1, text_encoders=then, **picture) for then in ("free", "keep"))
    assert one.digest == other.digest
    assert one.manifest["digests"] == other.manifest["digests"]
    tiny = with_settings(load_preset("tiny"), Settings(model=picture["model"], variant="384p"))
    assert shared_pipeline.get(tiny).text_encoder is not None


def test_generate_with_a_pipeline_that_is_freed(picture):
    pipe = load_pipeline(picture["model"], variant="384p")
    first = generate("a", seed=1, text_encoders="free", pipeline=pipe, **picture)
    assert generate("a", seed=1, pipeline=pipe, **picture).digest == first.digest
    with pytest.raises(ValueError, match=GONE):
        generate("b", seed=1, pipeline=pipe, **picture)


def test_a_batch_encodes_the_negative_prompt_once_and_frees_nothing(tmp_path, picture, monkeypatch):
    texts, encode = [], text_encoders.encode_text
    monkeypatch.setattr(
        text_encoders, "encode_text", lambda text, *rest: texts.append(text) or encode(text, *rest)
    )
    (prompts := tmp_path / "list.txt").write_text("a\nb\nc\n")
    settings = {**picture, "negative_prompt": "fog", "guidance_scale": 3.0}
    shared_pipeline.clear()
    assert run_batch(prompts, tmp_path / "clips", text_encoders="offload", **settings).made == 3
    assert sorted(texts) == ["a", "b", "c", "fog"]
    with pytest.raises(ValueError, match="must be keep or offload, got 'free'; a batch has more texts"):
        run_batch(prompts, tmp_path / "more", text_encoders="free", **settings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
def test_offloaded_encoders_come_back(own_pipe, small):
    device = torch.accelerator.current_accelerator()
    own_pipe.to(device)
    kept = [own_pipe(text, seed=1, **small) for text in ("a", "b")]
    own_pipe.__dict__.pop("_text_memory")
    for text, wanted in zip(("a", "b"), kept, strict=True):
        made = own_pipe(text, seed=1, text_encoders="offload", **small)
        assert {encoder.device.type for encoder in encoders(own_pipe) if encoder is not None} == {"cpu"}
        assert torch.equal(wanted.latents, made.latents)
