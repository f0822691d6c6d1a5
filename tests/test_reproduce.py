"""Longer and branched clips: bit for bit those that are made in one go."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pyramid_seed import Clip, generate
from pyramid_seed.geometry import PyramidGeometry
from pyramid_seed.loading import load_pipeline
from pyramid_seed.noise import Branch
from pyramid_seed.provenance.latents import write_latents
from pyramid_seed.provenance.manifest import read_manifest, stage_root
from pyramid_seed.recipe import plan_extension
from pyramid_seed.reproduce import extend, regenerate, verify
from tests.cases import check_cases


@pytest.fixture(scope="module")
def clip(quick) -> Clip:
    return generate("a boat", seed=5, **quick)


@pytest.fixture(scope="module")
def longer(quick) -> Clip:
    return generate("a boat", seed=5, **quick | {"num_frames": 25})


@pytest.fixture(scope="module")
def branched(quick) -> Clip:
    return generate("a boat", seed=5, branches=(Branch(2, 9),), **quick | {"num_frames": 25})


def assert_same(a: Clip, b: Clip) -> None:
    """Everything that a clip is, but for timings."""
    assert np.array_equal(a.frames, b.frames)
    assert torch.equal(a.latents, b.latents)
    left, right = ({k: v for k, v in each.manifest.items() if k != "timings"} for each in (a, b))
    assert left == right


def counted(monkeypatch) -> list[int]:
    """The units that are computed from now on."""
    from pyramid_seed.pipelines import denoise

    computed: list[int] = []
    original = denoise.denoise_unit

    def count(unit, *rest):
        computed.append(unit)
        return original(unit, *rest)

    monkeypatch.setattr(denoise, "denoise_unit", count)
    return computed


def test_longer_is_as_in_one_go_and_only_new_units_are_computed(clip, longer, monkeypatch):
    computed = counted(monkeypatch)
    extended = extend(clip, 25, progress=False)
    assert computed == [2, 3]
    assert_same(extended, longer)
    assert np.array_equal(extended.frames[:9], clip.frames)
    assert_same(extend(extend(clip, 17, progress=False), 25, progress=False), longer)


def test_branches_at_the_end_and_inside(clip, longer, branched):
    assert_same(extend(clip, 25, branch_seed=9, progress=False), branched)
    inside = extend(longer, 25, branch_seed=9, from_frame=9, progress=False)
    assert_same(inside, branched)
    assert np.array_equal(inside.frames[:9], longer.frames[:9])
    assert not np.array_equal(inside.frames[9:], longer.frames[9:])


def test_branches_of_branches(quick, branched):
    again = extend(branched, 33, branch_seed=4, from_frame=25, progress=False)
    one_go = generate("a boat", seed=5, branches=(Branch(2, 9), Branch(4, 4)), **quick | {"num_frames": 33})
    assert_same(again, one_go)
    replaced = extend(branched, 25, branch_seed=4, from_frame=9, progress=False)
    assert replaced.branches == (Branch(2, 4),)


def test_a_clip_from_an_image_goes_on(quick):
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    short = generate("a boat", seed=5, image=picture, **quick)
    one_go = generate("a boat", seed=5, image=picture, **quick | {"num_frames": 17})
    assert_same(extend(short, 17, progress=False), one_go)


def test_a_picture_becomes_a_clip(quick, clip):
    picture = generate("a boat", seed=5, **quick | {"num_frames": 1})
    assert_same(extend(picture, 9, progress=False), clip)


def test_guidance_of_the_kept_units_is_still_told(quick):
    settings = quick | {"guidance_scale": 7.0, "video_guidance_scale": 1.0}
    one_go = generate("a boat", seed=5, **settings | {"num_frames": 17})
    assert set(one_go.text_digests) == {"prompt", "negative_prompt"}
    assert_same(extend(generate("a boat", seed=5, **settings), 17, progress=False), one_go)


def test_a_pipeline_of_ones_own_must_be_given(quick):
    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    pipeline.source = None
    settings = {name: value for name, value in quick.items() if name not in ("model", "variant")}
    own = generate("a boat", seed=5, pipeline=pipeline, **settings)
    with pytest.raises(ValueError, match="pass it as pipeline="):
        extend(own, 17)
    assert extend(own, 17, pipeline=pipeline, progress=False).frames.shape[0] == 17


def test_another_model_does_not_go_on_with_a_clip(quick, tmp_path, clip):
    """A clip made by two models would be no function of either."""
    other = tmp_path / "miniflux-tiny"
    shutil.copytree(quick["model"], other)
    file = other / "diffusion_transformer_384p" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: value + 0.01 for name, value in weights.items()}, file)
    retrained = load_pipeline(other, variant="384p", device="cpu")
    with pytest.raises(ValueError, match=r"other weights .* differ in diffusion_transformer_384p/"):
        extend(clip, 17, pipeline=retrained)

    path = clip.save(tmp_path / "clip.mp4", keep_latents=True)
    with pytest.raises(ValueError, match=r"other weights .* differ in diffusion_transformer_384p/"):
        extend(path, 17, model=other)

    coarse = load_pipeline(quick["model"], variant="384p", device="cpu", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="was made in float32, this pipeline is in bfloat16"):
        extend(clip, 17, pipeline=coarse)
    compiled = load_pipeline(quick["model"], variant="384p", device="cpu", compile=True)
    with pytest.raises(ValueError, match="without compiling the transformer, this pipeline is with"):
        extend(clip, 17, pipeline=compiled)


def test_another_noise_scheme_does_not_go_on_with_a_clip(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("pyramid_seed.clip.NoiseLedger.scheme", "pyramid-seed/v9")
    path = replace(clip).save(tmp_path / "clip.mp4", keep_latents=True)  # without the manifest it had built
    later = read_manifest(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="noise scheme 'pyramid-seed/v9'; this version knows"):
        extend(path, 17, model=clip.source.folder)
    later["ledger"][0]["stream"] = "dream"  # as a later scheme may have it
    with pytest.raises(ValueError, match="noise scheme 'pyramid-seed/v9'; this version knows"):
        regenerate(later, model=clip.source.folder)


GEOMETRY = PyramidGeometry(spatial_factor=8, temporal_factor=8, patch_size=2, num_stages=3)


@pytest.mark.parametrize(
    ("num_frames", "options", "message"),
    [
        (16, {}, "num_frames must be 8k \\+ 1, got 16; use 9 or 17"),
        (9, {}, "num_frames must be above 9, the frames that stay, got 9; use 17"),
        (17, {"from_frame": 9}, "from_frame needs a branch_seed"),
        (17, {"from_frame": 5, "branch_seed": 1}, "from_frame must be 8k \\+ 1 .* got 5; use 1 or 9"),
        (25, {"from_frame": 17, "branch_seed": 1}, "at most 9, where a unit ends, got 17; use 1 or 9"),
        (9, {"from_frame": 9, "branch_seed": 1}, "num_frames must be above 9"),
        (17, {"branch_seed": 2**64}, "seed must be in"),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(clip, num_frames, options, message):
    with pytest.raises(ValueError, match=message):
        extend(clip, num_frames, **options)


def test_the_plan_is_told_without_running(clip):
    recipe, kept = plan_extension(clip.recipe, GEOMETRY, 9, branch_seed=3, from_frame=1)
    assert (recipe.branches, kept, recipe.settings.num_frames) == ((Branch(1, 3),), 1, 9)


# ---- from a file


def test_from_kept_latents_or_by_making_them_again(quick, clip, longer, tmp_path, monkeypatch):
    path = clip.save(tmp_path / "clip.mp4", keep_latents=True)
    computed = counted(monkeypatch)
    assert_same(extend(path, 25, model=quick["model"], progress=False), longer)
    assert computed == [2, 3]
    (tmp_path / "clip.latents.safetensors").unlink()
    assert_same(extend(path, 25, model=quick["model"], progress=False), longer)
    assert computed == [2, 3, 0, 1, 2, 3]


def test_latents_of_another_clip_are_refused(quick, clip, longer, tmp_path):
    path = clip.save(tmp_path / "clip.mp4")
    beside = tmp_path / "clip.latents.safetensors"
    write_latents(beside, longer.latents[:, :, 2:])
    with pytest.raises(ValueError, match=r"does not belong to the clip: unit 0 .* remove the file"):
        extend(path, 25, model=quick["model"], progress=False)


def test_a_machine_that_makes_other_bits_is_told_at_the_first_unit(quick, clip, tmp_path, monkeypatch):
    digests = clip.manifest["digests"]
    units, stages = ["0" * 64, *digests["units"][1:]], [None, *digests["stages"][1:]]
    for name, value in {"units": units, "stages": stages, "root": stage_root(stages, units)}.items():
        monkeypatch.setitem(digests, name, value)
    path = clip.save(tmp_path / "clip.mp4")
    computed = counted(monkeypatch)
    with pytest.raises(ValueError, match="gives another unit 0 here, so it cannot be continued"):
        extend(path, 25, model=quick["model"], progress=False)
    assert computed == [0]


def test_a_clip_made_in_tiles_says_so_and_is_made_again_in_them(quick):
    picture = quick | {"num_frames": 1}
    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    plain = generate("a boat", seed=5, pipeline=pipeline, **picture)
    pipeline.vae.enable_tiling(32, 32, 24, 24)
    tiled = generate("a boat", seed=5, pipeline=pipeline, **picture)
    assert tiled.digest != plain.digest
    assert "vae_tiling" not in plain.manifest
    assert tiled.manifest["vae_tiling"] == [32, 32, 24, 24]
    assert regenerate(tiled, progress=False).digest == tiled.digest
    assert verify(tiled, pipeline=pipeline, progress=False).difference is None
    assert regenerate(plain, pipeline=pipeline, progress=False).digest == plain.digest
    assert pipeline.vae.tiling == (32, 32, 24, 24)
    one_go = generate("a boat", seed=5, pipeline=pipeline, **quick)
    assert extend(tiled, 9, progress=False).digest == one_go.digest


def test_how_it_is_to_be_run_is_refused_before_anything_is_read(clip, tmp_path, monkeypatch):
    """By each of the three, of a clip, a file and a manifest: not after weights were compared."""

    def read(*_, **__):
        pytest.fail("files of a model were read")

    for name in ("read_source", "weights_of", "_model_of", "_lora_files"):
        monkeypatch.setattr(f"pyramid_seed.reproduce.{name}", read)
    path = clip.save(tmp_path / "clip.mp4", keep_latents=True)

    def is_refused(call, name, value):
        for each in (clip, path, clip.manifest):
            with pytest.raises((ValueError, TypeError, OSError), match=name):
                call(each, **{name: value})

    values = {
        "text_encoders": ["nonsense", None, 5, []],
        "device": ["nothing", "cuda:99", 5.5],
        "workers": [0, -1, 2.5, "two", 10**9],
        "processes": [2, "two"],
        "pipeline": ["tiny", 5],
        "prompt_embeds": [5, "prompt_embeds.safetensors"],
        "on_unit": ["print"],
        "on_step": [5],
        "nonsense": [5],
        "sink": ["a.mp4"],
    }
    calls = {"verify": verify, "regenerate": regenerate, "extend": partial(extend, num_frames=17)}
    check_cases(
        {
            f"{name}={value!r} of {of}": (call, name, value)
            for of, call in calls.items()
            for name, refused in values.items()
            for value in refused
        },
        is_refused,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.latents.safetensors", "clip.mp4"]
