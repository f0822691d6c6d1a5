"""`run_batch` with real models: the same clips as `generate`, however often it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyramid_seed import Branch, generate, run_batch
from pyramid_seed import shared_pipeline as shared_pipeline_module
from pyramid_seed.batch import worker
from pyramid_seed.batch.errors import ModelError
from pyramid_seed.batch.launch import Launch, join_launch
from pyramid_seed.batch.rows import BatchInputError
from pyramid_seed.batch.run import _device_of
from pyramid_seed.media.images import open_image
from pyramid_seed.presets import Settings, load_preset, with_settings
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.reproduce import verify
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.conftest import REFERENCE

IMAGE = REFERENCE / "i2v_input.png"


@pytest.fixture
def settings(quick):
    left_out = ("progress", "height", "width", "num_frames")
    return {name: value for name, value in quick.items() if name not in left_out}


@pytest.fixture
def run(tmp_path, settings):
    """Runs a batch of rows into tmp_path/clips."""

    def run_rows(*rows, **options):
        source = tmp_path / "list.jsonl"
        source.write_text("".join(json.dumps({"height": 64, "width": 64, **row}) + "\n" for row in rows))
        options = {"progress": False, **settings, **options}
        return run_batch(source, tmp_path / "clips", **options)

    return run_rows


@pytest.fixture
def stop_after(monkeypatch):
    """Sends this process a SIGTERM when a unit has been saved."""

    def arm(unit_to_stop_after):
        def save_and_stop(folder, unit, *rest):
            save_unit(folder, unit, *rest)
            if unit == unit_to_stop_after:
                os.kill(os.getpid(), signal.SIGTERM)

        save_unit = worker.save_unit
        monkeypatch.setattr(worker, "save_unit", save_and_stop)
        return lambda: monkeypatch.setattr(worker, "save_unit", save_unit)

    return arm


def without_the_run(manifest):
    """What a manifest says of the clip alone."""
    return {name: value for name, value in manifest.items() if name not in ("timings", "environment", "file")}


def test_a_batch_makes_the_clips_of_generate(run, settings, tmp_path):
    summary = run({"prompt": "a boat", "seed": [3, 4], "num_frames": 9})
    assert summary.status == 0
    clips = [generate("a boat", seed=s, height=64, width=64, num_frames=9, **settings) for s in (3, 4)]
    assert sorted(summary.digests.values()) == sorted(clip.digest for clip in clips)
    for clip in clips:
        (file,) = [name for name, digest in summary.digests.items() if digest == clip.digest]
        assert without_the_run(read_manifest(tmp_path / "clips" / file)) == without_the_run(clip.manifest)


GUIDED_FIRST = {"guidance_scale": 3.0, "video_guidance_scale": 1.0, "negative_prompt": "fog"}


TEXT = {"prompt": "a boat"}
FROM_IMAGE = {"prompt": "the sea", "image": str(IMAGE), "height": 64, "width": 128}


@pytest.mark.parametrize(
    ("row", "unit"),
    [
        pytest.param(TEXT, 0, id="text 0", marks=pytest.mark.slow),
        pytest.param(TEXT, 1, id="text 1", marks=pytest.mark.slow),
        pytest.param({**TEXT, **GUIDED_FIRST}, 0, id="guided at first 0"),
        pytest.param({**TEXT, **GUIDED_FIRST}, 1, id="guided at first 1"),
        pytest.param(FROM_IMAGE, 0, id="image 0"),
        pytest.param(FROM_IMAGE, 1, id="image 1", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_clip_is_the_clip(run, settings, tmp_path, stop_after, row, unit):
    """With one unit left to make."""
    row = {**row, "num_frames": 9 + 8 * unit}
    disarm = stop_after(unit)
    stopped = run({**row, "seed": 5})
    assert (stopped.status, stopped.missing, stopped.digests) == (128 + signal.SIGTERM, 1, {})
    disarm()
    summary = run({**row, "seed": 5})
    (file,) = summary.digests
    (entry,) = map(json.loads, (tmp_path / "clips" / "index.jsonl").read_text().splitlines())
    assert entry["resumed_units"] == unit + 1

    image = open_image(IMAGE) if "image" in row else None
    given = {name: value for name, value in row.items() if name not in ("prompt", "image")}
    clip = generate(row["prompt"], seed=5, image=image, **{"height": 64, "width": 64, **given}, **settings)
    assert summary.digests[file] == clip.digest
    assert without_the_run(read_manifest(tmp_path / "clips" / file)) == without_the_run(clip.manifest)


@pytest.mark.slow
def test_another_path_of_attention_makes_another_clip_and_both_can_be_verified(run, tmp_path, stop_after):
    disarm = stop_after(0)
    run({"prompt": "a boat", "num_frames": 9})
    disarm()
    (reference,) = run({"prompt": "a boat", "num_frames": 9}, attention="reference").digests
    (grouped,) = run({"prompt": "a boat", "num_frames": 9}).digests
    assert reference != grouped
    entries = map(json.loads, (tmp_path / "clips" / "index.jsonl").read_text().splitlines())
    assert {entry["file"]: entry["resumed_units"] for entry in entries} == {reference: 0, grouped: 1}
    for file, path in ((reference, "reference"), (grouped, "grouped")):
        assert read_manifest(tmp_path / "clips" / file)["attention"] == path
        assert (
            verify(tmp_path / "clips" / file, model=REFERENCE / "miniflux-tiny", progress=False).difference
            is None
        )


def test_every_bad_row_is_told_before_a_model_is_loaded(run, tmp_path):
    before = shared_pipeline.num_loads
    rows = (
        {"prompt": "fine", "num_frames": 9},
        {"prompt": "a", "num_frames": 10},
        {"prompt": "b", "height": 100},
        {"prompt": "c", "num_inference_steps": [1, 1]},
        {"prompt": "d", "image": "nowhere.png"},
        {"prompt": "e", "model": "/nowhere/at/all"},
        {"prompt": "f", "variant": "768p"},
        {"prompt": "g", "max_sequence_length": 513},
        {"prompt": "h", "fps": 5000},
        {"prompt": "i", "model": "embedded:tiny", "variant": "384p"},
    )
    with pytest.raises(BatchInputError) as caught:
        run(*rows)
    messages = [str(row) for row in caught.value.rows]
    assert len(messages) == 9
    for line, (message, words) in enumerate(
        zip(
            messages,
            (
                "use 9 or 17",
                "use 64 or 128",
                "3 stages",
                "nowhere.png",
                "/nowhere",
                "'768p'",
                "at most 512",
                "fps must be between 0.1 and 1000 for .mp4, got 5000",
                "leave variant out",
            ),
            strict=True,
        ),
        start=2,
    ):
        assert f"line {line}: " in message
        assert words in message
    assert shared_pipeline.num_loads == before
    summary = run(*rows, keep_going=True)
    assert (summary.status, len(summary.failed), summary.made) == (1, 9, 1)
    assert not list(tmp_path.glob("clips/.work/*/unit*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"determinism": "stirct"}, "determinism must be one of strict, relaxed, got 'stirct'; use strict"),
        (
            {"attention": "prefixx"},
            "attention must be one of grouped, prefix, reference, got 'prefixx'; use prefix",
        ),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"noise_device": "cuda:99"}, "noise_device 'cuda:99' cannot be used here"),
    ],
)
def test_a_way_to_run_that_there_is_not_is_refused_before_anything_starts(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run({"prompt": "a boat", "num_frames": 1}, **options)
    assert not (tmp_path / "clips").exists()


def test_an_image_that_changes_after_the_plan_fails_its_item(run, tmp_path, monkeypatch):
    image = tmp_path / "a.png"
    shutil.copy(IMAGE, image)
    publish = Launch.publish

    def publish_and_change(launch, plan):
        publish(launch, plan)
        open_image(IMAGE).transpose(0).save(image)

    monkeypatch.setattr(Launch, "publish", publish_and_change)
    row = {"prompt": "a", "image": str(image), "height": 64, "width": 128, "num_frames": 1}
    summary = run(row, {"prompt": "b", "num_frames": 1})
    assert "has changed since the batch began" in next(iter(summary.failed.values()))
    assert len(summary.digests) == 1


def test_weights_that_cannot_be_read_any_more_are_named(run, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(REFERENCE / "miniflux-tiny", model)
    publish = Launch.publish

    def publish_and_remove(launch, plan):
        publish(launch, plan)
        tiny = with_settings(load_preset("tiny"), Settings(model=str(model), variant="384p"))
        shared_pipeline.get(tiny, "cpu")
        shutil.rmtree(model)

    monkeypatch.setattr(Launch, "publish", publish_and_remove)
    message = f"{model} cannot be loaded: {model} is neither a folder nor a hub id such as owner/name"
    with pytest.raises(ModelError, match=message):
        run({"prompt": "a", "num_frames": 1}, model=str(model), device="cpu")


def test_a_damaged_model_file_ends_the_batch_once(run, tmp_path, monkeypatch, capsys):
    """Not each of its rows anew, with a load each."""
    model = tmp_path / "model"
    shutil.copytree(REFERENCE / "miniflux-tiny", model)
    weights = model / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:9999])
    loads = []
    load = shared_pipeline_module.load_source

    def counted(*arguments):
        loads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(shared_pipeline_module, "load_source", counted)
    with pytest.raises(ValueError, match=rf"{model} cannot be loaded: .*text_encoder"):
        run(*({"prompt": f"boat {n}", "num_frames": 1} for n in range(5)), model=str(model))
    assert len(loads) <= 1
    assert not (tmp_path / "clips" / ".work" / "records").exists()


def test_a_prompt_that_is_cut_is_told_everywhere(run, tmp_path, capsys):
    """On the terminal, in the index and in the manifest, not in the log alone."""
    summary = run({"prompt": "a boat " * 40, "num_frames": 1, "max_sequence_length": 32})
    ((file, _),) = summary.digests.items()
    (entry,) = map(json.loads, (tmp_path / "clips" / "index.jsonl").read_text().splitlines())
    manifest = read_manifest(tmp_path / "clips" / file)
    assert "tokens" in entry["notes"][0]
    assert entry["notes"] == manifest["notes"]
    assert "warning: the prompt has" in capsys.readouterr().err


def test_each_process_has_an_accelerator_of_its_own():
    alone = join_launch(environment={})
    second_of_two = Launch(1, 1, 2, alone.store)
    assert _device_of("cpu", second_of_two) == "cpu"
    if torch.accelerator.device_count() > 1:
        assert _device_of("cuda:1", alone) == "cuda:1"
    with pytest.raises(ValueError, match="cannot share cuda:1; use --device cuda"):
        _device_of("cuda:1", second_of_two)
    if torch.accelerator.device_count() < 2:
        with pytest.raises(ValueError, match="no accelerator of its own"):
            _device_of("cuda", second_of_two)


def retrain(model: Path) -> None:
    file = model / "diffusion_transformer_384p" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file)


def test_a_batch_after_more_training_makes_the_clips_of_the_new_weights(quick, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(quick["model"], model)
    (tmp_path / "list.txt").write_text("a boat\n")
    settings = quick | {"model": str(model), "num_frames": 1}
    before = run_batch(tmp_path / "list.txt", tmp_path / "clips", seeds=[1], **settings)
    retrain(model)
    after = run_batch(tmp_path / "list.txt", tmp_path / "clips", seeds=[1], **settings)
    assert (before.made, after.made, after.found) == (1, 1, 0)
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2


def test_a_model_that_changes_during_a_batch_makes_no_clip_under_the_old_names(quick, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(quick["model"], model)
    (tmp_path / "list.txt").write_text("a boat\n")

    def generate_then_retrain(*arguments, **options):
        clip = generate(*arguments, **options)
        retrain(model)
        return clip

    monkeypatch.setattr("pyramid_seed.batch.run.generate", generate_then_retrain)
    settings = quick | {"model": str(model), "num_frames": 1}
    with pytest.raises(ModelError, match="differ from those with which the batch began"):
        run_batch(tmp_path / "list.txt", tmp_path / "clips", seeds=[1, 2], **settings)
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 1


def test_seeds_that_are_none_are_refused_and_nothing_is_left(quick, tmp_path):
    (tmp_path / "list.txt").write_text("a boat")
    settings = {name: value for name, value in quick.items() if name != "progress"}
    with pytest.raises(TypeError, match="seeds must be a list of root seeds, got 5"):
        run_batch(tmp_path / "list.txt", tmp_path / "clips", seeds=5, **settings)
    with pytest.raises(TypeError, match="loras must be a Mapping, got bool"):
        run_batch(tmp_path / "list.txt", tmp_path / "clips", loras=True, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_units_that_are_kept_are_not_made_again(run, settings, tmp_path):
    """A longer clip, and a branch of it, go on from the units of their beginnings."""
    text = {"prompt": "a boat", "seed": 3}
    run({**text, "num_frames": 9}, keep_units=True)
    summary = run({**text, "num_frames": 17}, {**text, "num_frames": 17, "branches": "2:77"}, keep_units=True)
    entries = [json.loads(line) for line in (tmp_path / "clips" / "index.jsonl").read_text().splitlines()]
    # The first one goes on from two units, the other one from those of that same beginning.
    assert sorted(entry["resumed_units"] for entry in entries) == [0, 2, 2]
    assert [entry.get("branches") for entry in entries].count(["2:77"]) == 1
    plain = {"seed": 3, "height": 64, "width": 64, "num_frames": 17, **settings, "progress": False}
    whole = [generate("a boat", **plain), generate("a boat", branches=[Branch(2, 77)], **plain)]
    assert sorted(summary.digests.values()) == sorted(clip.digest for clip in whole)


def test_branches_are_checked_before_anything_is_made(run, tmp_path):
    for text in ("2", "2:x", "2:3 1:4", "0:5", [7], f"2:{2**64}"):
        with pytest.raises(BatchInputError, match=r"branches must|seed must"):
            run({"prompt": "a boat", "branches": text})
    assert not (tmp_path / "clips").exists()
