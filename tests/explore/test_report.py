"""The report of a sweep: its page, its contact sheet and its copies of clips."""

from __future__ import annotations

import base64

import av
import numpy as np
import pytest
from PIL import Image

from pyramid_seed import generate, run_sweep
from pyramid_seed.explore.measures import MEASURES, measure_clip
from pyramid_seed.explore.report import write_report
from pyramid_seed.media.video import read_video

from .sweeps import FEW, PROMPTS, Page, tree_of


def test_the_page_holds_the_clips_and_needs_no_network(swept, tmp_path):
    page = Page(swept[0] / "report" / "index.html")
    videos = page.all("video")
    files = [swept[0] / "report" / row["file"] for row in tree_of(swept[0])["clips"]]
    assert len(videos) == 6
    for video, file in zip(videos, files, strict=True):
        start, data = video["src"].split(",")
        assert start == "data:video/mp4;base64"
        copy = tmp_path / "clip.mp4"
        copy.write_bytes(base64.b64decode(data))
        assert copy.read_bytes() == file.read_bytes()
        assert read_video(copy)[0].shape == (5, 128, 128, 3)
    links = [
        attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes
    ]
    assert all(link.startswith(("data:", "#")) for link in links)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identities)) == len(identities)
    assert {link[1:] for link in links if link.startswith("#")} <= set(identities)


def test_prompts_are_text_not_markup(swept):
    page = Page(swept[0] / "report" / "index.html")
    assert PROMPTS[1] in page.text
    assert "<b>blue" not in (swept[0] / "report" / "index.html").read_text()


def test_every_number_of_the_table_can_be_sorted(swept):
    page = Page(swept[0] / "report" / "index.html")
    rows = [row for row in page.rows if sum("data-value" in cell for cell in row) == len(MEASURES) + 1]
    values = [[cell["data-value"] for cell in row if "data-value" in cell] for row in rows]
    expected = [
        [row["seed"], *("" if value is None else str(value) for value in row["measures"].values())]
        for row in tree_of(swept[0])["clips"]
    ]
    assert values == expected


def test_the_contact_sheet_has_a_row_per_seed(swept):
    sheet = np.asarray(Image.open(swept[0] / "report" / "contact_sheet.png"))
    height, width, _ = sheet.shape
    assert height > 6 * 96
    assert 5 * 96 < width < 5 * 96 + 200


@pytest.mark.parametrize("embedded_bytes", [2**30, 1])
def test_lossless_files_have_exact_measures_and_copies_that_play(swept, tmp_path, embedded_bytes):
    summary = run_sweep(PROMPTS[:1], tmp_path, seeds=(7,), lossless=True, device="cpu", progress=False, **FEW)
    clip = generate(PROMPTS[0], seed=7, device="cpu", progress=False, **FEW)
    (row,) = tree_of(tmp_path)["clips"]
    assert row["measures"] == measure_clip(clip.frames, clip.geometry)

    about = {"settings": tree_of(tmp_path)["settings"], "against": None, "failed": {}}
    path = write_report(tmp_path / "report", summary.findings, embedded_bytes=embedded_bytes, **about)
    (video,) = Page(path).all("video")
    copy = path.parent / video["src"]
    if embedded_bytes > 1:
        copy = tmp_path / "copy.mp4"
        copy.write_bytes(base64.b64decode(video["src"].split(",")[1]))
        assert not (tmp_path / "report" / "clips").exists()
    with av.open(copy) as container:
        assert container.streams.video[0].format.name == "yuv420p"
    assert read_video(copy)[0].shape == (5, 128, 128, 3)

    with pytest.raises(ValueError, match="lossy files and this sweep makes lossless ones"):
        run_sweep(PROMPTS, tmp_path, seeds=(7,), lossless=True, against=swept[0], progress=False)


def test_large_clips_stay_beside_the_page(swept, tmp_path):
    folder, summary = swept
    about = {"settings": tree_of(folder)["settings"], "against": None, "failed": {"x.mp4": "<i>"}}
    path = write_report(folder / "other", summary.findings, embedded_bytes=1, **about)
    page = Page(path)
    for video in page.all("video"):
        assert (path.parent / video["src"]).is_file()
    assert "too large for one page" in page.text
    assert "1 failed: x.mp4 (<i>)" in page.text


def test_a_report_that_cannot_be_written_leaves_the_old_one(swept, monkeypatch):
    folder, summary = swept
    before = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}

    def fail(*_):
        raise OSError("no space is left")

    monkeypatch.setattr("pyramid_seed.explore.report._page", lambda *_, **__: fail())
    with pytest.raises(OSError, match="no space"):
        write_report(folder / "report", summary.findings, settings={}, against=None, failed={})
    assert {path.name: path.read_bytes() for path in (folder / "report").iterdir()} == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
