"""From a prompt to embeddings."""

from __future__ import annotations

import pytest
import torch

from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.pipelines.text import (
    TextEmbeddings,
    check_encoders,
    guidance_pair,
    logger,
    text_digests,
)
from tests.cases import check_cases


@pytest.fixture
def said(monkeypatch):
    """What the module warns of."""
    messages: list[str] = []
    monkeypatch.setattr(logger, "warning", messages.append)
    return messages


def test_shapes(pipe):
    embeddings = pipe.encode_prompt("a red circle", max_sequence_length=20)
    config = pipe.transformer.config
    assert embeddings.prompt_embeds.shape == (1, 20, config.joint_attention_dim)
    assert embeddings.prompt_attention_mask.shape == (1, 20)
    assert embeddings.pooled_prompt_embeds.shape == (1, config.pooled_projection_dim)
    mask = embeddings.prompt_attention_mask[0].tolist()
    assert mask == sorted(mask, reverse=True)
    assert 0 < sum(mask) < 20


def test_a_prompt_that_fits_says_nothing(pipe, said):
    pipe.encode_prompt("a red circle", max_sequence_length=20)
    assert said == []


def test_a_long_prompt_is_cut_and_says_what_is_lost(pipe, said):
    t5 = pipe.tokenizer_3 or pipe.tokenizer_2
    text = "a red circle moves to the right and then a blue square falls"
    ids = t5(text).input_ids
    length = len(ids) - 4
    embeddings = pipe.encode_prompt(text, max_sequence_length=length)
    (message,) = said
    assert f"has {len(ids)} tokens" in message
    assert f"keeps {length}" in message
    lost = message.split("lost: ")[1].strip("'")
    assert text.endswith(lost)
    assert lost
    assert embeddings.prompt_attention_mask.all()
    kept = t5.decode(ids[: length - 1])
    assert torch.equal(
        embeddings.prompt_embeds,
        pipe.encode_prompt(kept, max_sequence_length=length).prompt_embeds,
    )


def test_needs_one_t5_and_all_clip_encoders(pipe):
    clip = [(pipe.tokenizer, pipe.text_encoder)]
    t5 = [(pipe.tokenizer_3 or pipe.tokenizer_2, pipe.text_encoder_3 or pipe.text_encoder_2)]
    config = pipe.transformer.config
    widths = config.joint_attention_dim, config.pooled_projection_dim

    def rule(encoders, text):
        with pytest.raises(ValueError, match=text):
            check_encoders(encoders, widths)

    needs = f"one T5 encoder of width {widths[0]} and CLIP encoders of {widths[1]} together, got T5 of "
    check_cases(
        [(clip, needs + r"\[\]"), (t5, needs + r".* and CLIP of \[\]"), (t5 + t5 + clip, needs)], rule
    )


@torch.no_grad()
def test_sd3_without_its_second_clip_encoder(load):
    parts = load("sd3").components
    other = PyramidFlowPipeline(**parts | {"text_encoder_2": None})
    with pytest.raises(ValueError, match=r"CLIP encoders of 24 together.*text_encoder_2"):
        other("a", height=64, width=64, num_frames=1)


def embeddings(value: float, length: int = 4) -> TextEmbeddings:
    mask = torch.ones(1, length, dtype=torch.int64)
    return TextEmbeddings(torch.full((1, length, 2), value), mask, torch.full((1, 3), value))


def test_guidance_pair_has_the_negative_prompt_first():
    pair = guidance_pair(embeddings(-1.0), embeddings(1.0))
    assert pair.prompt_embeds[:, 0, 0].tolist() == [-1.0, 1.0]
    assert pair.pooled_prompt_embeds[:, 0].tolist() == [-1.0, 1.0]
    assert pair.prompt_attention_mask.shape == (2, 4)


def test_guidance_pair_of_two_lengths():
    with pytest.raises(ValueError, match=r"shape of prompt_embeds, got \(1, 3, 2\) and \(1, 4, 2\)"):
        guidance_pair(embeddings(-1.0, length=3), embeddings(1.0))


def test_to_keeps_the_mask():
    moved = embeddings(1.0).to(torch.device("cpu"), torch.bfloat16)
    assert [values.dtype for values in moved] == [torch.bfloat16, torch.int64, torch.bfloat16]


def test_digests_tell_texts_apart_and_do_not_depend_on_strides():
    one = text_digests(embeddings(1.0), embeddings(0.0))
    assert set(one) == {"prompt", "negative_prompt"}
    assert one["prompt"] != one["negative_prompt"]
    assert text_digests(embeddings(1.0), None) == {"prompt": one["prompt"]}
    strided = TextEmbeddings(
        *(values.T.contiguous().T if values.ndim == 2 else values for values in embeddings(1.0))
    )
    assert text_digests(strided, None)["prompt"] == one["prompt"]
