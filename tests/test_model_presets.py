"""Without a preset, a model is run with its own settings, or not at all."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pyramid_seed import generate, load_pipeline
from pyramid_seed.batch.items import Defaults, items_from_rows
from pyramid_seed.batch.rows import Row
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.cli import main
from pyramid_seed.model_presets import chosen_settings, misfit, preset_of_model
from pyramid_seed.presets import list_presets, load_preset, with_settings
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.cases import check_cases

REFERENCE = Path(__file__).parent / "reference"
# In the original's words; those that tests/reference/state_dict_keys.json has the shapes of.
PUBLISHED_SIZES = {
    "miniflux": {
        "in_channels": 64,
        "num_layers": 8,
        "num_single_layers": 16,
        "num_attention_heads": 30,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "axes_dims_rope": [16, 24, 24],
    },
    "sd3": {
        "in_channels": 16,
        "num_layers": 24,
        "num_attention_heads": 24,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "caption_projection_dim": 1536,
        "sample_size": 128,
        "pos_embed_max_size": 192,
    },
}


@pytest.fixture(params=["miniflux", "sd3"])
def family(request) -> str:
    return request.param


@pytest.fixture
def published(family, tmp_path) -> Path:
    """A folder with the names and configs of a published checkpoint, without its weights."""
    folder = tmp_path / "published"
    shutil.copytree(REFERENCE / f"{family}-tiny", folder)
    transformer = folder / "diffusion_transformer_384p"
    config = json.loads((transformer / "config.json").read_text()) | PUBLISHED_SIZES[family]
    (transformer / "config.json").write_text(json.dumps(config))
    shutil.copytree(transformer, folder / "diffusion_transformer_768p")
    return folder


def of_files(model, variant=None, **settings):
    """The settings of a model in a folder."""
    given = {"model": str(model), **({} if variant is None else {"variant": variant}), **settings}
    return chosen_settings(None, given, lambda name, which: read_source(name, variant=which))


def misfit_of(preset, source):
    """What is told of a preset that is used with the model of a source."""
    settings = replace(preset, model=source.name, variant=source.variant)
    return misfit(preset, settings, lambda model, variant: source)


def unread(model, variant):
    pytest.fail(f"the files of {model} were read, and are not needed")


def test_a_published_model_has_the_settings_of_its_preset_wherever_it_lies(family, published):
    for variant in ("384p", "768p"):
        preset = load_preset(f"{family}-{variant}")
        by_name = chosen_settings(None, {"model": preset.model, "variant": variant}, unread)
        here = of_files(published, variant)
        assert by_name == preset
        assert (here.name, here.height, here.model) == (preset.name, preset.height, str(published))
        assert of_files(published, variant, fps=8).fps == 8


def test_a_published_model_by_its_hub_id_must_name_a_variant():
    for model in ("rain1011/pyramid-flow-miniflux", "rain1011/pyramid-flow-sd3"):
        with pytest.raises(ValueError, match=f"variant of {model} must be one of 384p, 768p"):
            chosen_settings(None, {"model": model}, unread)


def test_no_model_and_no_preset_is_the_default_preset():
    assert chosen_settings(None, {"fps": 12}, unread).fps == 12
    assert chosen_settings(None, {}, unread) == load_preset("tiny")
    assert of_files("embedded:tiny") == load_preset("tiny")


def test_a_model_that_no_preset_knows_asks_for_what_it_needs(family):
    model = REFERENCE / f"{family}-tiny"
    needed = {
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "fps": 8,
        "num_inference_steps": 1,
        "guidance_scale": 1,
        "max_sequence_length": 32,
    }
    with pytest.raises(ValueError, match=rf"no preset knows {family}.*needs \({', '.join(needed)}\)"):
        of_files(model)
    for name in needed:
        with pytest.raises(ValueError, match=rf"needs \({name}\), or a preset"):
            of_files(model, **{other: value for other, value in needed.items() if other != name})
    settings = of_files(model, **needed)
    assert (settings.name, settings.dtype, settings.scale) == ("custom", "float32", 1)
    assert of_files(model, **needed, dtype="bfloat16").dtype == "bfloat16"


def test_a_number_of_steps_is_for_each_stage_of_the_model(helios_folder):
    size = {"height": 64, "width": 64, "num_frames": 33, "fps": 24}
    needed = {**size, "num_inference_steps": 2, "guidance_scale": 5.0, "max_sequence_length": 32}
    assert of_files(helios_folder("base"), **needed).num_inference_steps == (2,)
    assert of_files(helios_folder("mid"), **needed).num_inference_steps == (2, 2, 2)


def test_a_number_of_steps_is_for_each_stage_of_a_published_model(tmp_path):
    base, mid = "BestWishYsh/Helios-Base", "BestWishYsh/Helios-Mid"
    steps = with_settings(load_preset("miniflux-384p"), {"model": base, "num_inference_steps": 50})
    assert steps.num_inference_steps == (50,)
    text = (Path(__file__).parents[1] / "configs" / "helios-base.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^num_inference_steps:.*", "num_inference_steps: 50", text)
    for model, count in ((base, 1), (mid, 3)):
        own = tmp_path / f"{count}.yaml"
        own.write_text(re.sub(r"(?m)^model:.*", f"model: {model}", text), encoding="utf-8")
        assert load_preset(own).num_inference_steps == (50,) * count


def test_the_settings_are_asked_for_before_anything_is_loaded(capsys, tmp_path):
    shared_pipeline.clear()
    before = shared_pipeline.num_loads
    model = str(REFERENCE / "miniflux-tiny")
    with pytest.raises(ValueError, match="no preset knows"):
        generate("a boat", model=model)
    assert main(["generate", "a boat", "--model", model, "-o", str(tmp_path / "a.mp4")]) == 2
    assert "no preset knows miniflux" in capsys.readouterr().err
    (tmp_path / "list.jsonl").write_text(json.dumps({"prompt": "a boat", "model": model}))
    assert main(["batch", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "clips")]) == 2
    assert "line 1: no preset knows miniflux" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["list.jsonl"]
    assert shared_pipeline.num_loads == before


def test_the_preset_travels_with_the_model(tmp_path, capsys):
    pipeline = load_pipeline("embedded:tiny", device="cpu")
    pipeline.save_pretrained(tmp_path / "mine")
    preset = load_preset("tiny")
    loaded = load_pipeline(tmp_path / "mine", device="cpu")
    for settings in (loaded.preset, of_files(tmp_path / "mine")):
        assert settings is not None
        assert (settings.name, settings.guidance_scale, settings.trained_frames) == ("tiny", 2.0, 33)
    few = {"num_frames": 1, "num_inference_steps": 1, "progress": False}
    expected = generate("a red circle", seed=1, **few)
    for way in ({"pipeline": loaded}, {"model": str(tmp_path / "mine")}):
        clip = generate("a red circle", seed=1, **few, **way)
        assert clip.digest == expected.digest
        assert (clip.preset, clip.manifest["preset"]) == (preset.name, "tiny")
    command = ["generate", "a red circle", "--seed", "1", "--num-frames", "1", "--quiet"]
    command += ["--num-inference-steps", "1"]
    file = tmp_path / "clip.mp4"
    assert main([*command, "--model", str(tmp_path / "mine"), "-o", str(file)]) == 0
    said = capsys.readouterr().out
    assert "preset      tiny\n" in said
    assert expected.digest in said


def test_settings_of_ones_own_travel_with_a_pipeline(quick, tmp_path):
    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    assert pipeline.preset is None
    with pytest.raises(ValueError, match="no preset knows miniflux"):
        generate("a boat", pipeline=pipeline)
    mine = {
        name: value for name, value in quick.items() if name not in ("model", "variant", "preset", "progress")
    }
    mine |= {"fps": 12, "guidance_scale": 3.0, "max_sequence_length": 16, "dtype": "float32", "name": "mine"}
    pipeline.register_to_config(preset=mine)
    clip = generate("a boat", seed=1, pipeline=pipeline, progress=False)
    pipeline.save_pretrained(tmp_path)
    again = generate("a boat", seed=1, model=str(tmp_path), progress=False)
    assert (clip.preset, clip.settings.guidance_scale, clip.fps) == ("mine", 3.0, 12)
    assert (again.preset, again.digest) == ("mine", clip.digest)


def test_damaged_settings_in_a_folder_are_refused_by_name(tmp_path):
    load_pipeline("embedded:tiny", device="cpu").save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    whole = json.loads(index.read_text())

    def is_refused(change, words):
        index.write_text(json.dumps(whole | {"preset": change(dict(whole["preset"]))}))
        with pytest.raises(ValueError, match=r"model_index\.json.*" + words):
            preset_of_model(read_source(tmp_path))

    check_cases(
        (
            (lambda preset: preset | {"height": -1}, "height must be"),
            (lambda preset: preset | {"depth": 1}, "unknown key 'depth'"),
            (lambda preset: preset | {"name": None}, "must be non-empty text"),
            (lambda preset: {"name": "x"}, "missing"),
            (lambda preset: "tiny", ""),
            (lambda preset: 5, ""),
            (lambda preset: [], ""),
        ),
        is_refused,
    )


def test_a_preset_of_another_family_or_variant_is_told_with_both_names(family, published, caplog):
    here, other = read_source(published, variant="384p"), {"miniflux": "sd3", "sd3": "miniflux"}[family]
    assert misfit_of(load_preset(f"{family}-384p"), here) is None
    said = misfit_of(load_preset(f"{other}-384p"), here)
    assert said is not None
    assert f"preset {other}-384p is for rain1011/pyramid-flow-{other}, variant 384p" in said
    assert f"the model is {family}, variant 384p" in said
    assert f"for which there is preset {family}-384p" in said
    assert f"preset {family}-768p is for" in str(misfit_of(load_preset(f"{family}-768p"), here))
    assert "preset tiny is for embedded:tiny" in str(misfit_of(load_preset("tiny"), here))
    assert misfit_of(load_preset("tiny-fast"), read_source("embedded:tiny")) is None


def test_another_variant_of_the_same_model_is_told_in_a_batch(published, family, caplog):
    """Row by row, with the model's name as it is."""
    preset = replace(load_preset(f"{family}-384p"), model=str(published))
    defaults = Defaults(preset, {"variant": "768p"})
    items, bad = items_from_rows(
        [Row(1, {"prompt": "a"}), Row(2, {"prompt": "b"})],
        defaults,
        where="list",
        folder=Path(),
        source_of=lambda model, variant: read_source(model, variant=variant),
        check=lambda _: None,
    )
    assert (len(items), bad) == (2, [])
    (message,) = caplog.messages
    assert f"preset {family}-384p is for {published}, variant 384p" in message
    assert f"for which there is preset {family}-768p" in message


