"""Helios: what diffusers itself makes of the same noise, where the noise comes from, and what is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import HeliosTransformer3DModel
from diffusers.video_processor import VideoProcessor
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file

from pyramid_seed import Beginning, Branch, generate, load_pipeline
from pyramid_seed.api import image_digest
from pyramid_seed.batch.run import run_batch
from pyramid_seed.determinism import determinism_level
from pyramid_seed.files import file_digest
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.given_video import GivenVideo
from pyramid_seed.media.video import read_video, write_video
from pyramid_seed.noise import NoiseStreams
from pyramid_seed.pipelines import SeededHeliosPyramidPipeline
from pyramid_seed.pipelines.helios_history import video_pixels
from pyramid_seed.pipelines.pipeline_helios import HeliosSampler, SeededHeliosPipeline, cleaned
from pyramid_seed.reproduce import extend, verify
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.cases import check_cases
from tests.conftest import REFERENCE
from tests.reference.helios_tiny import CASES, LATENT_FRAMES, NEGATIVE, PICTURE, PROMPT, SEED

MOVING = np.stack([np.roll(np.asarray(PICTURE.resize((64, 64))), shift, axis=1) for shift in range(67)])
SMALL = {"height": 64, "width": 64, "num_frames": 66, "num_inference_steps": 1, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def folder(helios_folder):
    return helios_folder


@pytest.fixture(scope="module")
def pipeline(folder):
    """A model as load_pipeline reads it; shared, so not to be changed."""

    def load(name: str) -> SeededHeliosPipeline:
        pipe = load_pipeline(folder(name), device="cpu")
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return cache(load)


@pytest.fixture(scope="module")
def vectors():
    return load_file(REFERENCE / "helios_tiny.safetensors")


FAST = ("base_guided", "distilled_unguided_image", "distilled_unguided_video")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_latents_are_those_of_diffusers(name, pipeline, vectors):
    case = CASES[name]
    output = pipeline(case.model)(
        PROMPT, NEGATIVE, **case.both, **case.ours, seed=SEED, output_type="latent", show_progress=False
    )
    torch.testing.assert_close(output.latents[:, :, LATENT_FRAMES], vectors[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_frames_are_those_of_diffusers(pipeline):
    """Every chunk decoded alone; all frames, where diffusers cuts off some at the end of a clip."""
    pipe = pipeline("base")
    output = pipe(PROMPT, **SMALL, seed=SEED, output_type="pt")
    mean, std = (
        torch.tensor(pipe.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    with torch.no_grad(), determinism_level("strict"):
        raw = [latents / (1.0 / std) + mean for latents in output.latents.split(9, dim=2)]
        pixels = torch.cat([pipe.vae.decode(latents).sample for latents in raw], dim=2)
    assert output.frames.shape == (1, 66, 3, 64, 64)
    assert torch.equal(output.frames, pipe.video_processor.postprocess_video(pixels, output_type="pt"))


def test_a_unit_is_a_chunk_with_its_own_draws(pipeline):
    """A batch, a prefix and what goes on from it, all from latents, which takes no decoding."""
    pipe = pipeline("distilled")
    small = SMALL | {"output_type": "latent", "show_progress": False}
    both = pipe([PROMPT, "star"], **small, seed=[1, 2])
    keys = [str(entry.key) for entry in both.ledgers[0]]
    assert keys == [
        f"{key}" for k in (0, 1) for key in (f"initial/{k}/0", f"renoise/{k}/1", f"renoise/{k}/2")
    ]
    shapes = [entry.shape for entry in both.ledgers[0]][:3]
    assert shapes == [(1, 4, 9, 8, 8), (1, 4, 9, 4, 4), (1, 4, 9, 8, 8)]
    one = pipe("star", **small, seed=2)
    assert torch.equal(one.latents, both.latents[1:])
    assert one.ledgers[0] == both.ledgers[1]
    short = pipe("star", **small | {"num_frames": 33}, seed=2)
    assert torch.equal(short.latents, one.latents[:, :, :9])
    branch = NoiseStreams(2, branches=[Branch(1, 3)])
    other = pipe("star", **small, noise=branch)
    assert torch.equal(other.latents[:, :, :9], one.latents[:, :, :9])
    assert not torch.equal(other.latents[:, :, 9:], one.latents[:, :, 9:])


def test_chunks_go_on_from_an_image(pipeline):
    """The image is no unit: it is drawn for before unit 0, and every chunk goes on from it."""
    pipe = pipeline("base")
    small = SMALL | {"output_type": "latent", "show_progress": False}
    images = [PICTURE.resize((64, 64)), Image.new("RGB", (64, 64), "red")]
    both = pipe([PROMPT, "star"], image=images, **small, seed=[1, 2])
    assert both.latents.shape[2] == 18
    frame = (1, 4, 1, 8, 8)
    assert [(str(entry.key), entry.shape) for entry in both.ledgers[0]] == [
        ("posterior/0/0", frame),
        ("image_sigma/0/0", (1, 1, 1, 1, 1)),
        ("image_noise/0/0", frame),
        ("history_posterior/0/0", frame),
        ("history_sigma/0/0", (1, 1, 1, 1, 1)),
        ("history_noise/0/0", frame),
        ("initial/0/0", (1, 4, 9, 8, 8)),
        ("initial/1/0", (1, 4, 9, 8, 8)),
    ]
    star = {**small, "image": images[1], "seed": 2}
    one = pipe("star", **star)
    assert torch.equal(one.latents, both.latents[1:])
    assert one.ledgers[0] == both.ledgers[1]
    assert one.ledgers[0].scheme == "pyramid-seed/v2"
    short = pipe("star", **star | {"num_frames": 33})
    assert torch.equal(short.latents, one.latents[:, :, :9])
    assert list(short.ledgers[0]) == list(one.ledgers[0])[:-1]
    known = Beginning(short.latents, image_digest=image_digest(images[1]), frames_per_unit=9)
    longer = pipe("star", **star, beginning=known)
    assert torch.equal(longer.latents, one.latents)
    assert longer.ledgers == one.ledgers
    branch = NoiseStreams(2, branches=[Branch(1, 3)])
    other = pipe("star", **star | {"seed": None, "noise": branch})
    assert torch.equal(other.latents[:, :, :9], one.latents[:, :, :9])
    # The second chunk follows from the image as well.
    red = pipe(
        "star",
        **star | {"beginning": replace(known, image_digest=image_digest(images[0])), "image": images[0]},
    )
    assert not torch.equal(red.latents[:, :, 9:], one.latents[:, :, 9:])


@pytest.mark.slow
def test_chunks_go_on_from_a_video(pipeline):
    """Its first frame and each of its chunks have draws of their own; the clip has new frames only."""
    pipe = pipeline("base")
    video = MOVING[:66]
    small = {**SMALL, "output_type": "latent", "show_progress": False, "seed": 2}
    one = pipe("star", **small, video=video)
    frame, chunk = (1, 4, 1, 8, 8), (1, 4, 9, 8, 8)
    assert one.latents.shape[2] == 18
    assert [(str(entry.key), entry.shape) for entry in one.ledgers[0]] == [
        ("posterior/0/0", frame),
        ("image_sigma/0/0", (1, 1, 1, 1, 1)),
        ("image_noise/0/0", frame),
        ("history_posterior/0/0", chunk),
        ("history_sigma/0/0", (1, 1, 9, 1, 1)),
        ("history_noise/0/0", chunk),
        ("history_posterior/0/1", chunk),
        ("history_sigma/0/1", (1, 1, 9, 1, 1)),
        ("history_noise/0/1", chunk),
        ("initial/0/0", chunk),
        ("initial/1/0", chunk),
    ]
    assert one.ledgers[0].scheme == "pyramid-seed/v2"
    short = pipe("star", **small | {"num_frames": 33}, video=list(map(Image.fromarray, video)))
    assert torch.equal(short.latents, one.latents[:, :, :9])
    known = Beginning(short.latents, image_digest=frames_digest(video), frames_per_unit=9)
    longer = pipe("star", **small, video=video, beginning=known)
    assert torch.equal(longer.latents, one.latents)
    assert longer.ledgers == one.ledgers
    with pytest.raises(ValueError, match=f"with image_digest '{frames_digest(video)}', got one with"):
        pipe("star", **small, video=MOVING[1:67], beginning=known)


def test_pixels_of_a_video_are_those_of_diffusers():
    expected = VideoProcessor(do_resize=False).preprocess_video(list(map(Image.fromarray, MOVING[:3])))
    assert torch.equal(video_pixels(GivenVideo(MOVING[:3])), expected)


def test_what_helios_cannot_do_is_refused(pipeline, folder, monkeypatch):
    pipe = pipeline("base")
    pixels = torch.zeros(1, 3, 64, 64)
    from_image = Beginning(torch.zeros(1, 4, 9, 8, 8), image_digest="0" * 64, frames_per_unit=9)
    cases = {
        "num_frames must be a multiple of 33, got 40; use 33 or 66": {"num_frames": 40},
        "num_frames must be a multiple of 33, got 1; use 33": {"num_frames": 1},
        "image must have the clip's height and width 64 x 64": {"image": pixels[..., :32]},
        "video must have the clip's height and width 64 x 64": {"video": MOVING[:33, :32]},
        "its num_frames must be a multiple of 33, got 40; use 33 or 66": {"video": MOVING[:40]},
        "its num_frames must be a multiple of 33, got 32; use 33": {"video": MOVING[:32]},
        "from an image or from a video, got both": {"video": MOVING[:33], "image": pixels},
        "video must be a numpy array of uint8, got float32": {"video": MOVING[:33] / np.float32(255)},
        "a beginning that was made from an image or a video needs it again": {"beginning": from_image},
        "image_digest '000.*', got one with": {"beginning": from_image, "image": pixels},
        "an image is no unit of this model": {"beginning": replace(from_image, stage_digests=((),))},
        "shards must be None for Helios": {"shards": 1},
        "workers must be 1 for Helios": {"workers": 2},
        "attention must be 'reference' for Helios": {"attention": "grouped"},
        "latents must be None": {"latents": pixels},
    }

    def rule(message, arguments):
        with pytest.raises(ValueError, match=message):
            pipe("a boat", **SMALL | arguments)

    check_cases({message: (message, arguments) for message, arguments in cases.items()}, rule)
    for part, name, message in (
        (pipe.vae, "use_tiling", "the vae has tiling on"),
        (pipe.vae, "use_slicing", "the vae has slicing on"),
        (type(pipe.transformer), "is_cache_enabled", "step caches are not for Helios"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, True, raising=False)
            with pytest.raises(ValueError, match=message):
                pipe("a boat", **SMALL)
    without = load_pipeline(folder("base"), vae=None, device="cpu")
    with pytest.raises(ValueError, match="must have a vae, even for latents alone"):
        without("a boat", **SMALL, output_type="latent")
    with pytest.raises(
        ValueError, match="width must be at least 128 for a guided clip of this model, got 64"
    ):
        pipeline("mid")("a boat", **SMALL | {"guidance_scale": 2.0})
    settings = {**SMALL, "model": folder("mid"), "fps": 24, "guidance_scale": 1.0, "progress": False}
    with pytest.raises(ValueError, match="shards must be None"):
        generate("a boat", **settings, shards=3)


@pytest.fixture
def lora(folder, tmp_path):
    """A LoRA as a trainer of diffusers saves it."""
    trained = HeliosTransformer3DModel.from_pretrained(folder("distilled"), subfolder="transformer")
    trained.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    trained.save_lora_adapter(tmp_path, weight_name="style.safetensors")
    return tmp_path / "style.safetensors"


def test_a_lora_acts_is_scaled_and_leaves(folder, lora, tmp_path):
    pipe = load_pipeline(folder("distilled"), device="cpu")
    small = SMALL | {"num_frames": 33, "output_type": "latent", "show_progress": False, "seed": 1}
    plain = pipe("a boat", **small).latents
    pipe.load_lora_weights(lora, adapter_name="style")
    full = pipe("a boat", **small).latents
    assert (full - plain).abs().max() > 0.1
    half = pipe("a boat", **small, attention_kwargs={"scale": 0.5}).latents
    pipe.set_adapters("style", 0.5)
    assert torch.equal(pipe("a boat", **small).latents, half)
    (used,) = pipe.loras_in_use()
    assert (used.file, used.scale, used.sha256) == (lora.name, 0.5, file_digest(lora))
    pipe.unload_lora_weights()
    assert torch.equal(pipe("a boat", **small).latents, plain)
    assert pipe.loras_in_use() == ()
    wider = load_file(lora)
    wider |= {name: values.repeat(1, 2) for name, values in wider.items() if "lora_A" in name}
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(ValueError, match=r"another model: .* must have shape \(rank, 24\) here"):
        pipe.load_lora_weights(tmp_path / "wider.safetensors")
    saved = SeededHeliosPyramidPipeline.from_pretrained(folder("distilled"))  # with diffusers' transformer
    saved.load_lora_weights(lora, adapter_name="style")
    saved.set_adapters("style", 0.5)
    assert saved.loras_in_use() == (used,)


def test_prompts_are_cleaned_as_by_diffusers(monkeypatch):
    monkeypatch.setattr("pyramid_seed.pipelines.pipeline_helios.find_spec", lambda _: None)
    assert cleaned("  a boat\n on  a lake ") == "a boat on a lake"
    for text in ("a café", "salt &amp; pepper", "a \x1b[1mboat"):
        with pytest.raises(ValueError, match="ftfy"):
            cleaned(text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "image", "video"])
def test_made_saved_verified_extended_and_in_a_batch(folder, tmp_path, kind):
    settings = {**SMALL, "model": folder("mid"), "fps": 24, "guidance_scale": 1.0}
    PICTURE.resize((64, 64)).save(tmp_path / "first.png")
    write_video(tmp_path / "first.mp4", MOVING[:33], 24)
    files = {"image": tmp_path / "first.png", "video": tmp_path / "first.mp4"}
    given = {kind: files[kind]} if kind in files else {}
    clip = generate("a boat", seed=5, progress=False, **settings, **given)
    assert clip.manifest["noise_scheme"] == f"pyramid-seed/v{2 if given else 1}"
    assert clip.manifest["geometry"]["unit_frames"] == 9
    assert clip.manifest["geometry"]["num_units"] == 2
    saved = clip.save(tmp_path / "boat.mp4", keep_latents=True)
    assert verify(saved, model=folder("mid"), progress=False, **given).same
    assert verify(saved, model=folder("mid"), sample=2, progress=False, **given).same
    assert verify(saved, noise_only=True).same
    if kind == "video":
        assert clip.manifest["video"] == {
            "sha256": frames_digest(read_video(files[kind])[0]),
            "num_frames": 33,
        }
        assert clip.manifest["image_sha256"] is None
        for other, message in (
            ({"video": MOVING[:33]}, "this is not the video that the clip was made from"),
            ({"image": files["image"]}, "the clip was made from a video"),
        ):
            with pytest.raises(ValueError, match=message):
                verify(saved, model=folder("mid"), progress=False, **other)
    if given:
        with pytest.raises(ValueError, match=rf"the clip was made from an? {kind} .* give it: --{kind}"):
            extend(saved, 99, model=folder("mid"), progress=False)
    longer = extend(saved, 99, model=folder("mid"), progress=False, **given)
    whole = generate("a boat", seed=5, progress=False, **{**settings, "num_frames": 99}, **given)
    assert longer.digest == whole.digest
    assert longer.manifest["digests"] == whole.manifest["digests"]
    with pytest.raises(ValueError, match="from_frame must be a multiple of 33"):
        extend(clip, 99, branch_seed=1, from_frame=40, progress=False)
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,seed,{0}\na boat,5,{1}\nstar,6,{1}\n".format(*(*given.items(), ("image", ""))[0]))
    if kind == "video":
        with pytest.raises(ValueError, match="a batch makes no clips from videos"):
            run_batch(rows, tmp_path / "clips", progress=False, **settings)
        return
    summary = run_batch(rows, tmp_path / "clips", progress=False, **settings)
    assert clip.digest in summary.digests.values()
    assert len(summary.digests) == 2


def test_the_folder_is_one_of_diffusers(pipeline, tmp_path):
    pipeline("distilled").save_config(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "HeliosPyramidPipeline"
    assert index["is_distilled"] is True
    assert index["transformer"] == ["diffusers", "HeliosTransformer3DModel"]
    assert not (tmp_path / "pipeline.py").exists()


def test_an_image_that_is_missing_is_asked_for_before_weights_are_read(folder):
    from_image = Beginning(torch.zeros(1, 4, 9, 8, 8), image_digest="0" * 64, frames_per_unit=9)
    loads = shared_pipeline.num_loads
    with pytest.raises(ValueError, match="made from an image or a video needs it again"):
        generate("a boat", model=folder("mid"), beginning=from_image, **SMALL, fps=24, guidance_scale=1.0)
    assert shared_pipeline.num_loads == loads


def test_its_transformer_can_be_pickled(pipeline):
    transformer = pipeline("distilled").transformer
    again = pickle.loads(pickle.dumps(transformer))
    assert type(again) is type(transformer)
    assert again.state_dict().keys() == transformer.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("image", ["", "first.png"])
def test_a_batch_goes_on_after_its_last_finished_unit(folder, tmp_path, monkeypatch, image):
    settings = {**SMALL, "model": folder("mid"), "fps": 24, "guidance_scale": 1.0, "progress": False}
    rows = tmp_path / "rows.csv"
    rows.write_text(f"prompt,seed,image\na boat,5,{image}\n")
    PICTURE.resize((64, 64)).save(tmp_path / "first.png")
    made: list[int] = []
    make_unit = HeliosSampler._unit

    def until(limit: int):
        def make(sampler, unit, *arguments):
            if unit == limit:
                raise OSError("no power")
            made.append(unit)
            return make_unit(sampler, unit, *arguments)

        return make

    monkeypatch.setattr(HeliosSampler, "_unit", until(1))
    assert run_batch(rows, tmp_path / "clips", **settings).failed
    monkeypatch.setattr(HeliosSampler, "_unit", until(2))
    summary = run_batch(rows, tmp_path / "clips", **settings)
    assert made == [0, 1]
    alone = generate("a boat", seed=5, image=tmp_path / image if image else None, **settings)
    assert list(summary.digests.values()) == [alone.digest]
