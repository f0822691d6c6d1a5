"""`generate` and `load_pipeline`."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pyramid_seed
from pyramid_seed import PyramidFlowPipeline, generate, load_pipeline, load_preset
from pyramid_seed.api import image_digest
from pyramid_seed.loading import default_device
from pyramid_seed.noise import Branch, NoiseKey
from pyramid_seed.pipelines.beginning import Beginning
from pyramid_seed.presets import Preset
from pyramid_seed.private_apis import active_attention_backend, set_active_attention_backend
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.conftest import REFERENCE


@pytest.fixture
def picture(quick):
    """Settings of one frame, where the length of a clip says nothing."""
    return quick | {"num_frames": 1}


@pytest.fixture(scope="module")
def clip(quick):
    return generate("a boat", seed=3, **quick)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another(quick, clip):
    first, again, other = clip, *(generate("a boat", seed=seed, **quick) for seed in (3, 4))
    assert np.array_equal(first.frames, again.frames)
    assert first.digest == again.digest == hashlib.sha256(first.frames.tobytes()).hexdigest()
    assert first.ledger == again.ledger
    assert other.digest != first.digest
    assert other.ledger != first.ledger


def test_a_clip_says_what_it_is(quick):
    clip = generate("a boat", seed=3, fps=12, **quick)
    assert clip.frames.shape == (9, 64, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert (clip.seed, clip.fps, clip.prompt) == (3, 12, "a boat")
    assert clip.settings.num_inference_steps == (1, 1, 1)
    assert [entry.key for entry in clip.ledger] == [
        NoiseKey(stream, unit, stage)
        for unit in range(2)
        for stream, stage in (("initial", 0), ("renoise", 1), ("renoise", 2))
    ]
    assert "seed=3" in repr(clip)


def test_a_path_of_attention_for_one_clip(quick, clip):
    plain = clip
    other = generate("a boat", seed=3, attention="reference", **quick)
    assert (plain.manifest["attention"], other.manifest["attention"]) == ("grouped", "reference")
    torch.testing.assert_close(plain.latents, other.latents, rtol=0, atol=1e-4)
    assert generate("a boat", seed=3, **quick).manifest["attention"] == "grouped"
    with pytest.raises(ValueError, match="attention must be one of grouped, prefix, reference, got 'flash'"):
        generate("a boat", attention="flash", **quick)


def test_a_given_pipeline_keeps_its_path_and_is_compiled_by_its_owner(picture):
    pipeline = load_pipeline(picture["model"], variant="384p", device="cpu")
    pipeline.transformer.set_attention_path("reference")
    clip = generate("a boat", seed=3, pipeline=pipeline, **picture)
    assert (clip.manifest["attention"], clip.manifest["compiled"]) == ("reference", False)
    with pytest.raises(ValueError, match=r"call pipeline\.transformer\.compile_repeated_blocks\(\)"):
        generate("a boat", pipeline=pipeline, compile=True, **picture)


def test_what_is_compiled_is_told(quick):
    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    pipeline.transformer.proj_out.compile(backend="eager")  # a part of it, for speed
    clip = generate("a boat", seed=3, pipeline=pipeline, **quick | {"num_frames": 1})
    assert clip.manifest["compiled"] is True


@pytest.mark.slow
def test_load_pipeline_compiles_when_asked(quick):
    assert load_pipeline(quick["model"], variant="384p", device="cpu", compile=True).transformer.is_compiled


def test_without_a_seed_the_one_used_is_told(picture):
    clip = generate("a boat", **picture)
    assert 0 <= clip.seed < 2**64
    assert generate("a boat", seed=clip.seed, **picture).digest == clip.digest


def test_the_model_is_loaded_once(picture):
    generate("a boat", seed=1, **picture)
    before = shared_pipeline.num_loads
    generate("a boat", seed=2, **picture)
    assert shared_pipeline.num_loads == before


def test_what_does_not_fit_the_model_is_refused_before_it_is_loaded(quick):
    shared_pipeline.clear()
    before = shared_pipeline.num_loads
    for settings, message in (
        ({"num_frames": 10}, "num_frames must be 8k"),
        ({"height": 100}, "height must be a multiple of 64"),
        ({"num_inference_steps": [1, 1]}, "3 stages"),
        ({"max_sequence_length": 1000}, "at most 512"),
        # Not even the hub is asked, of which there is none here.
        ({"model": "rain1011/pyramid-flow-sd3", "height": 100}, "height must be a multiple of 64"),
    ):
        with pytest.raises(ValueError, match=message):
            generate("a boat", **quick | settings)
    with pytest.raises(ValueError, match="image gives the clip its size of 101 x 64, but height must be"):
        generate("a boat", image=Image.new("RGB", (64, 101)), **without_size(quick))
    assert shared_pipeline.num_loads == before


def test_two_threads_load_a_model_once(quick):
    shared_pipeline.clear()
    before = shared_pipeline.num_loads
    settings = load_preset("tiny-fast")
    with ThreadPoolExecutor(8) as pool:
        pipelines = set(pool.map(lambda _: id(shared_pipeline.get(settings)), range(8)))
    assert len(pipelines) == 1
    assert shared_pipeline.num_loads == before + 1


def without_size(settings):
    return {name: value for name, value in settings.items() if name not in ("height", "width")}


@pytest.fixture
def copied_model(quick, tmp_path):
    shutil.copytree(quick["model"], tmp_path / "model")
    return tmp_path / "model"


def retrain(model: Path) -> None:
    file = model / "diffusion_transformer_384p" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file)


def test_a_model_that_was_trained_further_is_loaded_again(picture, copied_model):
    settings = picture | {"model": str(copied_model)}
    before = generate("a boat", seed=1, **settings)
    retrain(copied_model)
    after = generate("a boat", seed=1, **settings)
    assert after.digest != before.digest
    digests = [{row["file"]: row["sha256"] for row in clip.manifest["weights"]} for clip in (before, after)]
    changed = {name for name in digests[0] if digests[0][name] != digests[1][name]}
    assert changed == {"diffusion_transformer_384p/diffusion_pytorch_model.safetensors"}


def test_a_pipeline_whose_files_have_changed_is_refused(quick, copied_model):
    pipeline = load_pipeline(copied_model, variant="384p", device="cpu")
    retrain(copied_model)
    with pytest.raises(
        ValueError, match=r"has changed since the model was loaded \(diffusion_tr.*load it ag"
    ):
        generate("a boat", seed=1, pipeline=pipeline, **quick)
    shutil.rmtree(copied_model)
    with pytest.raises((ValueError, OSError), match=str(copied_model)):
        generate("a boat", seed=1, pipeline=pipeline, **quick)


def test_no_weight_of_a_loaded_model_is_mapped_from_its_file(quick, copied_model):
    pipeline = load_pipeline(copied_model, variant="384p", device="cpu")
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    before = {
        (name, key): value.clone()
        for name, part in modules.items()
        for key, value in part.state_dict().items()
    }
    for file in copied_model.rglob("*.safetensors"):
        with file.open("r+b") as opened:
            opened.write(b"\0" * file.stat().st_size)
    for name, part in modules.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, before[name, key]), (name, key)


@pytest.mark.parametrize("part", ["text_encoder_2", "transformer", "vae"])
def test_a_saved_model_without_some_weight_is_refused(quick, tmp_path, part):
    load_pipeline(quick["model"], variant="384p", device="cpu").save_pretrained(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    weights = load_file(file)
    gone = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{part}.* must hold (all weights|exactly).* missing: {gone}"):
        load_pipeline(tmp_path, device="cpu")


def test_autocast_around_a_clip_changes_nothing(quick, clip):
    with torch.autocast("cpu", torch.bfloat16):
        assert generate("a boat", seed=3, **quick).digest == clip.digest


def test_a_pipeline_at_work_takes_no_other_call(picture):
    pipeline = load_pipeline(picture["model"], variant="384p", device="cpu")
    refusals = []

    def ask_again(*_):
        with pytest.raises(RuntimeError, match="this pipeline is making a clip") as refusal:
            generate("a boat", seed=2, pipeline=pipeline, **picture)
        refusals.append(refusal)

    clip = generate("a boat", seed=1, pipeline=pipeline, on_unit=ask_again, **picture)
    assert len(refusals) == 1
    assert clip.digest == generate("a boat", seed=1, pipeline=pipeline, **picture).digest


def test_the_attention_backend_of_the_run_is_told(picture):
    found = active_attention_backend()
    set_active_attention_backend("_native_math")
    try:
        clips = {level: generate("a boat", determinism=level, **picture) for level in ("strict", "relaxed")}
    finally:
        set_active_attention_backend(found)
    told = {level: clip.environment["attention_backend"] for level, clip in clips.items()}
    assert told == {"strict": "native", "relaxed": "_native_math"}


@pytest.fixture(scope="module")
def whole(quick):
    """A longer clip of the same seed."""
    return generate("a boat", seed=3, **quick | {"num_frames": 17})


def test_given_latents_are_not_computed_again_and_change_nothing(quick, clip, whole):
    start = clip
    assert np.array_equal(start.frames, whole.frames[:9])
    steps = []
    resumed = generate(
        "a boat",
        seed=3,
        beginning=Beginning(start.latents, start.stage_digests),
        on_step=lambda pipe, *_: steps.append(pipe.current_place.unit),
        **quick | {"num_frames": 17},
    )
    assert set(steps) == {2}
    assert resumed.digest == whole.digest
    assert resumed.ledger == whole.ledger
    assert resumed.manifest["digests"] == whole.manifest["digests"]


def test_a_branch_keeps_the_beginning(quick, whole):
    longer = quick | {"num_frames": 17}
    branched = generate("a boat", seed=3, branches=[Branch(from_unit=2, seed=99)], **longer)
    assert np.array_equal(branched.frames[:9], whole.frames[:9])
    assert not np.array_equal(branched.frames[9:], whole.frames[9:])
    assert [a == b for a, b in zip(branched.ledger, whole.ledger, strict=True)] == [True] * 6 + [False] * 3


def test_an_image_gives_the_size_and_is_recorded(quick):
    image = Image.open(REFERENCE / "i2v_input.png")
    clip = generate("the sea", seed=1, image=image, **without_size(quick))
    assert clip.frames.shape[1:3] == (image.height, image.width) == (64, 128)
    assert clip.recipe.image_digest == image_digest(np.asarray(image.convert("RGB"), np.float32)[None] / 255)
    assert next(iter(clip.ledger)).key == NoiseKey("posterior", 0, 0)
    with pytest.raises(ValueError, match=r"64 x 64, got 64 x 128; resize it first"):
        generate("the sea", seed=1, image=image, **quick)


def test_a_single_picture(quick):
    clip = generate("a boat", seed=3, **quick | {"num_frames": 1})
    assert clip.frames.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp", ".png"])
def test_save_by_ending(clip, tmp_path, ending):
    path = clip.save(tmp_path / f"clip{ending}", scale=2)
    if ending == ".png":
        frames = np.stack([iio.imread(file) for file in sorted(path.iterdir())])
    else:
        frames = np.stack(list(iio.imiter(path, plugin="pyav" if ending == ".mp4" else "pillow")))
    assert frames.shape[1:3] == (128, 128)
    with pytest.raises(FileExistsError, match="overwrite"):
        clip.save(path)


def test_a_notebook_plays_the_clip(clip):
    page = replace(clip, recipe=replace(clip.recipe, prompt="a <boat>"))._repr_html_()
    assert page.startswith("<video controls")
    assert "a &lt;boat&gt;" in page
    assert "seed 3" in page


def test_settings_replace_the_presets(quick):
    preset = load_preset("tiny")
    assert isinstance(preset, Preset)
    clip = generate("a boat", seed=3, **quick | {"preset": preset})
    assert clip.settings.fps == preset.fps
    assert clip.settings.guidance_scale == preset.guidance_scale
    assert clip.settings.num_frames == 9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_frame": 9}, TypeError, "unknown setting 'num_frame'; did you mean 'num_frames'?"),
        ({"num_frames": 10}, ValueError, r"num_frames must be 8k \+ 1, got 10; use 9 or 17"),
        ({"height": 100}, ValueError, "height must be a multiple of 64, got 100; use 64 or 128"),
        ({"seed": -1}, ValueError, "-1"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"preset": "tinny"}, ValueError, "did you mean 'tiny'"),
        ({"num_inference_steps": [1, 1]}, ValueError, "3 stages"),
        ({"guidance_scale": "high"}, ValueError, "guidance_scale must be a number"),
        ({"determinism": "loose"}, ValueError, "strict"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of float32, bfloat16, got 'float16'"),
        ({"model": "/nowhere/at/all"}, FileNotFoundError, "/nowhere/at/all"),
    ],
)
def test_bad_arguments_are_named(quick, arguments, error, message):
    with pytest.raises(error, match=message):
        generate("a boat", **quick | arguments)


def test_a_list_of_prompts_is_refused(quick):
    with pytest.raises(TypeError, match="one str, got list"):
        generate(["a", "b"], **quick)


def test_load_pipeline_reads_what_save_pretrained_wrote(quick, tmp_path):
    original = load_pipeline(REFERENCE / "miniflux-tiny", variant="384p")
    original.save_pretrained(tmp_path / "saved")
    loaded = load_pipeline(tmp_path / "saved")
    assert isinstance(loaded, PyramidFlowPipeline)
    assert loaded.source.folder == tmp_path / "saved"
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(loaded, name).state_dict(), getattr(original, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    picture = quick | {"num_frames": 1}
    clips = [generate("a boat", seed=3, pipeline=pipeline, **picture) for pipeline in (original, loaded)]
    assert clips[0].digest == clips[1].digest
    with pytest.raises(ValueError, match="leave variant out"):
        load_pipeline(tmp_path / "saved", variant="384p")


def test_load_pipeline_refuses_fp16():
    with pytest.raises(ValueError, match="float16"):
        load_pipeline(REFERENCE / "miniflux-tiny", dtype=torch.float16)


def test_default_device_is_a_device():
    assert default_device().type in ("cpu", "cuda", "mps", "xpu")


def test_every_public_name_is_there():
    for name in pyramid_seed.__all__:
        assert getattr(pyramid_seed, name) is not None
    assert set(pyramid_seed.__all__) <= set(dir(pyramid_seed))
    with pytest.raises(AttributeError, match="No pyramid_seed attribute nothing"):
        _ = pyramid_seed.nothing