def test_a_misfit_is_told_and_the_clip_made(quick, caplog, tmp_path, capsys):
    sd3 = {"model": str(REFERENCE / "sd3-tiny"), "num_frames": 1}
    with caplog.at_level(logging.WARNING):
        generate("a boat", seed=1, **quick | sd3)
    assert [message for message in caplog.messages if "preset tiny is for embedded:tiny" in message]
    rows = [json.dumps({"prompt": prompt, **sd3}) for prompt in ("a", "b")]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    options = ["--preset", "tiny", "--variant", "384p", "--height", "64", "--width", "64"]
    steps = ["--num-inference-steps", "1", "--quiet"]
    assert main(["batch", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "clips"), *options, *steps]) == 0
    assert capsys.readouterr().err.count("preset tiny is for embedded:tiny") == 1


def test_what_a_model_was_not_trained_for_is_told(caplog, tmp_path, capsys):
    few = {"num_inference_steps": 1, "video_num_inference_steps": 1, "progress": False, "preset": "tiny"}
    with caplog.at_level(logging.WARNING):
        clip = generate("a red circle", seed=1, height=32, width=32, num_frames=37, guidance_scale=1, **few)
        plain = generate("a red circle", seed=1, num_frames=1, **few)
    size, length = clip.notes
    assert size == "the model was trained on 64x64 pixels, the clip has 32x32; the video may fall apart"
    assert length == ("the model was trained on at most 33 frames, the clip has 37; the video may fall apart")
    assert caplog.messages == [size, length]
    assert clip.manifest["notes"] == [size, length]
    assert plain.notes == ()
    assert "notes" not in plain.manifest


