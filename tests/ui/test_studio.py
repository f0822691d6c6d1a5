"""What the page can do, without the page: the clips are those of `generate`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig
from PIL import Image

from pyramid_seed import generate, load_pipeline
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.run_options import RunOptions
from pyramid_seed.ui.jobs import State
from pyramid_seed.ui.studio import ClipRequest, Studio
from tests.refusals import not_refused

REQUEST = ClipRequest(prompt="a red circle", seed=2**64 - 1, preset="short", settings={})


def asked(**settings) -> ClipRequest:
    return replace(REQUEST, settings=settings)


def finished(job):
    view = list(job.views())[-1]
    if view.error is not None:
        raise view.error
    return view


@pytest.fixture(scope="module")
def made_folder(short, tmp_path_factory) -> Path:
    """The folder of a studio that has made one clip, to be copied."""
    studio = Studio(tmp_path_factory.mktemp("made"), [short])
    finished(studio.make(REQUEST))
    studio.queue.close()
    return studio.folder


@pytest.fixture
def made(studio, made_folder) -> str:
    """The name of a clip that is there already."""
    shutil.copytree(made_folder, studio.folder, dirs_exist_ok=True)
    (entry,) = studio.clips()
    return entry.name


def files(studio) -> list[str]:
    return sorted(path.name for path in studio.folder.iterdir())


def without_timings(manifest):
    return {name: value for name, value in manifest.items() if name != "timings"}


def test_a_clip_is_that_of_generate(studio, short, tmp_path):
    view = finished(studio.make(REQUEST))
    assert (view.state, view.step, view.num_steps) == (State.DONE, 6, 6)
    assert [image[:16] for image in view.images] == ["data:image/webp;"] * 2
    clip = generate(REQUEST.prompt, seed=REQUEST.seed, preset=short, progress=False)
    there = read_manifest(clip.save(tmp_path / "there.mp4"))
    assert without_timings(studio.manifest(view.outcome.clip)) == without_timings(there)
    stem = f"a-red-circle_seed{2**64 - 1}"
    assert files(studio) == [f"{stem}.latents.safetensors", f"{stem}.mp4"]


def test_the_same_request_again_gives_the_same_clip_beside_it(studio, made):
    again = finished(studio.make(REQUEST)).outcome.clip
    assert again == made.replace(".mp4", "_2.mp4")
    assert studio.manifest(again)["digests"] == studio.manifest(made)["digests"]
    assert {entry.name for entry in studio.clips()} == {made, again}


def test_a_clip_is_verified(studio, made):
    outcome = finished(studio.verify(made)).outcome
    assert (outcome.clip, outcome.headline, outcome.is_good) == (made, "MATCH", True)
    assert {what for what, _ in outcome.details} >= {"weights", "noise", "frames", "file"}


def test_a_clip_that_differs_says_where(studio, made):
    other = finished(studio.make(replace(REQUEST, seed=1))).outcome.clip
    (studio.folder / made).with_suffix(".json").unlink(missing_ok=True)
    frames = np.zeros((5, 128, 128, 3), np.uint8)
    from pyramid_seed.media.video import write_video
    from pyramid_seed.provenance.manifest import manifest_json

    comment = manifest_json(studio.manifest(other))
    write_video(studio.folder / "fake.mp4", frames, 8, comment=comment)
    outcome = finished(studio.verify("fake.mp4")).outcome
    assert not outcome.is_good
    assert outcome.headline.startswith("DIFFERS first in file")


def test_extend_and_branch_keep_the_beginning(studio, made, short):
    longer = finished(studio.extend(made, 9)).outcome.clip
    assert longer == made.replace(".mp4", "_9frames.mp4")
    wanted = generate(REQUEST.prompt, seed=REQUEST.seed, preset=short, num_frames=9, progress=False)
    assert studio.manifest(longer)["digests"]["frames"] == wanted.digest

    branch = finished(studio.extend(made, 9, branch_seed=7, from_frame=5)).outcome.clip
    assert branch == made.replace(".mp4", "_9frames_seed7.mp4")
    kept, other = (studio.manifest(name)["digests"]["units"] for name in (longer, branch))
    assert kept[:2] == other[:2]
    assert kept[2] != other[2]


def test_a_clip_from_an_image_can_be_verified_and_extended(studio, tmp_path):
    frame = np.full((64, 64, 3), 200, np.uint8)
    frame[20:40, 20:40] = (220, 20, 20)
    Image.fromarray(frame).save(tmp_path / "first.png")
    made = finished(
        studio.make(replace(asked(height=32, width=32), image=tmp_path / "first.png"))
    ).outcome.clip
    assert finished(studio.verify(made)).outcome.headline == "MATCH"
    longer = finished(studio.extend(made, 9)).outcome.clip
    assert finished(studio.verify(longer)).outcome.headline == "MATCH"


def test_what_cannot_be_made_is_refused_before_it_is_queued(studio):
    words = {
        ("height", 60): "height must be a multiple of 32, got 60; use 32 or 64",
        ("width", 160): "width must be at most 128 on this server (--max-width), got 160",
        ("num_frames", 6): "num_frames must be 4k + 1, got 6; use 5 or 9",
        ("num_frames", 37): "num_frames must be at most 33 on this server (--max-frames), got 37",
        ("prompt", "x" * 20_000_000): "prompt must be at most 10,000 characters, got 20,000,000",
        (
            "negative_prompt",
            "x" * 10_001,
        ): "negative_prompt must be at most 10,000 characters",
        ("preset", "/etc/passwd.yaml"): "this page has no preset '/etc/passwd.yaml'; it has short",
    }

    def make(change):
        name, value = change
        studio.make(replace(REQUEST, **{name: value}) if name in vars(REQUEST) else asked(**{name: value}))

    assert not_refused(make, words) == {}
    assert studio.queue.num_finished == studio.queue.num_waiting == 0


def test_clips_are_made_with_the_studios_run_options(short, tmp_path):
    options = RunOptions(device="cpu", determinism="relaxed", attention="reference")
    studio = Studio(tmp_path / "clips", [short], run_options=options)
    manifest = studio.manifest(finished(studio.make(asked(num_frames=1))).outcome.clip)
    studio.queue.close()
    assert (manifest["determinism"], manifest["attention"]) == ("relaxed", "reference")
    assert manifest["environment"]["device"]["type"] == "cpu"


def test_what_cannot_be_extended_is_refused(studio, made):
    with pytest.raises(ValueError, match=r"num_frames must be above 5, the frames that stay, got 5; use 9"):
        studio.extend(made, 5)
    with pytest.raises(ValueError, match=r"--max-frames"):
        studio.extend(made, 37)
    with pytest.raises(ValueError, match=r"is not the name of a clip"):
        studio.verify("../clip.mp4")


def test_a_stopped_run_keeps_its_finished_units(studio, short, tmp_path):
    job = studio.make(asked(num_frames=33))
    for view in job.views():
        if view.step >= 4:  # the first unit has three steps
            job.stop()
            break
    outcome = finished(job).outcome
    manifest = studio.manifest(outcome.clip)
    frames = manifest["settings"]["num_frames"]
    assert outcome.headline == f"Stopped: the first {frames} of 33 frames were kept"
    assert 1 <= frames < 33
    wanted = generate(REQUEST.prompt, seed=REQUEST.seed, preset=short, num_frames=frames, progress=False)
    assert manifest["digests"] == read_manifest(wanted.save(tmp_path / "clip.mp4"))["digests"]


def test_a_stopped_verification_has_no_outcome(studio, made):
    job = studio.verify(made)
    job.stop()
    assert finished(job).state is State.STOPPED


def test_presets_need_a_name_each(short, tmp_path):
    for presets in ([], [short, short]):
        with pytest.raises(ValueError, match="presets must be at least one, each with its own name"):
            Studio(tmp_path, presets)


def test_lengths_of_a_model_that_is_not_here_are_those_of_the_published_ones(short, tmp_path):
    studio = Studio(tmp_path, [replace(short, model="owner/name")])
    assert studio.lengths("short")[:3] == [1, 9, 17]
    studio.queue.close()


@pytest.mark.slow
def test_a_clip_with_a_lora_is_made_verified_and_extended(studio, short, tmp_path):
    transformer = load_pipeline(short.model, device="cpu").transformer
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    transformer.save_lora_adapter(tmp_path, weight_name="style.safetensors")
    file = tmp_path / "style.safetensors"
    offering = Studio(studio.folder, [short], loras={file: 0.5})
    assert list(offering.loras) == ["style.safetensors at 0.5"]
    one = asked(num_frames=1)
    made = finished(offering.make(replace(one, loras=("style.safetensors at 0.5",)))).outcome.clip
    given = {"seed": REQUEST.seed, "preset": short, "num_frames": 1, "progress": False}
    clip = generate(REQUEST.prompt, loras={file: 0.5}, **given)
    assert offering.manifest(made)["digests"] == clip.manifest["digests"]
    assert offering.manifest(made)["loras"] == clip.manifest["loras"] != []
    assert finished(offering.verify(made)).outcome.headline == "MATCH"
    longer = finished(offering.extend(made, 5)).outcome.clip
    assert offering.manifest(longer)["loras"] == clip.manifest["loras"]
    plain = finished(offering.make(one)).outcome.clip
    assert offering.manifest(plain)["loras"] == []
    offering.queue.close()
    with pytest.raises(ValueError, match="this page has no LoRA 'style'; it has none"):
        studio.make(replace(REQUEST, loras=("style",)))
    (tmp_path / "other").mkdir()
    shutil.copy(file, tmp_path / "other" / file.name)
    with pytest.raises(ValueError, match="LoRAs of a page must have different names"):
        Studio(studio.folder, [short], loras={file: 1, tmp_path / "other" / file.name: 1})
