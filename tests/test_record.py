"""Golden records: what is kept, what is refused, and how a clip compares where the kernels are others."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyramid_seed import Clip, generate
from pyramid_seed.cli import main
from pyramid_seed.media.images import read_image
from pyramid_seed.provenance.manifest import stage_root
from pyramid_seed.record import (
    Record,
    compare_with_record,
    picture_path,
    read_record,
    record_of,
    renew_record,
    write_record,
    write_side_by_side,
)
from tests.cases import check_cases


class Changed:
    """A clip of which the manifest or a pixel has changed."""

    def __init__(self, clip: Clip, change: Callable[[dict[str, Any]], object] = dict, by: int = 0) -> None:
        self.manifest = copy.deepcopy(dict(clip.manifest))
        change(self.manifest)
        self.frames = clip.frames.copy()
        self.frames[3, 10, 10, 0] = (self.frames[3, 10, 10, 0].astype(int) + by) % 256


@pytest.fixture(scope="module")
def record(made) -> Record:
    return record_of(made)


def elsewhere(manifest: dict[str, Any]) -> None:
    """Made on another machine, with other bits from the first unit on."""
    manifest["environment"]["cpu"]["capability"] = "another"
    digests = manifest["digests"]
    digests["stages"][0][0] = digests["frames"] = "0" * 64
    digests["root"] = stage_root(digests["stages"], digests["units"])


def test_it_is_read_as_it_was_written(made, record, tmp_path):
    path = tmp_path / "golden" / "boat.json"
    write_record(path, record)
    assert sorted(file.name for file in path.parent.iterdir()) == ["boat.json", "boat.png"]
    again = read_record(path)
    assert again.manifest == record.manifest
    assert "timings" not in again.manifest
    assert again.indices == tuple(range(9))
    assert np.array_equal(again.frames, made.frames)
    with pytest.raises(FileExistsError):
        write_record(path, record)
    assert compare_with_record(again, made).moved is None


def test_of_large_frames_few_are_kept(made):
    """First, last, and what makes a small picture."""
    large = Changed(made)
    large.frames = np.zeros((9, 384, 640, 3), np.uint8)
    assert record_of(large).indices == (0, 4, 8)


def test_what_is_no_record_is_refused(saved, made, record, tmp_path):
    path = tmp_path / "boat.json"
    write_record(path, record)
    text, picture = path.read_text(), picture_path(path).read_bytes()

    def rule(change, message):
        path.write_text(text)
        picture_path(path).write_bytes(picture)
        change()
        with pytest.raises((ValueError, OSError), match=message):
            read_record(path)

    def kept(**values):
        tree = json.loads(text)
        tree["record"] |= values
        path.write_text(json.dumps(tree))

    cases = {
        "a manifest": (lambda: path.write_text(json.dumps(made.manifest)), "is a manifest and no record"),
        "other JSON": (lambda: path.write_text("{}"), "holds no manifest of pyramid-seed"),
        "no picture": (lambda: picture_path(path).unlink(), r"boat\.png"),
        "another picture": (
            lambda: write_side_by_side(picture_path(path), record, made),
            r"boat\.png does not hold the frames of boat\.json",
        ),
        "frames that are not there": (lambda: kept(frames=list(range(99))), "within the clip's 9"),
        "frames in disorder": (lambda: kept(frames=[1, 0]), r"record\.frames must rise"),
        "fewer frames": (lambda: kept(frames=[0, 1]), "does not hold the frames"),
        "no frames": (lambda: kept(frames=[]), "does not hold the frames"),
        "another type": (lambda: kept(frames="all"), "is a manifest and no record: Expected `array`"),
    }
    check_cases(cases, rule)
    with pytest.raises(ValueError, match=r"a record must end in \.json, got 'boat\.mp4'; use boat\.json"):
        read_record(saved)


def test_the_same_kernels_are_compared_bit_for_bit(made, record):
    def change(manifest):
        manifest["digests"]["stages"][1][1] = "0" * 64

    found = compare_with_record(record, Changed(made, change))
    assert not found.is_same
    said = str(found)
    assert said.startswith("the first stage that moved is unit, latents of stage 1 of unit 1: ")
    assert "the recorded frames are equal" in said
    assert said.endswith("nothing recorded explains it: the code has changed, or the weights in memory")


def test_other_kernels_may_move_frames_within_the_bounds(made, record):
    near = compare_with_record(record, Changed(made, elsewhere, by=1))
    assert near.is_same
    assert str(near).startswith("within bounds, as other kernels run here: cpu.capability (")
    assert f"{100_000 / made.frames.size:.1f} of 100,000 values" in str(near)
    far = compare_with_record(record, Changed(made, elsewhere, by=2))
    assert not far.is_same
    assert "beyond what other kernels may change (bounds: 1, mean 0.001)" in str(far)
    assert "environment: cpu.capability: " in str(far)
    wider = compare_with_record(record, Changed(made, elsewhere, by=2), max_levels=2)
    assert wider.is_same
    assert not compare_with_record(record, Changed(made, elsewhere, by=1), max_mean=1e-9).is_same


def test_weights_and_noise_are_the_same_everywhere(made, record):
    """However near the frames are."""

    def other_noise(manifest):
        elsewhere(manifest)
        manifest["digests"]["text"]["prompt"] = "0" * 64  # earlier, and allowed elsewhere
        manifest["ledger"][2]["sha256"] = "0" * 64

    def other_weights(manifest):
        other_noise(manifest)
        manifest["weights"][0]["sha256"] = "0" * 64

    for change, stage in ((other_noise, "noise"), (other_weights, "weights")):
        found = compare_with_record(record, Changed(made, change))
        assert not found.is_same
        assert found.moved.stage == stage


def test_another_length_is_another_clip(quick, made, record, tmp_path):
    longer = generate("a boat", seed=made.seed, **quick | {"num_frames": 17})
    found = compare_with_record(record, longer)
    assert not found.is_same
    assert found.moved.note == "9 of 64x64 then, 17 of 64x64 now"
    assert "settings: num_frames: 9 then, 17 now" in str(found)


def test_the_picture_shows_then_now_and_the_difference(made, record, tmp_path):
    path = tmp_path / "moved.png"
    write_side_by_side(path, record, Changed(made, by=2))
    shown = read_image(path)
    height, gap = 64, 2
    assert shown.shape == (3 * height + 2 * gap, 6 * height + 5 * gap, 3)
    assert np.array_equal(shown[:height, :height], made.frames[0])
    assert shown[2 * (height + gap) :, :].max() == 254  # 2 levels, as strong as they can be shown
    smaller = replace(record, frames=record.frames[:, :32])
    write_side_by_side(path, smaller, made)
    assert read_image(path).shape == (height, 6 * height + 5 * gap, 3)


def test_renewing_says_what_it_was(made, record, tmp_path):
    path = tmp_path / "boat.json"
    assert renew_record(path, made) == "written; was new"
    assert renew_record(path, made) == "written; was the same, bit for bit"
    picture_path(path).write_bytes(b"")
    assert "was new: " in renew_record(path, made)
    moved = renew_record(path, Changed(made, elsewhere, by=9))
    assert "was the first stage that moved is unit, latents of stage 0 of unit 0" in moved
    assert read_record(path).manifest["digests"]["frames"] == "0" * 64


@pytest.mark.slow
def test_record_and_check_make_the_clip_again(saved, quick, tmp_path, capsys):
    path = tmp_path / "boat.json"
    again = ["--model", quick["model"], "--quiet", "--device", "cpu"]
    assert main(["record", str(saved), "-o", str(path), *again]) == 0
    assert capsys.readouterr().out.split() == ["file", str(path)]
    assert main(["check", str(path), *again]) == 0
    assert capsys.readouterr().out == "SAME: the same, bit for bit\n"


def test_record_and_check_say_what_has_moved(saved, made, tmp_path, monkeypatch, capsys):
    """With the clip as it is made again given."""

    def make_again(clip) -> None:
        monkeypatch.setattr("pyramid_seed.reproduce.regenerate", lambda *_, **__: clip)

    def change(manifest):
        elsewhere(manifest)
        manifest["environment"] = made.manifest["environment"]

    monkeypatch.chdir(tmp_path)
    make_again(made)
    assert main(["record", str(saved)]) == 0
    assert capsys.readouterr().out.split() == ["file", "boat-record.json"]
    assert main(["record", str(saved)]) == 2
    assert "already exists" in capsys.readouterr().err
    make_again(Changed(made, change, by=1))
    assert main(["check", "boat-record.json"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("MOVED: the first stage that moved is unit, latents of stage 0 of unit 0: ")
    assert said.endswith("boat-record-moved.png: then, now, and the difference amplified\n")
    assert Path("boat-record-moved.png").is_file()
    assert main(["check", "boat-record.json", "--renew"]) == 0
    assert capsys.readouterr().out.startswith("record      written; was the first stage that moved is unit, ")
    assert main(["check", "boat-record.json"]) == 0
    assert main(["record", str(saved), "-o", "other.json"]) == 0
    assert "recorded    what is made here; " in capsys.readouterr().out
