"""Whatever a reader is given ends in a value, or in an error of our own, within a second, and leaves nothing.

pytest tests/test_readers.py tests/test_arguments.py --hypothesis-profile campaign --hypothesis-seed 1
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save, save_file

from pyramid_seed import encode_prompts, generate
from pyramid_seed.batch import items, rows
from pyramid_seed.batch.items import Defaults, items_from_rows
from pyramid_seed.batch.rows import BadRow, read_rows
from pyramid_seed.batch.units import load_units, save_unit
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.choices import LIST_FORMATS
from pyramid_seed.explore.stored import read_clip
from pyramid_seed.loading import load_pipeline
from pyramid_seed.media.images import open_image
from pyramid_seed.presets import SETTINGS, load_preset, with_settings
from pyramid_seed.provenance.diff import diff_manifests
from pyramid_seed.provenance.latents import read_latents
from pyramid_seed.provenance.manifest import check_manifest, read_manifest, recipe_of
from pyramid_seed.provenance.show import describe
from pyramid_seed.provenance.verify import verify_noise_of_file
from pyramid_seed.reproduce import extend
from tests.batch.makers import Killed, NoiseMaker, raiser, run
from tests.conftest import REFERENCE
from tests.inputs import (
    Given,
    bounded,
    changes_of,
    check_ours,
    contents,
    damaged,
    ends,
    nothing_left,
    odd,
    plain,
)

FIXTURES = Path(__file__).parent / "fixtures" / "version-0.1.0"
CLIP = FIXTURES / "clips" / "circle.mp4"
MANIFEST = read_manifest(CLIP)


# Lists and presets


@pytest.fixture
def bad_rows(monkeypatch):
    """Every reason for a bad row is an error of our own."""

    class CheckedRow(BadRow):
        def __post_init__(self):
            assert self.reason
            if sys.exc_info()[1] is not None:
                check_ours(sys.exc_info()[1])

    monkeypatch.setattr(items, "BadRow", CheckedRow)
    monkeypatch.setattr(rows, "BadRow", CheckedRow)


def read_list(path):
    found, bad = read_rows(path)
    made, more = items_from_rows(
        found,
        Defaults(),
        where="x",
        folder=path.parent,
        source_of=lambda model, variant: read_source(model, variant=variant),
        check=lambda _: None,
    )
    assert all(isinstance(reason.reason, str) and reason.reason for reason in bad + more)
    assert all(item.prompt.strip() for item in made)


@bounded()
@example(content=b"[" * 20_000)
@example(content=b"- " * 20_000)
@example(content=b"a: &a [x]\nb: *a")
@given(content=contents)
def test_lists_and_presets(content, tmp_path, bad_rows):
    for ending in LIST_FORMATS:
        path = tmp_path / f"list.{ending}"
        path.write_bytes(content)
        ends(lambda path=path: read_list(path))
    assert ends(lambda: load_preset(path)) is None, "words at random are no preset"


COLUMNS = ["prompt", "seed", "image", "lora", "preset", *SETTINGS]


@bounded(2)
@given(values=st.dictionaries(st.sampled_from(COLUMNS), plain, min_size=1, max_size=3))
def test_values_of_rows_and_presets(values, tmp_path, bad_rows):
    row = {"prompt": "a boat", **values}
    if "model" in values or "variant" in values:
        row["model"] = str(REFERENCE / "nothing")  # and no hub is asked
    text = json.dumps(row)
    as_csv = "\n".join(",".join(json.dumps(str(cell)) for cell in line) for line in (row, row.values()))
    for ending, content in {"jsonl": text, "yaml": f"- {text}", "csv": as_csv}.items():
        path = tmp_path / f"list.{ending}"
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        ends(lambda path=path: read_list(path))
    (preset := tmp_path / "preset.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    ends(lambda: load_preset(preset))


@bounded()
@given(name=st.sampled_from(list(SETTINGS)), value=odd)
def test_settings(name, value):
    preset = ends(lambda: with_settings(load_preset("tiny"), {name: value}))
    assert hash(preset) is not None


# Manifests, clips and what lies beside them


@bounded(2)
@given(manifest=changes_of(MANIFEST))
def test_manifests(manifest, tmp_path):
    if ends(lambda: (check_manifest(manifest, "here"), recipe_of(manifest))) is None:
        return
    assert all(isinstance(text, str) for line in describe(manifest) for text in line)
    ends(lambda: diff_manifests(manifest, MANIFEST))
    ends(lambda: diff_manifests(MANIFEST, manifest))
    path = tmp_path / "clip.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with nothing_left(tmp_path):
        ends(lambda: verify_noise_of_file(path))
        # The model is a folder that is not there, so that nothing is loaded and no hub is asked.
        ends(lambda: extend(path, 33, model=REFERENCE / "nothing", progress=False))


@bounded(10)
@given(manifest=changes_of(MANIFEST), ending=st.sampled_from(["mp4", "gif", "webp", "png"]))
def test_manifests_beside_clips(manifest, ending, tmp_path, made):
    path = tmp_path / f"clip.{ending}"
    if not path.exists():
        made.save(path, scale=1)
    (tmp_path / "clip.json").write_text(json.dumps(manifest), encoding="utf-8")
    with nothing_left(tmp_path):
        ends(lambda: read_clip(path))
        ends(lambda: verify_noise_of_file(path))


@bounded()
@example(content=b"[" * 100_000)
@given(content=contents)
def test_files_that_are_to_hold_a_manifest(content, tmp_path):
    for ending in ("json", "mp4"):
        (tmp_path / f"clip.{ending}").write_bytes(content)
        assert ends(lambda ending=ending: read_manifest(tmp_path / f"clip.{ending}")) is None


@pytest.fixture(scope="module")
def clips(made, tmp_path_factory) -> Given:
    """Small files of every kind, by name."""
    folder = tmp_path_factory.mktemp("clips")
    for ending in ("mp4", "gif", "webp"):
        made.save(folder / f"clip.{ending}", scale=1, keep_latents=ending == "mp4")
    picture = Image.fromarray(made.frames[0])
    for name, options in (("a.png", {}), ("a.jpg", {"exif": b"Exif\0\0MM\0*\0\0\0\x08"}), ("a.bmp", {})):
        picture.save(folder / name, **options)
    picture.convert("P").save(folder / "palette.png", transparency=3)
    Image.fromarray(made.frames[0, :, :, 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.save(folder / "a.tiff")
    return Given({path.name: path.read_bytes() for path in folder.iterdir()})


@bounded(2)
@given(data=st.data())
def test_damaged_clips_and_images(data, clips, tmp_path):
    name = data.draw(st.sampled_from(sorted(clips.value)))
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(clips.value[name])))
    with nothing_left(tmp_path):
        ends(lambda: open_image(path))
        ends(lambda: read_clip(path))
        ends(lambda: read_manifest(path))
        if path.suffix == ".safetensors":
            ends(lambda: read_latents(path, ["0"]))


# Tensors: latents, units, embeddings and LoRAs


DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.complex64]
SHAPES = st.lists(st.integers(0, 4), max_size=5)


@st.composite
def odd_tensors(draw, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of which one is gone, or has another name, shape, number format, or no finite values."""
    tensors = dict(tensors)
    name = draw(st.sampled_from(sorted(tensors)))
    values = tensors.pop(name)
    kind = draw(st.sampled_from(["gone", "name", "shape", "dtype", "nan", "more"]))
    if kind == "name":
        tensors[draw(st.text(max_size=9)) + draw(st.sampled_from(["", name, name[:-1]]))] = values
    elif kind == "shape":
        tensors[name] = torch.zeros(draw(SHAPES), dtype=values.dtype)
    elif kind == "dtype":
        tensors[name] = values.to(draw(st.sampled_from(DTYPES)))
    elif kind == "nan":
        tensors[name] = torch.full_like(values, float("nan")) if values.is_floating_point() else values
    elif kind == "more":
        tensors |= {name: values, draw(st.text(max_size=9)): torch.zeros(draw(SHAPES))}
    return {name: values.contiguous() for name, values in tensors.items()}


