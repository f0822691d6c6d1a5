"""Labelled clips: the manifest has the labels, and `verify` proves clip and labels together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyramid_seed import VisibleLabel, verify
from pyramid_seed.cli import main
from pyramid_seed.media.video import read_tag, read_video, write_video
from pyramid_seed.provenance.manifest import manifest_json, read_manifest
from pyramid_seed.provenance.pixels import compare_file
from tests.cases import check_cases
from tests.conftest import REFERENCE

AIGC = {"ContentProducer": "Test Studio", "ProduceID": "7"}
LABELS = {"aigc": AIGC, "visible_label": VisibleLabel("AI")}


@pytest.fixture(scope="module")
def labelled(made, tmp_path_factory):
    return made.save(tmp_path_factory.mktemp("labelled") / "clip.mp4", smooth=True, **LABELS)


@pytest.fixture(scope="module")
def lossless(made, tmp_path_factory):
    return made.save(tmp_path_factory.mktemp("lossless") / "clip.mp4", lossless=True, **LABELS)


def file_step(path, made, **changes):
    manifest = read_manifest(path)
    return compare_file(path, manifest | {"file": manifest["file"] | changes}, made.frames, made.environment)


def test_the_digest_is_that_of_the_frames_and_the_file_that_of_frames_and_label(labelled, made):
    manifest = read_manifest(labelled)
    assert manifest["digests"] == made.manifest["digests"]
    assert manifest["file"]["visible_label"]["text"] == "AI"
    assert json.loads(read_tag(labelled, "AIGC"))["ContentProducer"] == "Test Studio"
    found = verify(labelled, model=str(REFERENCE / "miniflux-tiny"), progress=False)
    assert found.same
    height, width = manifest["file"]["visible_label"]["height"], manifest["file"]["visible_label"]["width"]
    covered = f"; its visible label covers {height}x{width} pixels of the first 9 frames"
    assert found.steps[-1].note == f"the pixels in the file, after the same encoder bit for bit{covered}"
    assert compare_file(labelled, manifest, None, {}).status == "not compared"


def test_a_label_that_is_not_the_manifests_is_found(lossless, labelled, made):
    row = read_manifest(labelled)["file"]["visible_label"]
    height, width = made.settings.height * 2, made.settings.width * 2
    other = VisibleLabel("HI").draw(height, width, made.fps).to_row()
    changed = {
        "other fields": ({"aigc": AIGC | {"ProduceID": "8"}}, "its AIGC label is not the manifest's"),
        "another text": ({"visible_label": other}, "pixels"),
        "fewer frames": ({"visible_label": row | {"num_frames": 3}}, "pixels"),
        "no text": ({"visible_label": None}, "pixels"),
    }

    def rule(changes, note):
        step = file_step(lossless, made, **changes)
        assert step.status == "differs"
        assert note in step.note

    check_cases(changed, rule)
    assert file_step(lossless, made).status == "equal"
    assert file_step(labelled, made, visible_label=other).status == "differs"


def test_a_label_that_was_painted_over_is_found(lossless, made, tmp_path):
    pixels, fps = read_video(lossless)
    pixels[:, :20, :20] = 255
    path = tmp_path / "clip.mp4"
    manifest = read_manifest(lossless)
    fields = manifest["file"]["aigc"]
    write_video(path, pixels, fps, comment=manifest_json(manifest), lossless=True, aigc=fields)
    assert np.array_equal(read_video(path)[0], pixels)
    assert file_step(path, made).status == "differs"


def test_the_commands_write_the_same_bytes_as_frames_come_and_show_the_labels(
    saved, labelled, tmp_path, capsys
):
    path = tmp_path / "clip.mp4"
    fields = [f"{name}={value}" for name, value in AIGC.items()]
    labels = ["--label", "aigc", *fields, "--visible-label", "AI"]
    model = ["--model", str(REFERENCE / "miniflux-tiny"), "--quiet"]
    assert main(["regenerate", str(saved), "-o", str(path), *model, *labels]) == 0
    assert path.read_bytes() == labelled.read_bytes()
    assert main(["show", str(path)]) == 0
    output = capsys.readouterr().out
    assert "label       'AI', drawn over the first 9 frames\n" in output
    assert "AIGC label  ContentProducer Test Studio, Label 1, ProduceID 7\n" in output


def test_impossible_labels_are_refused_before_any_work(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pyramid_seed.reproduce._model_of", None)
    cases = {
        "unknown kind": (["--label", "c2pa"], "a.mp4", "--label must be one of aigc"),
        "no value": (
            ["--label", "aigc", "ContentProducer"],
            "a.mp4",
            "as FIELD=VALUE, got 'ContentProducer'",
        ),
        "twice": (["--label", "aigc", "ProduceID=1", "ProduceID=2"], "a.mp4", "takes each field once"),
        "font alone": (["--label-font", "a.ttf"], "a.mp4", "--label-font is the font of --visible-label"),
        "too long": (["--visible-label", "AI " * 30], "a.mp4", "use about"),
        "a .gif": (["--visible-label", "AI"], "a.gif", "only an .mp4 can be labelled, got .gif"),
    }

    def rule(options, name, message):
        output = str(tmp_path / name)
        assert main(["regenerate", str(saved), "-o", output, *options]) == 2
        assert message in capsys.readouterr().err

    check_cases(cases, rule)
    assert list(tmp_path.iterdir()) == []
