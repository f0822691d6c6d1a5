"""Labels: what is drawn, what is in the file's tag, and what cannot be a label."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pyramid_seed.media.frame_file import FrameFile
from pyramid_seed.media.labels import DrawnLabel, VisibleLabel, aigc_fields
from pyramid_seed.media.video import read_comment, read_tag, read_video, write_video
from tests.cases import check_cases
from tests.media.clips import chunks, moving

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
GIVEN = {"ProduceID": "clip-7", "ContentProducer": "工作室"}


def test_the_tag_is_in_the_file_beside_the_comment(tmp_path):
    """FFmpeg leaves out tags of unknown names without a word, unless it is told otherwise."""
    path = tmp_path / "a.mp4"
    write_video(path, moving(), 8, comment="a note", aigc=aigc_fields(GIVEN))
    assert read_comment(path) == "a note"
    assert list(json.loads(read_tag(path, "AIGC")).items()) == [
        ("Label", "1"),
        ("ContentProducer", "工作室"),
        ("ProduceID", "clip-7"),
        ("ReservedCode1", ""),
        ("ContentPropagator", ""),
        ("PropagateID", ""),
        ("ReservedCode2", ""),
    ]
    data = path.read_bytes()
    assert b"AIGC" in data
    assert '"ContentProducer":"工作室"'.encode() in data


def test_impossible_fields_are_refused():
    cases = {
        "no producer": ({"ProduceID": "7"}, "an AIGC label needs ContentProducer"),
        "no ID": ({"ContentProducer": "x", "ProduceID": ""}, "an AIGC label needs ProduceID"),
        "unknown": (GIVEN | {"Producer": "x"}, "must be one of Label, ContentProducer, .* got 'Producer'"),
        "not generated": (GIVEN | {"Label": "2"}, "Label must be 1"),
        "two lines": (GIVEN | {"ReservedCode1": "a\nb"}, "printable characters"),
        "too long": (GIVEN | {"ReservedCode1": "a" * 1001}, "at most 1,000 printable characters"),
    }

    def rule(fields, message):
        with pytest.raises(ValueError, match=message):
            aigc_fields(fields)

    check_cases(cases, rule)
    with pytest.raises(TypeError, match="ProduceID of the AIGC label must be a str, got int"):
        aigc_fields(GIVEN | {"ProduceID": 7})


def test_the_text_covers_the_first_three_seconds_and_nothing_else(tmp_path):
    frames = moving()
    label = VisibleLabel("AI").draw(frames.shape[1] * 2, frames.shape[2] * 2, 1.5)
    write_video(tmp_path / "plain.mp4", frames, 1.5, scale=2, lossless=True)
    write_video(tmp_path / "labelled.mp4", frames, 1.5, scale=2, lossless=True, label=label)
    plain, labelled = (read_video(tmp_path / f"{name}.mp4")[0] for name in ("plain", "labelled"))
    rows, columns = label.ink.shape
    expected = plain.copy()
    expected[:5, :rows, :columns] = np.where(label.ink, 0, 255)[..., None]
    assert np.array_equal(labelled, expected)


def test_capital_letters_are_a_twentieth_of_the_shorter_side():
    def rule(height, width, font):
        inked = np.flatnonzero(VisibleLabel("AI", font).draw(height, width, 8).ink.any(axis=1))
        assert inked[-1] - inked[0] + 1 >= 0.05 * min(height, width)

    sizes = [(384, 640), (1280, 768), (128, 128)]
    check_cases([(*size, font) for size in sizes for font in (None, DEJAVU)], rule)


def test_a_drawn_label_comes_back_from_its_row():
    label = VisibleLabel("Généré par IA", DEJAVU).draw(384, 640, 8)
    again = DrawnLabel.from_row(json.loads(json.dumps(label.to_row())), 384, 640)
    assert (again.text, again.num_frames) == ("Généré par IA", 24)
    assert np.array_equal(again.ink, label.ink)
    row = label.to_row()
    for change in ({"height": 193}, {"width": row["width"] + 8}, {"ink": "AAAA"}, {"ink": "é"}):
        with pytest.raises(ValueError, match="visible label"):
            DrawnLabel.from_row(row | change, 384, 640)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    (tmp_path / "text.ttf").write_text("no font")
    cases = {
        "empty": (lambda: VisibleLabel(" "), "one line of visible characters"),
        "two lines": (lambda: VisibleLabel("a\nb"), "one line of visible characters"),
        "lacking": (lambda: VisibleLabel("AI生成"), "Pillow's font has no '成'.*--label-font FILE"),
        "lacking in the file": (lambda: VisibleLabel("AI生成", DEJAVU), "DejaVuSans.ttf has no '成'"),
        "no font": (lambda: VisibleLabel("AI", tmp_path / "text.ttf"), "text.ttf is not a font"),
        "too long": (lambda: VisibleLabel("AI " * 50).draw(384, 640, 8), "use about 5. characters"),
        "too high": (lambda: VisibleLabel("AI").draw(32, 640, 8), "there is room for 16x640"),
        "a .gif": (
            lambda: write_video(tmp_path / "a.gif", moving(), 8, aigc=aigc_fields(GIVEN)),
            re.escape("only an .mp4 can be labelled, got .gif"),
        ),
    }

    def rule(make, message):
        with pytest.raises(ValueError, match=message):
            make()

    check_cases(cases, rule)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        VisibleLabel("AI", tmp_path / "gone.ttf")


def test_frames_encoded_as_they_come_are_labelled_alike(tmp_path):
    frames, text = moving(), VisibleLabel("AI")
    size = frames.shape[1:3]
    label = text.draw(size[0] * 2, size[1] * 2, 2)
    write_video(tmp_path / "a.mp4", frames, 2, scale=2, label=label, aigc=aigc_fields(GIVEN))
    with (
        FrameFile(tmp_path / "b.mp4", visible_label=text) as file,
        pytest.raises(ValueError, match="a visible label needs the size of the frames"),
    ):
        file.start(2, 2)
    with FrameFile(tmp_path / "b.mp4", visible_label=text) as file:
        file.start(2, 2, size)
        for chunk in chunks(frames):
            file.write(chunk)
        with pytest.raises(ValueError, match="the frames were already encoded, with"):
            file.check(".mp4", None, False, VisibleLabel("another"))
        file.save(tmp_path / "b.mp4", comment=None, aigc=aigc_fields(GIVEN))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