@bounded(2)
@given(data=st.data())
def test_units_of_an_unfinished_clip(data, tmp_path):
    latents = torch.zeros(1, 4, 1, 8, 8)
    save_unit(tmp_path, 0, latents, ["a"], {"key": "k"})
    path = tmp_path / "unit-0000.safetensors"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        save_file(data.draw(odd_tensors({"latents": latents})), path, {"sha256": "0", "unit": "0"})
    with nothing_left(tmp_path):
        beginning, refusal = load_units(tmp_path, 3, {"key": "k"})
    assert refusal or torch.equal(beginning.latents, latents)


@pytest.fixture(scope="module")
def texts(quick):
    """Settings of a clip, and its encoded texts."""
    settings = quick | {"num_frames": 1, "guidance_scale": 3.0, "negative_prompt": "fog"}
    return Given((settings, encode_prompts(["a boat"], **settings)))


def clip_of(path, settings):
    return generate("a boat", seed=1, prompt_embeds=path, **settings)


@bounded(25)
@given(data=st.data())
def test_embeddings_in_a_file(data, texts, tmp_path):
    settings, encoded = texts.value
    path = encoded.save(tmp_path / "texts.safetensors", overwrite=True)
    kind = data.draw(st.sampled_from(["bytes", "header", "tensors"]))
    if kind == "bytes":
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    elif kind == "header":
        tensors, header = load_file(path), header_of(path)
        path.write_bytes(save(tensors, {"pyramid_seed": json.dumps(data.draw(changes_of(header)))}))
    else:
        path.write_bytes(
            save(data.draw(odd_tensors(load_file(path))), {"pyramid_seed": json.dumps(header_of(path))})
        )
    with nothing_left(tmp_path):
        ends(lambda: clip_of(path, settings))


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["pyramid_seed"])