def test_what_is_cut_of_a_prompt_is_in_manifest_and_index(tmp_path, capsys):
    prompt = "a red circle moves to the right " * 4
    few = {"num_inference_steps": 1, "num_frames": 1, "progress": False}
    (note,) = generate(prompt, seed=1, **few, max_sequence_length=16).notes
    assert note.startswith("the prompt has ")
    assert " keeps 16; lost: " in note
    negative = generate("a", seed=1, **few, negative_prompt=prompt, max_sequence_length=16).notes
    assert [note.partition(" has ")[0] for note in negative] == ["the negative prompt"]
    # Without guidance nobody reads it.
    assert not generate("a", **few, negative_prompt=prompt, max_sequence_length=16, guidance_scale=1).notes

    (tmp_path / "list.txt").write_text(prompt)
    options = ["--num-inference-steps", "1", "--num-frames", "1", "--max-sequence-length", "16", "--quiet"]
    assert main(["batch", str(tmp_path / "list.txt"), "-o", str(tmp_path / "clips"), *options]) == 0
    (entry,) = map(json.loads, (tmp_path / "clips" / "index.jsonl").read_text().splitlines())
    assert entry["notes"] == [note]
    assert note in capsys.readouterr().err
    assert main(["show", str(tmp_path / "clips" / entry["file"])]) == 0
    assert note in capsys.readouterr().out


def test_every_preset_says_what_its_model_was_trained_on():
    """Of Helios it is not known."""
    for name in [name for name in list_presets() if not name.startswith("helios")]:
        preset = load_preset(name)
        assert (preset.height, preset.width) in preset.trained_sizes
        assert preset.num_frames <= (preset.trained_frames or 0)


def test_a_model_that_is_no_text_is_refused():
    for wrong in ([], {}, 3, ""):
        with pytest.raises(ValueError, match="model must be non-empty text"):
            chosen_settings(None, {"model": wrong}, lambda *_: None)
