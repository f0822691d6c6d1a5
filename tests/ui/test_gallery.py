"""The gallery shows clips with a manifest, and nothing outside the folder is ever read."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed import generate
from pyramid_seed.media.video import write_video
from pyramid_seed.ui.gallery import clip_manifest, find_clip, free_path, list_clips
from tests.refusals import not_refused


@pytest.fixture(scope="module")
def clip(short):
    return generate("a red circle", seed=2**64 - 1, preset=short, progress=False)


def test_clips_are_listed_newest_first(clip, tmp_path):
    for age, name in enumerate(("new", "old", "oldest")):
        path = clip.save(tmp_path / f"{name}.mp4")
        os.utime(path, ns=(0, 10**18 - age))
    entries = list_clips(tmp_path, 2)
    assert [entry.name for entry in entries] == ["new.mp4", "old.mp4"]
    assert (entries[0].prompt, entries[0].seed, entries[0].num_frames) == ("a red circle", str(2**64 - 1), 5)


def test_other_files_are_not_shown(clip, tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"not a video")
    write_video(tmp_path / "foreign.mp4", np.zeros((2, 64, 64, 3), np.uint8), 8)
    (tmp_path / "folder.mp4").mkdir()
    clip.save(tmp_path / "elsewhere" / "clip.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "elsewhere" / "clip.mp4")
    clip.save(tmp_path / ".hidden.mp4")
    assert list_clips(tmp_path, 9) == ()


def test_a_file_that_no_reader_can_bear_is_left_out_alone(clip, tmp_path):
    clip.save(tmp_path / "clip.mp4")
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    comments = {"deep": "[" * 100_000, "objects": '{"a":' * 100_000, "large": "[" + "1," * 10**6 + "1]"}
    for name, comment in comments.items():
        write_video(tmp_path / f"{name}.mp4", frames, 8, comment=comment)
    assert [entry.name for entry in list_clips(tmp_path, 9)] == ["clip.mp4"]
    words = dict.fromkeys(comments, "holds no manifest")
    assert not_refused(lambda name: clip_manifest(tmp_path / f"{name}.mp4"), words) == {}


def test_a_long_prompt_is_shown_in_part(clip, tmp_path):
    replace(clip, recipe=replace(clip.recipe, prompt="x" * 9000)).save(tmp_path / "clip.mp4")
    assert list_clips(tmp_path, 9)[0].prompt == "x" * 300


def test_a_file_that_was_replaced_is_read_again(clip, tmp_path, short):
    path = clip.save(tmp_path / "clip.mp4")
    assert list_clips(tmp_path, 9)[0].prompt == "a red circle"
    generate("a blue square", seed=1, preset=short, progress=False).save(path, overwrite=True)
    assert list_clips(tmp_path, 9)[0].prompt == "a blue square"


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for name in ("../clip.mp4", "clip.mp4", "sub/clip.mp4", "clip.json"):
        (folder / name).write_bytes(b"video")
    names = ["../clip.mp4", "/etc/passwd", "a/../clip.mp4", "..\\clip.mp4", "sub/clip.mp4"]
    names += [".clip.mp4", "", ".mp4", "clip.json", ".."]
    words = dict.fromkeys(names, "is not the name of a clip in the output folder")
    assert not_refused(partial(find_clip, folder), words) == {}
    assert find_clip(folder, "clip.mp4") == folder / "clip.mp4"


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "clip.mp4").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="leads out of the output folder"):
        find_clip(folder, "clip.mp4")
    with pytest.raises(FileNotFoundError, match=r"there is no clip 'none\.mp4'"):
        find_clip(folder, "none.mp4")


def test_a_new_name_meets_no_file_that_is_there(tmp_path: Path):
    for ending in (".mp4", ".latents.safetensors", ".json", ".image.png"):
        folder = tmp_path / ending
        folder.mkdir()
        assert free_path(folder, "clip") == folder / "clip.mp4"
        (folder / f"clip{ending}").touch()
        assert free_path(folder, "clip") == folder / "clip_2.mp4", ending
        (folder / "clip_2.mp4").touch()
        assert free_path(folder, "clip") == folder / "clip_3.mp4", ending