@bounded(25)
@given(data=st.data())
def test_embeddings_of_odd_shapes_that_say_their_own_digest(data, texts, tmp_path):
    """Written by other tools: nothing is wrong with the file, but it is none of this model."""
    settings, encoded = texts.value
    text = data.draw(st.sampled_from(sorted(encoded.texts)))
    tensors = data.draw(odd_tensors(encoded.texts[text]._asdict()))
    embeddings = encoded.texts[text]._replace(
        **{name: values for name, values in tensors.items() if name in encoded.texts[text]._fields}
    )
    other = replace(encoded, texts=dict(encoded.texts) | {text: embeddings})
    path = ends(lambda: other.save(tmp_path / "texts.safetensors", overwrite=True))
    ends(lambda: clip_of(other if path is None else path, settings))


@pytest.fixture(scope="module")
def lora(quick, tmp_path_factory):
    """A pipeline, and the tensors of a LoRA for it."""
    peft = pytest.importorskip("peft")
    pipe = load_pipeline(quick["model"], variant="384p", device="cpu")
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    pipe.transformer.save_lora_adapter(folder, weight_name="style.safetensors")
    pipe.transformer.unload_lora()
    return Given((pipe, load_file(folder / "style.safetensors")))


@bounded(5)
@given(data=st.data())
def test_loras(data, lora, tmp_path):
    pipe, tensors = lora.value
    path = tmp_path / "style.safetensors"
    prefix = data.draw(st.sampled_from(["", "transformer.", "base_model.model.", "unet."]))
    tensors = {prefix + name: values for name, values in tensors.items()}
    path.write_bytes(save(tensors))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        metadata = data.draw(
            st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2)
        )
        path.write_bytes(save(data.draw(odd_tensors(tensors)), metadata))
    before = {name: values.clone() for name, values in pipe.transformer.state_dict().items()}
    with nothing_left(tmp_path):
        loaded = ends(lambda: (pipe.load_lora_weights(path),))
    if loaded:
        pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(values, after[name]) for name, values in before.items())


# Folders: of models, and of batches


