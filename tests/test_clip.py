"""`Clip.save`: the manifest and latents that go with a clip, and refusals before anything is written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import imageio
import numpy as np
import pytest
import torch
from diffusers.utils import export_to_video
from safetensors import safe_open
from safetensors.torch import load_file

from pyramid_seed import Clip, generate
from pyramid_seed.cli import main
from pyramid_seed.media import video
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.video import read_comment, read_video
from pyramid_seed.noise import noise_digest
from pyramid_seed.provenance import latents as kept
from pyramid_seed.provenance.latents import read_latents, write_latents
from pyramid_seed.provenance.manifest import read_manifest, unit_digests, without_timings


@pytest.fixture(scope="module")
def clip(quick) -> Clip:
    return generate("a boat", seed=5, **quick)


@pytest.fixture(scope="module")
def again(quick) -> Clip:
    """Another run."""
    return generate("a boat", seed=5, **quick)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_mp4_carries_its_manifest(clip, tmp_path):
    path = clip.save(tmp_path / "clip.mp4", scale=3, lossless=True)
    shown = {"ending": ".mp4", "scale": 3, "lossless": True}
    timeless = {name: value for name, value in clip.manifest.items() if name != "timings"}
    assert read_manifest(path) == timeless | {"file": shown}
    assert names(tmp_path) == ["clip.mp4"]


def test_without_metadata_there_is_none_and_the_pixels_are_the_same(clip, tmp_path):
    path = clip.save(tmp_path / "clip.mp4", metadata=False)
    assert read_comment(path) is None
    assert (read_video(path)[0] == read_video(clip.save(tmp_path / "with.mp4"))[0]).all()


def test_frames_for_other_tools(clip, tmp_path, monkeypatch):
    """Through diffusers' own exporter, with a writer in place of ffmpeg's, which may not be installed."""
    assert [np.asarray(image).tobytes() for image in clip.to_pil()] == [f.tobytes() for f in clip.frames]
    floats = clip.to_float()
    assert (floats.dtype, floats.min() >= 0, floats.max() <= 1) == (np.float32, True, True)
    every_value = replace(clip, held_frames=np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3))
    assert np.array_equal((every_value.to_float() * 255).astype(np.uint8), every_value.frames)

    written = []
    writer = contextlib.nullcontext(SimpleNamespace(append_data=written.append))
    monkeypatch.setattr(imageio, "get_writer", lambda *_, **__: writer)
    monkeypatch.setattr(imageio.plugins, "ffmpeg", SimpleNamespace(get_exe=lambda: ""), raising=False)
    for frames in (clip.to_pil(), clip.to_float()):
        written.clear()
        export_to_video(list(frames), str(tmp_path / "clip.mp4"), fps=8)
        assert np.array_equal(np.stack(written), clip.frames)
    written.clear()
    export_to_video(list(clip.frames), str(tmp_path / "clip.mp4"), fps=8)
    assert not np.array_equal(np.stack(written), clip.frames)  # why these are there


def test_the_manifest_is_made_once(clip):
    assert clip.manifest is clip.manifest


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", ".mp4", ""])
def test_sidecar_and_latents_lie_beside_the_clip(clip, tmp_path, ending):
    path = clip.save(tmp_path / f"clip{ending}", sidecar=True, keep_latents=True)
    assert names(tmp_path) == sorted([f"clip{ending}", "clip.json", "clip.latents.safetensors"])
    assert read_manifest(path)["file"]["ending"] == ending
    assert read_manifest(path)["digests"] == clip.manifest["digests"]
    latents = read_latents(tmp_path / "clip.latents.safetensors", clip.manifest["digests"]["units"])
    assert torch.equal(latents, clip.latents)


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp", ".png"])
def test_two_runs_write_the_same_bytes(clip, again, tmp_path, ending):
    """All files but the sidecar, which alone holds what a second run can change: its timings."""
    assert clip.manifest["timings"] != again.manifest["timings"]
    written = []
    for folder, made in (("a", clip), ("b", again)):
        (tmp_path / folder).mkdir()
        made.save(tmp_path / folder / f"clip{ending}", sidecar=True, keep_latents=True)
        files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        written.append({path.relative_to(tmp_path / folder): path.read_bytes() for path in files})
    sidecars = [without_timings(json.loads(files.pop(Path("clip.json")))) for files in written]
    assert written[0] == written[1]
    assert sidecars[0] == sidecars[1]


def test_kept_latents_say_their_digest(clip, tmp_path):
    path = tmp_path / "clip.latents.safetensors"
    clip.save(tmp_path / "clip.mp4", keep_latents=True)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"sha256": noise_digest(clip.latents)}


def test_damaged_or_foreign_latents_are_refused(clip, tmp_path, monkeypatch):
    path = tmp_path / "clip.latents.safetensors"
    write_latents(path, clip.latents)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        read_latents(path)
    path.write_bytes(data[:-3])
    with pytest.raises(ValueError, match="holds no latents"):
        read_latents(path)
    write_latents(path, clip.latents.flip(2), overwrite=True)
    with pytest.raises(ValueError, match="does not belong to the clip: unit 0 has"):
        read_latents(path, unit_digests(clip.latents))
    with pytest.raises(ValueError, match="holds 2 units, the clip has 3"):
        read_latents(path, ["x"] * 3)
    with pytest.raises(FileExistsError):
        write_latents(path, clip.latents)

    def broken(tensors, metadata):
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr(kept, "save", broken)
    with pytest.raises(OSError, match="no space left"):
        write_latents(path, clip.latents, overwrite=True)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["clip.latents.safetensors"]


def fails_in_the_end(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".png"])
def test_a_full_disk_leaves_the_old_clip_with_what_belongs_to_it(quick, clip, tmp_path, monkeypatch, ending):
    path = clip.save(tmp_path / f"clip{ending}", sidecar=True, keep_latents=True)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    other = replace(clip, latents=clip.latents + 1, recipe=replace(clip.recipe, prompt="another"))
    for writer in ("mux_mp4", "_write_animation", "_write_png_folder"):
        monkeypatch.setattr(video, writer, fails_in_the_end)
    with pytest.raises(OSError, match="No space left"):
        other.save(path, sidecar=True, keep_latents=True, overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("there", ["clip.mp4", "clip.json", "clip.latents.safetensors"])
def test_nothing_is_written_where_something_is_in_the_way(clip, tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError, match=there):
        clip.save(tmp_path / "clip.mp4", sidecar=True, keep_latents=True)
    assert names(tmp_path) == [there]
    clip.save(tmp_path / "clip.mp4", sidecar=True, keep_latents=True, overwrite=True)
    assert len(names(tmp_path)) == 3


def test_a_sidecar_without_metadata_makes_no_sense(clip, tmp_path):
    with pytest.raises(ValueError, match="leave out either the sidecar or metadata=False"):
        clip.save(tmp_path / "clip.mp4", sidecar=True, metadata=False)


def test_a_clip_that_was_stopped_has_the_ledger_of_its_units(quick, clip):
    def stop(pipeline, step, timestep, tensors):
        if (pipeline.current_place.unit, pipeline.current_place.stage) == (2, 1):
            pipeline._interrupt = True
        return {}

    stopped = generate("a boat", seed=5, on_step=stop, **quick | {"num_frames": 25})
    assert stopped.settings.num_frames == 9
    assert stopped.digest == clip.digest
    assert stopped.ledger == clip.ledger


def save_and_die(clip, path, renames):
    """Save in a process that ends, as SIGKILL would end it, after so many files have taken their names."""
    if (process := os.fork()) == 0:
        names, rename = [], Path.replace

        def counted(self, target):
            if not Path(target).name.startswith("."):
                if len(names) == renames:
                    os._exit(9)
                names.append(target)
            return rename(self, target)

        Path.replace = counted
        try:
            clip.save(path, sidecar=True, keep_latents=True, overwrite=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_a_save_that_is_killed_between_two_names_is_seen_by_who_reads_the_files(clip, tmp_path, ending):
    frames = 255 - clip.frames
    facts = replace(clip.frame_facts, digest=frames_digest(frames))
    recipe = replace(clip.recipe, prompt="another")
    latents = {"latents": clip.latents + 1, "stage_digests": (None, None)}
    other = replace(clip, recipe=recipe, held_frames=frames, frame_facts=facts, **latents)
    for renames in range(3):
        folder = tmp_path / str(renames)
        path = clip.save(folder / f"clip{ending}", sidecar=True, keep_latents=True)
        before = path.read_bytes()
        save_and_die(other, path, renames)
        is_new = path.read_bytes() != before
        sidecar = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
        if ending == ".gif" and (sidecar["prompt"] == "another") != is_new:
            with pytest.raises(ValueError, match="is the manifest of another file than"):
                read_manifest(path)
            continue
        manifest = read_manifest(path)
        assert manifest["prompt"] == ("another" if is_new else "a boat")
        latents = folder / "clip.latents.safetensors"
        are_new = noise_digest(load_file(latents)["latents"]) != noise_digest(clip.latents)
        if is_new == are_new:
            read_latents(latents, manifest["digests"]["units"])
        else:
            with pytest.raises(ValueError, match="does not belong to the clip"):
                read_latents(latents, manifest["digests"]["units"])


# ---- command line


def command(quick, *more):
    options = {"--model": quick["model"], "--variant": "384p", "--num-frames": "9"}
    options["--preset"] = "tiny"
    steps = {"--num-inference-steps": "1", "--video-num-inference-steps": "1"}
    flat = [text for pair in (options | steps).items() for text in pair]
    return main(["generate", "a boat", "--seed", "5", "--quiet", *flat, *map(str, more)])


def test_generate_writes_what_was_asked_for(quick, clip, tmp_path):
    assert command(quick, "-o", tmp_path / "clip.mp4", "--sidecar", "--keep-latents") == 0
    assert names(tmp_path) == ["clip.json", "clip.latents.safetensors", "clip.mp4"]
    assert read_manifest(tmp_path / "clip.mp4")["digests"] == clip.manifest["digests"]
    assert command(quick, "-o", tmp_path / "bare.mp4", "--no-metadata") == 0
    assert read_comment(tmp_path / "bare.mp4") is None


@pytest.mark.parametrize(
    ("there", "options", "message"),
    [
        ("clip.mp4", [], "already exists"),
        ("clip.json", ["--sidecar"], "already exists"),
        ("clip.latents.safetensors", ["--keep-latents"], "already exists"),
        ("other", ["--sidecar", "--no-metadata"], "leave out either"),
    ],
)
def test_generate_refuses_before_the_model_runs(
    quick, tmp_path, monkeypatch, capsys, there, options, message
):
    (tmp_path / there).touch()
    monkeypatch.setattr("pyramid_seed.api.generate", lambda *_, **__: pytest.fail("the model ran"))
    assert command(quick, "-o", tmp_path / "clip.mp4", *options) == 2
    assert message in capsys.readouterr().err
    assert names(tmp_path) == [there]


def test_a_lossless_gif_is_refused_before_the_model_runs(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("pyramid_seed.api.generate", lambda *_, **__: pytest.fail("the model ran"))
    assert command(quick, "-o", tmp_path / "clip.gif", "--lossless") == 2


@pytest.mark.parametrize(
    ("there", "name", "options", "message"),
    [
        ((), "clip.gif", ["--fps", "60"], "fps must be between 0.1 and 50 for .gif, got 60"),
        (("clip.png",), "clip.png", [], "clip.png exists and is not a folder of numbered PNGs"),
        (("clip.png/mine.txt",), "clip.png", [], "clip.png exists and is not a folder of numbered PNGs"),
        (("clip/mine.txt",), "clip", [], "clip exists and is not a folder of numbered PNGs"),
        (("clip.mp4/mine.txt",), "clip.mp4", [], "clip.mp4 is a folder"),
        (("clip.json/mine.txt",), "clip.mp4", [], "clip.json is a folder"),
        (("clip.latents.safetensors/mine.txt",), "clip.mp4", [], "clip.latents.safetensors is a folder"),
    ],
)
@pytest.mark.parametrize("extends", [False, True])
def test_what_could_not_be_saved_is_refused_before_the_model_runs(
    quick, clip, tmp_path, monkeypatch, capsys, there, name, options, message, extends
):
    folder = tmp_path / "out"
    folder.mkdir()
    for file in there:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    before = sorted(folder.rglob("*"))
    more = ["-o", str(folder / name), "--overwrite", "--sidecar", "--keep-latents"]
    if not extends:
        monkeypatch.setattr("pyramid_seed.api.generate", lambda *_, **__: pytest.fail("the model ran"))
        assert command(quick, *more, *options) == 2
    else:
        fps = float(options[-1]) if options else 8.0
        recipe = replace(clip.recipe, settings=replace(clip.settings, fps=fps))
        replace(clip, recipe=recipe).save(tmp_path / "shorter.mp4")
        monkeypatch.setattr("pyramid_seed.reproduce.extend", lambda *_, **__: pytest.fail("the model ran"))
        extend = ["extend", str(tmp_path / "shorter.mp4"), "--num-frames", "17", "--quiet", *more]
        assert main(extend) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_saved_file_may_be_read_by_those_who_may_read_the_clip(clip, tmp_path):
    clip.save(tmp_path / "clip.mp4", sidecar=True, keep_latents=True)
    modes = {os.stat(path).st_mode for path in tmp_path.iterdir()}  # noqa: PTH116
    assert len(modes) == 1
