"""Batches of texts that were encoded beforehand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from pyramid_seed import BatchInputError, run_batch
from pyramid_seed.batch.encode import encode_list
from pyramid_seed.batch.identity import Job
from pyramid_seed.batch.items import BatchItem
from pyramid_seed.batch.run import _ClipMaker
from pyramid_seed.pipelines.encoded_texts import ENCODER_PARTS
from pyramid_seed.presets import Settings, load_preset, with_settings
from pyramid_seed.run_options import RunOptions
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.conftest import REFERENCE


@pytest.fixture
def settings(quick):
    return quick | {"num_frames": 1, "scale": 1}


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"prompt": "a boat"},
        {"prompt": "a cat", "prompt_suffix": ", wet"},
        {"prompt": "a boat", "seed": 5},
    ]
    (path := tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_batch_of_them_is_that_of_the_whole_model(prompts, settings, tmp_path):
    """The same clips under the same names, and no file of a text encoder is needed."""
    settings |= {"guidance_scale": 3.0}
    encoded = encode_list(prompts, **settings)
    negative = next(text for text in encoded.texts if text not in ("a boat", "a cat, wet"))
    assert list(encoded.texts) == ["a boat", negative, "a cat, wet"]
    folder = shutil.copytree(settings["model"], tmp_path / "rest")
    for part in ENCODER_PARTS[:2]:
        shutil.rmtree(folder / part)
    path = encoded.save(tmp_path / "texts.safetensors")
    made = run_batch(prompts, tmp_path / "a", prompt_embeds=path, **settings | {"model": str(folder)})
    whole = run_batch(prompts, tmp_path / "b", **settings)
    assert made.made == whole.made == 3
    assert made.digests == whole.digests


def test_a_row_whose_text_is_missing_is_a_bad_row(prompts, settings, tmp_path):
    encoded = encode_list(prompts, **settings)
    prompts.write_text(prompts.read_text() + '{"prompt": "a dog"}\n')
    shared_pipeline.clear()
    loads = shared_pipeline.num_loads
    with pytest.raises(BatchInputError, match=r"list.jsonl, line 4: .* embeddings of the prompt 'a dog'"):
        run_batch(prompts, tmp_path / "clips", prompt_embeds=encoded, **settings)
    other = settings | {"model": str(REFERENCE / "sd3-tiny")}
    with pytest.raises(BatchInputError, match=r"line 1: prompt_embeds must be encoded with the model's own"):
        run_batch(prompts, tmp_path / "clips", prompt_embeds=encoded, **other)
    assert not (tmp_path / "clips").exists()
    assert shared_pipeline.num_loads == loads


def test_units_of_other_embeddings_are_not_gone_on_from(prompts, settings):
    """A unit says of which embeddings it was made, see `units.load_units`; these are changed by hand."""
    encoded = encode_list(prompts, **settings)
    item = BatchItem("a boat", 1, with_settings(load_preset("tiny"), Settings(dtype="float32")))

    def origin_of(embeds):
        maker = _ClipMaker("cpu", RunOptions(), lossless=False, group=None, embeds=embeds)
        return maker.origins(Job(item, "", (1,)))[0]

    def with_another(changed):
        other = encoded.texts[changed]._replace(prompt_embeds=encoded.texts[changed].prompt_embeds * 1.5)
        return replace(encoded, texts=dict(encoded.texts) | {changed: other})

    negative = item.settings.negative_prompt
    origins = [origin_of(with_another(text)) for text in ("a cat, wet", "a boat", negative)]
    said = [origin.pop("texts") for origin in origins]
    assert said[0] == [encoded.digest("a boat"), encoded.digest(negative)]
    assert [[ours == theirs for ours, theirs in zip(said[0], each, strict=True)] for each in said[1:]] == [
        [False, True],
        [True, False],
    ]
    assert origins == [origin_of(None)] * 3
