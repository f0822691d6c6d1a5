"""Texts that are encoded before a clip is made, in memory and in a file."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from transformers import PreTrainedModel

from pyramid_seed import encode_prompts, extend, generate, load_pipeline, read_encoded_texts, verify
from pyramid_seed import shared_pipeline as shared_pipeline_module
from pyramid_seed.pipelines.encoded_texts import ENCODER_PARTS, EncodedTexts
from pyramid_seed.provenance.manifest import without_timings
from pyramid_seed.provenance.show import describe
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.cases import check_cases
from tests.conftest import REFERENCE

PROMPT, OTHER = "a boat", "a cat, wet"
HEADER = "pyramid_seed"


@pytest.fixture(params=["miniflux", pytest.param("sd3", marks=pytest.mark.slow)])
def guided(request, quick):
    """Settings of a guided clip of a frame."""
    model = str(REFERENCE / f"{request.param}-tiny")
    return quick | {"model": model, "num_frames": 1, "guidance_scale": 3.0, "negative_prompt": "fog"}


@pytest.fixture
def encoded(guided) -> EncodedTexts:
    return encode_prompts([PROMPT, OTHER], **guided)


@pytest.fixture
def saved(encoded, tmp_path) -> Path:
    return encoded.save(tmp_path / "texts.safetensors")


@pytest.fixture
def without_encoders(guided, tmp_path) -> Path:
    """The folder of the model, from which the text encoders are gone."""
    folder = Path(shutil.copytree(guided["model"], tmp_path / "model"))
    for part in ENCODER_PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    return folder


def alive() -> list[str]:
    """The text encoders that are in memory."""
    gc.collect()
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, PreTrainedModel)]


# The clip


def test_it_is_the_clip_of_the_whole_model_and_needs_no_file_of_an_encoder(guided, saved, without_encoders):
    whole = generate(PROMPT, seed=1, **guided)
    clip = generate(PROMPT, seed=1, prompt_embeds=saved, **guided | {"model": str(without_encoders)})
    expected = without_timings(whole.manifest)
    expected["model"] = clip.manifest["model"]  # a folder of another name
    expected["settings"] = clip.manifest["settings"]
    assert without_timings(clip.manifest) == expected
    with pytest.raises(ValueError, match="lacks text_encoder/"):
        generate(PROMPT, seed=1, **guided | {"model": str(without_encoders)})


def test_a_clip_is_verified_and_extended_with_and_without(guided, saved, tmp_path):
    path = generate(PROMPT, seed=1, prompt_embeds=saved, **guided).save(tmp_path / "clip.mp4")
    model, quiet = guided["model"], {"progress": False}
    for making in ({}, {"prompt_embeds": saved}, {"text_encoders": "free"}):
        assert verify(path, model=model, **making, **quiet).difference is None
    longer = [extend(path, 9, model=model, **making, **quiet) for making in ({}, {"prompt_embeds": saved})]
    assert longer[0].digest == longer[1].digest
    with pytest.raises(ValueError, match="must hold the embeddings of the prompt 'a boat', which is none of"):
        verify(path, model=model, prompt_embeds=encode_prompts(["b"], **guided), **quiet)


@pytest.mark.slow
def test_a_pipeline_of_ones_own_takes_them(guided, saved, encoded, without_encoders):
    whole = generate(PROMPT, seed=1, **guided)
    settings = {name: value for name, value in guided.items() if name not in ("model", "variant")}
    none = dict.fromkeys(ENCODER_PARTS[: 2 if "miniflux" in guided["model"] else 3])
    pipe = load_pipeline(without_encoders, **none)
    for embeds in (saved, str(saved), encoded):
        assert (
            generate(PROMPT, seed=1, prompt_embeds=embeds, pipeline=pipe, **settings).digest == whole.digest
        )
    pipe = load_pipeline(guided["model"])
    assert generate(PROMPT, seed=1, prompt_embeds=saved, pipeline=pipe, **settings).digest == whole.digest


def test_freed_encoders_are_gone_before_the_rest_is_loaded_and_not_needed_for_a_known_text(
    guided, monkeypatch
):
    shared_pipeline.clear()
    kept = generate(PROMPT, seed=1, **guided)
    loads, load = [], shared_pipeline_module.load_source

    def look(source, *rest):
        loads.append((set(source.without), alive()))
        return load(source, *rest)

    monkeypatch.setattr(shared_pipeline_module, "load_source", look)
    monkeypatch.setattr(shared_pipeline, "_encoders", None)  # nothing was encoded lately
    gc.collect()
    before = alive()  # those of pipelines that other tests share
    freed = generate(PROMPT, seed=1, text_encoders="free", **guided)
    assert without_timings(freed.manifest) == without_timings(kept.manifest)
    (text, _), (rest, there) = loads
    assert text == {"transformer", "vae"}
    assert rest == set(ENCODER_PARTS)
    assert len(there) < len(before) or not before
    assert generate(PROMPT, seed=2, text_encoders="free", **guided).seed == 2
    assert len(loads) == 2


@pytest.mark.slow
def test_a_text_encoded_elsewhere_is_told(guided, encoded, saved, tmp_path):
    """By hand: the same bits, said to be those of another machine; and other bits."""
    environment = dict(encoded.environment) | {
        "device": {"type": "cuda", "name": "A GPU", "capability": "9.0"}
    }
    elsewhere = replace(encoded, environment=environment).save(tmp_path / "elsewhere.safetensors")
    clip = generate(PROMPT, seed=1, prompt_embeds=elsewhere, **guided)
    assert clip.manifest["text_environment"] == environment
    assert dict(describe(clip.manifest))["encoded on"].startswith("A GPU, torch ")
    assert "text_environment" not in generate(PROMPT, seed=1, prompt_embeds=saved, **guided).manifest
    path = clip.save(tmp_path / "clip.mp4")
    same = verify(path, model=guided["model"], progress=False)
    assert same.difference is None
    assert "text.device.name" in [difference.field for difference in same.environment]

    texts = {
        text: embeddings._replace(prompt_embeds=embeddings.prompt_embeds * 1.001)
        for text, embeddings in encoded.texts.items()
    }
    others = replace(encoded, environment=environment, texts=texts).save(tmp_path / "others.safetensors")
    path = generate(PROMPT, seed=1, prompt_embeds=others, **guided).save(tmp_path / "other.mp4")
    assert verify(path, model=guided["model"], prompt_embeds=others, progress=False).difference is None
    differs = verify(path, model=guided["model"], progress=False)
    assert differs.difference is not None
    assert differs.difference.stage == "text"
    assert "text.device.name" in [difference.field for difference in differs.environment]
    kept = generate(PROMPT, seed=1, **guided).save(tmp_path / "kept.mp4", keep_latents=True)
    with pytest.raises(ValueError, match="was begun with other embeddings of its prompt"):
        extend(kept, 9, model=guided["model"], prompt_embeds=others, progress=False)


# The file


def test_what_is_read_is_what_was_written(encoded, saved):
    again = read_encoded_texts(saved)
    assert list(again.texts) == [PROMPT, OTHER, "fog"]
    for text, embeddings in encoded.texts.items():
        for ours, theirs in zip(again.texts[text], embeddings, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
    named = ("max_sequence_length", "dtype", "environment")
    assert [getattr(again, name) for name in named] == [getattr(encoded, name) for name in named]
    assert list(again.weights) == list(encoded.weights)
    assert {row["file"].partition("/")[0].removesuffix("_2").removesuffix("_3") for row in again.weights} == {
        "text_encoder",
        "tokenizer",
    }


def test_bfloat16_comes_back_as_it_is(guided, tmp_path):
    encoded = encode_prompts([PROMPT], **guided, dtype="bfloat16")
    again = read_encoded_texts(encoded.save(tmp_path / "texts.safetensors"))
    assert again.dtype == "bfloat16"
    assert torch.equal(again.texts[PROMPT].prompt_embeds, encoded.texts[PROMPT].prompt_embeds)
    whole = generate(PROMPT, seed=1, dtype="bfloat16", **guided)
    clip = generate(PROMPT, seed=1, dtype="bfloat16", prompt_embeds=again, **guided)
    assert clip.digest == whole.digest


def test_what_is_no_such_file_or_is_damaged_is_refused(saved, tmp_path):
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = load_file(saved)

    def refused(change, message):
        path, metadata = tmp_path / "changed.safetensors", json.loads(json.dumps(header))
        changed = dict(tensors)
        text = change(metadata, changed)
        save_file(changed, path, metadata={HEADER: json.dumps(metadata) if text is None else text})
        with pytest.raises(ValueError, match=message):
            read_encoded_texts(path).texts[PROMPT]

    def other_bits(_, changed):
        changed["0.prompt_embeds"] = changed["0.prompt_embeds"].neg()

    def no_mask(_, changed):
        del changed["0.prompt_attention_mask"]

    check_cases(
        {
            "no header": (lambda *_: "", "holds damaged embeddings"),
            "no JSON": (lambda *_: "{", "holds damaged embeddings"),
            "nested": (lambda *_: "[" * 100_000, "holds damaged embeddings"),
            "another schema": (lambda header, _: header.update(schema="x"), "holds damaged embeddings"),
            "a newer schema": (lambda header, _: header.update(schema_version=2), "holds damaged embeddings"),
            "no texts": (lambda header, _: header.update(texts=[]), "it has no texts"),
            "a dtype": (lambda header, _: header.update(dtype="int8"), "dtype must be one of"),
            "odd weights": (lambda header, _: header.update(weights=[1]), "holds damaged embeddings"),
            "a missing tensor": (no_mask, "lacks the embeddings of 'a boat'"),
            "other bits": (other_bits, "is damaged: the embeddings of 'a boat' are not those written"),
        },
        refused,
    )
    save_file(tensors, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="holds no embeddings of pyramid-seed encode"):
        read_encoded_texts(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("a text")
    with pytest.raises(ValueError, match="holds no embeddings"):
        read_encoded_texts(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_encoded_texts(tmp_path / "nothing.safetensors")


def test_saving_replaces_nothing_unasked(encoded, saved, tmp_path):
    with pytest.raises(FileExistsError):
        encoded.save(saved)
    encoded.save(saved, overwrite=True)
    with pytest.raises(ValueError, match=r"written as \.safetensors, .*texts\.pt; use .*texts\.safetensors"):
        encoded.save(tmp_path / "texts.pt")


# Bad input


def test_what_does_not_fit_is_refused_before_anything_is_loaded(guided, saved, encoded, monkeypatch):
    monkeypatch.setattr(shared_pipeline_module, "load_source", lambda *_: pytest.fail("something was loaded"))
    shared_pipeline.clear()

    def refused(prompt, changes, message, embeds=saved):
        with pytest.raises((ValueError, TypeError), match=message):
            generate(prompt, seed=1, prompt_embeds=embeds, **guided | changes)

    other = str(REFERENCE / ("sd3-tiny" if "miniflux" in guided["model"] else "miniflux-tiny"))
    check_cases(
        {
            "another prompt": ("a dog", {}, "embeddings of the prompt 'a dog', which is none of its 3 texts"),
            "another suffix": (PROMPT, {"prompt_suffix": ", HD"}, "embeddings of the prompt 'a boat, HD'"),
            "another negative": (PROMPT, {"negative_prompt": "rain"}, "of the negative prompt 'rain'"),
            "more tokens": (
                PROMPT,
                {"max_sequence_length": 48},
                "_length 32, the clip has 48",
            ),
            "another dtype": (PROMPT, {"dtype": "bfloat16"}, "with dtype float32, the clip has bfloat16"),
            "another model": (
                PROMPT,
                {"model": other},
                "be encoded with the model's own",
            ),
            "tensors": (PROMPT, {}, "got Tensor; to pass tensors, call the pipeline itself", torch.zeros(1)),
        },
        refused,
    )
    texts = {PROMPT: encoded.texts[PROMPT]._replace(pooled_prompt_embeds=torch.zeros(1, 3))}
    with pytest.raises(ValueError, match=r"pooled_prompt_embeds must have shape \(1, \d+\), got \(1, 3\)"):
        generate(
            PROMPT, seed=1, prompt_embeds=replace(encoded, texts=texts), **guided | {"guidance_scale": 1}
        )
    with pytest.raises(ValueError, match=r"with the model's own tokenizer/vocab\.json, which is another"):
        encoded.with_rows([{"file": "tokenizer/vocab.json", "size": 1, "sha256": "0"}])
    for prompts in ("a boat", []):
        with pytest.raises(TypeError, match="prompts must be a list of at least one str"):
            encode_prompts(prompts, **guided)


def test_unguided_clips_need_no_negative_prompt(guided, encoded):
    texts = {PROMPT: encoded.texts[PROMPT]}
    unguided = guided | {"guidance_scale": 1.0}
    clip = generate(PROMPT, seed=1, prompt_embeds=replace(encoded, texts=texts), **unguided)
    assert clip.digest == generate(PROMPT, seed=1, **unguided).digest
