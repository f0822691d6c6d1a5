"""A clip made with a LoRA: told in the manifest, made again with the file, never taken for the plain one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pyramid_seed import BatchInputError, Clip, generate, load_pipeline, run_batch, run_sweep
from pyramid_seed.cli import main
from pyramid_seed.provenance.diff import diff_manifests
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.provenance.show import describe
from pyramid_seed.reproduce import extend, regenerate, verify
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.conftest import REFERENCE

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sd3", "helios")]


@pytest.fixture(scope="module", params=["miniflux", *SLOW])
def settings(request, quick, quick_helios) -> dict:
    """A model of each family, and a clip of one unit; what differs is tested in models/ and pipelines/."""
    if request.param == "helios":
        return quick_helios | {"num_frames": 33}
    return quick | {"model": str(REFERENCE / f"{request.param}-tiny"), "num_frames": 1}


def pipeline_of(settings):
    return load_pipeline(settings["model"], variant=settings.get("variant"), device="cpu")


def made_by(pipeline, settings, **changes) -> Clip:
    given = {name: value for name, value in settings.items() if name not in ("model", "variant")}
    return generate("a boat", seed=3, pipeline=pipeline, **given | changes)


@pytest.fixture(scope="module")
def lora(settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    transformer = pipeline_of(settings).transformer
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    transformer.save_lora_adapter(folder, weight_name="style.safetensors")
    return folder / "style.safetensors"


@pytest.fixture(scope="module")
def plain(settings) -> Clip:
    return generate("a boat", seed=3, **settings)


@pytest.fixture(scope="module")
def adapted(settings, lora):
    pipeline = pipeline_of(settings)
    pipeline.load_lora_weights(lora, adapter_name="style")
    pipeline.set_adapters("style", 0.7)
    return pipeline


@pytest.fixture(scope="module")
def clip(adapted, settings) -> Clip:
    return made_by(adapted, settings)


@pytest.fixture(scope="module")
def saved(clip, tmp_path_factory) -> Path:
    return clip.save(tmp_path_factory.mktemp("saved") / "boat.mp4", keep_latents=True)


def test_the_manifest_tells_the_file(clip, plain, lora):
    assert plain.manifest["loras"] == []
    assert clip.digest != plain.digest
    assert clip.manifest["loras"] == [
        {
            "adapter": "style",
            "file": "style.safetensors",
            "size": lora.stat().st_size,
            "sha256": hashlib.sha256(lora.read_bytes()).hexdigest(),
            "scale": 0.7,
            "fused": False,
        }
    ]


def test_made_again_with_the_file(saved, settings, lora):
    assert verify(saved, model=settings["model"], loras=[lora], progress=False).difference is None
    # The LoRA has not stayed in the pipeline that other clips share.
    assert generate("a boat", seed=3, **settings).manifest["loras"] == []


def test_without_the_file_it_could_not_be_run(saved, settings, plain, lora, tmp_path, capsys):
    assert main(["verify", str(saved), "--model", settings["model"], "--quiet"]) == 2
    assert "made with the LoRA style.safetensors (SHA-256 " in capsys.readouterr().err
    other = tmp_path / "style.safetensors"
    other.write_bytes(lora.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"made with the LoRA style\.safetensors .* give it: --lora FILE"):
        verify(saved, model=settings["model"], loras=[other], progress=False)
    with pytest.raises(ValueError, match=r"made without the LoRA .*style\.safetensors; leave it out"):
        regenerate(plain.manifest, model=settings["model"], loras=[lora])


def test_fused(settings, lora, clip, tmp_path):
    pipeline = pipeline_of(settings)
    pipeline.load_lora_weights(lora, adapter_name="style")
    pipeline.set_adapters("style", 0.7)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    fused = made_by(pipeline, settings)
    assert fused.manifest["loras"] == [clip.manifest["loras"][0] | {"fused": True}]
    again = regenerate(fused.manifest, model=settings["model"], loras=[lora], progress=False)
    assert again.digest == fused.digest
    assert again.manifest["loras"] == fused.manifest["loras"]


@pytest.mark.slow
def test_filled_up_with_zeros_for_a_hot_swap(settings, lora, clip):
    pipeline = pipeline_of(settings)
    pipeline.enable_lora_hotswap(target_rank=8)
    pipeline.load_lora_weights(lora, adapter_name="style")
    pipeline.set_adapters("style", 0.7)
    padded = made_by(pipeline, settings)
    assert padded.manifest["loras"] == [clip.manifest["loras"][0] | {"padded_rank": 8}]
    again = regenerate(padded.manifest, model=settings["model"], loras=[lora], progress=False)
    assert again.manifest["loras"] == padded.manifest["loras"]
    assert again.digest == padded.digest


def test_an_adapter_that_no_file_holds(settings, tmp_path):
    pipeline = pipeline_of(settings)
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    clip = made_by(pipeline, settings)
    assert clip.manifest["loras"] is None
    path = clip.save(tmp_path / "boat.mp4")
    with pytest.raises(ValueError, match="weights that no file holds"):
        verify(path, model=settings["model"], progress=False)
    assert ("lora", "adapters that are not known") in describe(read_manifest(path))


def test_show_and_diff(clip, plain):
    told = dict(describe(clip.manifest))["lora"]
    assert told.startswith("style.safetensors, scale 0.7, SHA-256 ")
    assert "lora" not in dict(describe(plain.manifest))
    fields = [each.field for each in diff_manifests(clip.manifest, plain.manifest).weights]
    assert fields == ["loras.0.sha256", "loras.0.scale", "loras.0.fused"]


def test_a_longer_clip_goes_on_with_the_lora(adapted, clip, saved, settings, lora):
    num_frames = clip.geometry.num_frames(2)
    whole = made_by(adapted, settings, num_frames=num_frames)
    longer = extend(clip, num_frames, pipeline=adapted, progress=False)
    assert longer.digest == whole.digest
    assert longer.manifest["loras"] == clip.manifest["loras"]
    again = extend(saved, num_frames, model=settings["model"], loras=[lora], progress=False)
    assert np.array_equal(again.frames, whole.frames)
    with pytest.raises(ValueError, match=r"made with the LoRA style\.safetensors .* give it: --lora FILE"):
        extend(clip, num_frames, progress=False)


def test_generate_loads_loras_and_verify_answers_match(lora, settings, adapted, tmp_path, capsys):
    """The clip of `generate --lora` is that of a pipeline with the LoRA in Python."""
    path, other = tmp_path / "boat.mp4", tmp_path / "other.safetensors"
    other.write_bytes(lora.read_bytes())
    given = {name.replace("_", "-"): value for name, value in settings.items() if name != "progress"}
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    command = ["generate", "a boat", "--seed", "3", *options, "--quiet", "-o", str(path)]
    assert main([*command, "--lora", f"{lora}:0.7"]) == 0
    manifest = read_manifest(path)
    assert manifest["digests"] == made_by(adapted, settings).manifest["digests"]
    (row,) = manifest["loras"]
    assert (row["file"], row["scale"], row["fused"]) == (lora.name, 0.7, False)
    again = ["verify", str(path), "--model", settings["model"], "--quiet", "--lora"]
    assert main([*again, str(lora)]) == 0
    assert capsys.readouterr().out.endswith("MATCH\n")

    assert main([*command, "--overwrite", "--lora", str(lora), "--lora", f"{other}:-0.5"]) == 0
    assert [(row["file"], row["scale"]) for row in read_manifest(path)["loras"]] == [
        (lora.name, 1.0),
        (other.name, -0.5),
    ]
    # Nobody else is given that pipeline.
    assert generate("a boat", seed=3, **settings).manifest["loras"] == []


def test_what_is_no_lora_is_refused_before_loading(lora, settings, adapted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "pyramid_seed.shared_pipeline.load_source", lambda *_, **__: pytest.fail("the model was loaded")
    )
    weights = next(Path(settings["model"]).glob("*transformer*/*.safetensors"))
    (tmp_path / "text.safetensors").write_text("not tensors")
    (tmp_path / "lora.bin").write_bytes(b"")
    wrong = {
        "gone.safetensors": "gone.safetensors does not exist",
        weights: "is not a LoRA: it holds ",
        tmp_path / "text.safetensors": "is not a readable .safetensors",
        tmp_path / "lora.bin": "a LoRA must be a .safetensors, got lora.bin",
    }
    for file, message in wrong.items():
        with pytest.raises((ValueError, OSError), match=re.escape(message)):
            generate("a boat", seed=3, loras={file: 1.0}, **settings)
    with pytest.raises(ValueError, match="loras are for a pipeline that generate loads"):
        generate("a boat", seed=3, loras={lora: 1.0}, pipeline=adapted, preset="tiny")
    for wrong_options, message in (
        ([f"{lora}:strong"], "must be a finite number, got 'strong'; use 1.0"),
        ([f"{lora}:nan"], "must be a finite number, got 'nan'; use 1.0"),
        ([str(lora), f"{lora}:0.5"], "is given twice"),
    ):
        assert main(["generate", "a boat", "--lora", *wrong_options]) == 2
        assert message in capsys.readouterr().err
    save_file(
        {f"other.{name}": value for name, value in load_file(lora).items()}, tmp_path / "other.safetensors"
    )
    with pytest.raises(ValueError, match="the LoRA is for another model: this one has no other"):
        generate("a boat", seed=3, loras={tmp_path / "other.safetensors": 1.0}, **settings)


def test_a_lora_is_loaded_once_for_many_clips(lora, settings):
    loads = shared_pipeline.num_loads
    for seed in (3, 4, 4):
        generate("a boat", seed=seed, loras={lora: 0.7}, **settings)
    assert shared_pipeline.num_loads == loads + 1


# ---- batches, sweeps


def batch(folder, rows, settings, **options):
    listed = folder / "list.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_batch(listed, folder / "clips", device="cpu", **settings, **options)


def index_of(folder):
    lines = (folder / "clips" / "index.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


@pytest.mark.slow
def test_a_batch_with_loras(clip, plain, lora, settings, tmp_path):
    """In a row, or of the whole batch; a clip is that of `generate`, and its LoRAs are part of its name."""
    shutil.copy(lora, tmp_path / "beside the list.safetensors")
    rows = [
        {"prompt": "a boat", "seed": 3, "lora": "beside the list.safetensors:0.7"},
        {"prompt": "a boat", "seed": 3, "lora": []},
        {"prompt": "a boat", "seed": 3},
        {"prompt": "a boat", "seed": 3, "lora": [str(lora)]},
    ]
    summary = batch(tmp_path, rows, settings, loras={lora: 0.7})
    assert (summary.made, summary.duplicates) == (3, 1)
    entries = index_of(tmp_path)
    assert {entry["digest"] for entry in entries.values()} >= {clip.digest, plain.digest}
    told = {entry["digest"]: entry.get("loras") for entry in entries.values()}
    assert told[plain.digest] is None
    assert told[clip.digest] == ["beside the list.safetensors:0.7"]
    for file, entry in entries.items():
        scales = [row["scale"] for row in read_manifest(tmp_path / "clips" / file)["loras"]]
        assert scales == [float(text.rpartition(":")[2]) for text in entry.get("loras", [])]
    again = batch(tmp_path, rows, settings, loras={lora: 0.7})
    assert (again.made, again.found) == (0, 3)


@pytest.mark.slow
def test_a_list_in_csv_names_loras(lora, settings, tmp_path):
    (tmp_path / "list.csv").write_text(f"prompt,lora\na boat,{lora}:0.5; {lora.name}:0.25\nthe sea,\n")
    shutil.copy(lora, tmp_path / lora.name)
    summary = run_batch(tmp_path / "list.csv", tmp_path / "clips", device="cpu", **settings)
    assert summary.status == 0
    told = {entry["prompt"]: entry.get("loras") for entry in index_of(tmp_path).values()}
    assert told == {"a boat": [f"{lora.name}:0.5", f"{lora.name}:0.25"], "the sea": None}


def test_rows_with_bad_loras_are_told_before_any_work(lora, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pyramid_seed.shared_pipeline.load_source", lambda *_, **__: pytest.fail("the model was loaded")
    )
    save_file(
        {f"other.{name}": value for name, value in load_file(lora).items()}, tmp_path / "other.safetensors"
    )
    values = {
        "gone.safetensors": "gone.safetensors does not exist",
        f"{lora}:strong": "got 'strong'; use 1.0",
        "": "must be named as FILE or FILE:SCALE, got ''",
        "other.safetensors": "the LoRA is for another model: this one has no other",
        7: "lora must be FILE, FILE:SCALE, or a list of these, got 7",
    }
    with pytest.raises(BatchInputError) as error:
        batch(tmp_path, [{"prompt": "a boat", "lora": value} for value in values], settings)
    for row, message in zip(error.value.rows, values.values(), strict=True):
        assert message in row.reason


@pytest.mark.slow
def test_a_sweep_with_a_lora(lora, settings, tmp_path):
    summary = run_sweep(["a boat"], tmp_path, seeds=[3, 4], loras={lora: 0.7}, device="cpu", **settings)
    assert summary.batch.made == 2
    assert f"LoRA {lora.name} at scale 0.7" in summary.report.read_text()
    for file in summary.batch.digests:
        assert [row["scale"] for row in read_manifest(tmp_path / "clips" / file)["loras"]] == [0.7]
