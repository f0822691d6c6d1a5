"""Spot checks: units made again from kept latents, and the chance with which forged ones are seen.

A forger replaces units by latents of their own, makes the rest of the clip from these, and writes a manifest
that fits: with digests, root and frames of what is there. Only making the very units again can show it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

from pyramid_seed import Beginning, Branch, Clip, generate, load_pipeline, verify
from pyramid_seed.cli import main
from pyramid_seed.files import latents_path
from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.provenance import sample
from pyramid_seed.provenance.latents import write_latents
from pyramid_seed.provenance.sample import UnitSample, sample_units

NUM_UNITS = 5


@pytest.fixture(scope="module")
def pipeline(quick) -> PyramidFlowPipeline:
    return load_pipeline(quick["model"], variant="384p", device="cpu")


@pytest.fixture(scope="module")
def make(quick, pipeline) -> Callable[..., Clip]:
    settings = {name: value for name, value in quick.items() if name not in ("model", "variant")}
    return lambda **more: generate("a boat", seed=5, pipeline=pipeline, **settings | more)


@pytest.fixture(scope="module")
def clip(make) -> Clip:
    return make(num_frames=8 * (NUM_UNITS - 1) + 1)


@pytest.fixture
def sampled(monkeypatch) -> Callable[..., None]:
    """Decides which units are looked at."""

    def choose(*units: int) -> None:
        monkeypatch.setattr(
            "pyramid_seed.reproduce.sample_units", lambda num_units, _: UnitSample(units, num_units)
        )

    return choose


def forge(make: Callable[..., Clip], clip: Clip, *units: int) -> Clip:
    """The clip with other latents in these units; all others, the frames and the digests follow from them."""
    forged = clip
    for unit in sorted(units):
        latents = forged.latents[:, :, : unit + 1].clone()
        latents[:, :, unit] += 0.01
        made = make(num_frames=clip.settings.num_frames, beginning=Beginning(latents))
        stages = [*forged.stage_digests[: unit + 1], *made.stage_digests[unit + 1 :]]
        last = made.manifest["digests"]["units"][unit]
        stages[unit] = (*stages[unit][:-1], last)
        forged = replace(made, stage_digests=tuple(stages))
    return forged


def check(clip, pipeline, size):
    return verify(clip, sample=size, pipeline=pipeline, progress=False)


def test_a_clip_matches(clip, pipeline, sampled):
    sampled(0, NUM_UNITS - 1)
    found = check(clip, pipeline, 2)
    assert found.difference is None
    assert found.sample == UnitSample((0, 4), NUM_UNITS)
    notes = {step.stage: step.note for step in found.steps}
    assert notes["unit"] == "latents of 5 units, after 6 stages; made again: 0, 4"
    assert (notes["noise"], notes["decode"]) == ("15 draws", "5 chunks")


def test_a_forged_unit_is_found_where_it_is_looked_at_and_nowhere_else(make, clip, pipeline, sampled):
    forged = forge(make, clip, 2)
    sampled(2)
    difference = check(forged, pipeline, 1).difference
    assert difference.stage == "unit"
    assert difference.note.startswith("latents of stage 2 of unit 2: ")
    sampled(1, 3)
    assert check(forged, pipeline, 2).difference is None


def test_frames_that_are_not_of_the_latents_are_always_found(clip, pipeline, sampled):
    sampled(0)
    chunks = [*clip.frame_facts.chunk_digests[:-1], "0" * 64]
    other = replace(clip, frame_facts=replace(clip.frame_facts, chunk_digests=tuple(chunks)))
    assert check(other, pipeline, 1).difference.note.startswith("chunk 4 (frames 25 to 32): 0000")


@pytest.mark.slow
def test_forged_units_are_seen_as_often_as_told(make, clip, pipeline, sampled, monkeypatch):
    """200 forgeries, of one unit and of two, each looked at in 2 of 5 units at random (a fixed seed)."""
    chooser = random.Random(7)
    monkeypatch.setattr(sample, "_random", chooser)
    forgeries = {units: forge(make, clip, *units) for units in [(0,), (2,), (4,), (0, 1), (1, 3), (2, 4)]}

    @cache
    def is_seen(forged: tuple[int, ...], looked_at: tuple[int, ...]) -> bool:
        sampled(*looked_at)
        return check(forgeries[forged], pipeline, 2).difference is not None

    for num_forged in (1, 2):
        choices = [units for units in forgeries if len(units) == num_forged]
        drawn = [(chooser.choice(choices), sample_units(NUM_UNITS, 2).units) for _ in range(100)]
        assert [is_seen(*each) for each in drawn] == [bool(set(a) & set(b)) for a, b in drawn]
        seen, chance = sum(is_seen(*each) for each in drawn), UnitSample((0, 1), NUM_UNITS).chance(num_forged)
        # Binomial: within three standard deviations in 99.7 % of seeds.
        assert abs(seen - 100 * chance) <= 3 * (100 * chance * (1 - chance)) ** 0.5

    whole = verify(forgeries[(2,)], pipeline=pipeline, progress=False)
    assert whole.difference.note.startswith("latents of stage 2 of unit 2: ")
    assert whole.sample is None


@pytest.mark.slow
def test_branches_images_and_tiles_are_sampled_as_well(make, pipeline, sampled):
    sampled(0, 1)
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    from_image = make(image=picture)
    found = verify(from_image, sample=2, image=picture, pipeline=pipeline, progress=False)
    assert found.difference is None
    pipeline.vae.enable_tiling(32, 32, 24, 24)
    tiled = make(image=picture)
    pipeline.vae.disable_tiling()
    assert not torch.equal(tiled.latents, from_image.latents)
    found = verify(tiled, sample=2, image=picture, pipeline=pipeline, progress=False)
    assert found.difference is None
    sampled(1)
    branched = make(branches=(Branch(1, 9),))
    assert check(branched, pipeline, 1).difference is None


def test_an_image_clip_whose_first_unit_is_not_of_its_image_is_found(make, pipeline, sampled):
    sampled(0)
    one, other = (Image.effect_noise((64, 64), 80).convert("RGB") for _ in range(2))
    clip, elsewhere = make(image=one, num_frames=1), make(image=other, num_frames=1)
    forged = replace(elsewhere, recipe=clip.recipe)
    found = verify(forged, sample=1, image=one, pipeline=pipeline, progress=False)
    assert found.difference.note.startswith("latents of unit 0: ")


def test_what_cannot_be_sampled_is_refused_before_any_work(saved, clip, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(PyramidFlowPipeline, "__call__", lambda *_, **__: pytest.fail("a clip was made"))
    for size in (0, 6):
        with pytest.raises(ValueError, match=f"sample must be at .* got {size}"):
            check(clip, pipeline, size)
    with pytest.raises(TypeError, match="sample must be an int"):
        check(clip, pipeline, 1.5)
    with pytest.raises(ValueError, match="noise_only makes no unit"):
        verify(clip, sample=1, noise_only=True)
    with pytest.raises(ValueError, match=r"keep-latents .* writes beside it as clip\.latents\.safetensors"):
        check(clip.manifest, pipeline, 1)
    path = clip.save(tmp_path / "mine.mp4", keep_latents=True)
    latents = clip.latents.clone()
    latents[0, 0, 3, 0, 0] += 1
    write_latents(latents_path(path), latents, overwrite=True)
    with pytest.raises(ValueError, match="does not belong to the clip: unit 3 has SHA-256"):
        check(path, pipeline, 1)
    latents_path(path).unlink()
    with pytest.raises(ValueError, match=r"writes beside it as mine\.latents\.safetensors"):
        check(path, pipeline, 1)


def test_the_command_says_what_was_proven(saved, quick, sampled, capsys):
    sampled(1)
    command = ["verify", str(saved), "--model", quick["model"], "--quiet", "--sample", "1"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split(maxsplit=1) == ["sample", str(UnitSample((1,), 2))]
    assert lines[-1] == "MATCH, as far as the sample goes"
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--noise-only"])
    assert stopped.value.code == 2