@pytest.fixture(scope="module", params=["miniflux-tiny", "sd3-tiny", "saved"])
def model(request, tmp_path_factory) -> Path:
    """A model, in both layouts; tests put back what they change."""
    folder = tmp_path_factory.mktemp("model") / "model"
    if request.param != "saved":
        shutil.copytree(REFERENCE / request.param, folder)
    else:
        pipe = load_pipeline(REFERENCE / "miniflux-tiny", variant="384p", device="cpu")
        pipe.save_pretrained(folder, max_shard_size="300KB")
    return folder


@bounded(5)
@given(data=st.data())
def test_model_folders(data, model):
    texts = sorted(path for path in model.rglob("*") if path.suffix in (".json", ".txt", ".model"))
    path = data.draw(st.sampled_from(texts), "file")
    before = path.read_bytes()
    ways = [contents, damaged(before)]
    if path.suffix == ".json" and len(before) < 60_000:
        ways += [changes_of(json.loads(before)).map(lambda values: json.dumps(values).encode())] * 3
    path.write_bytes(data.draw(st.one_of(ways)))
    try:
        with nothing_left(model):
            source = ends(lambda: read_source(model, variant="384p"))
            if source is not None:
                ends(lambda: source.geometry)
                ends(lambda: source.weights)
    finally:
        path.write_bytes(before)


@pytest.mark.slow
@bounded(10)
@given(data=st.data())
def test_model_folders_that_are_loaded(data, model):
    files = sorted(path for path in model.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files), "file")
    before = path.read_bytes()
    ways = [damaged(before)]
    if path.suffix == ".json" and len(before) < 60_000:
        ways += [changes_of(json.loads(before)).map(lambda values: json.dumps(values).encode())] * 5
    path.write_bytes(data.draw(st.one_of(ways)))
    try:
        with nothing_left(model):
            ends(lambda: load_pipeline(model, variant="384p", device="cpu"))
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def half_done(tmp_path_factory) -> dict[bool, Path]:
    """Batches of which one clip is there and another one has been begun; also in sub-folders."""
    made = {}
    for folders in (False, True):
        folder = tmp_path_factory.mktemp("batch") / "clips"
        run(folder, 0, folders=folders)
        with pytest.raises(Killed):
            run(folder, 0, 1, folders=folders, maker=NoiseMaker({(1, 2): raiser(Killed)}))
        made[folders] = folder
    return made


def damage(data, folder):
    """Change one place of a folder, in any way in which a place can be."""
    paths = sorted(path for path in folder.rglob("*"))
    path = data.draw(st.sampled_from(paths), "path")
    kind = data.draw(
        st.sampled_from(["damaged", "contents", "lines", "gone", "folder", "loop", "FIFO", "more"])
    )
    if kind == "damaged" and path.is_file() and path.stat().st_size:
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    elif kind == "contents" and path.is_file():
        path.write_bytes(data.draw(contents))
    elif kind == "lines" and path.suffix == ".jsonl" and path.is_file():
        lines = []
        with contextlib.suppress(ValueError):  # damaged before
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        changed_lines = [json.dumps(data.draw(changes_of(line))) for line in lines]
        path.write_text("\n".join([*map(json.dumps, lines), *changed_lines]) + "\n")
    elif kind == "more":
        name = data.draw(
            st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
        )
        place = path if path.is_dir() else path.parent
        with contextlib.suppress(OSError):
            (place / name).write_bytes(data.draw(contents))
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        {"folder": Path.mkdir, "loop": lambda path: path.symlink_to(path), "FIFO": os.mkfifo}.get(
            kind, lambda path: None
        )(path)


@bounded(25)
@given(data=st.data(), folders=st.booleans())
def test_folders_of_batches(data, folders, half_done, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "clips"
    shutil.copytree(half_done[folders], folder)
    for _ in range(data.draw(st.integers(1, 3))):
        damage(data, folder)
    summary = ends(lambda: run(folder, 0, 1, folders=folders, check_files=True))
    assert [path.name for path in folder.parent.iterdir()] == ["clips"]
    if summary is not None:
        assert (summary.status, len(summary.digests)) == (0, 2)
        assert sorted(summary.digests.values()) == sorted(run(folder.parent / "new", 0, 1).digests.values())
    shutil.rmtree(folder.parent)
