"""A sweep from prompts to report, with the embedded model and in few steps."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pyramid_seed import generate, run_sweep
from pyramid_seed.cli import main
from pyramid_seed.explore.measures import MEASURES, measure_clip
from pyramid_seed.explore.report import NAMES, write_report
from pyramid_seed.media.video import read_video

PROMPTS = ["a red circle moves to the right", "a <b>blue</b> \"square\" & 'more'\nmoves down"]
SEEDS = (0, 1, 7)
FEW = {"num_frames": 5, "num_inference_steps": 1, "video_num_inference_steps": 1}
OPTIONS = [
    "--num-frames",
    "5",
    "--num-inference-steps",
    "1",
    "--video-num-inference-steps",
    "1",
    "--quiet",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run_sweep(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)


class Page(HTMLParser):
    """The page's elements, and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.rows = [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(dict(attributes))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def tree_of(folder):
    return json.loads((folder / "report" / "measures.json").read_text())


def test_what_is_there(swept):
    folder, summary = swept
    assert (summary.batch.status, summary.batch.made) == (0, 6)
    assert summary.report == folder / "report" / "index.html"
    assert {path.name for path in (folder / "report").iterdir()} == set(NAMES) - {"clips"}
    assert len(list((folder / "clips").glob("*.mp4"))) == 6


def test_the_clips_are_those_of_generate(swept):
    rows = tree_of(swept[0])["clips"]
    clip = generate(PROMPTS[0], seed=7, device="cpu", progress=False, **FEW)
    (row,) = [row for row in rows if (row["prompt"], row["seed"]) == (PROMPTS[0], "7")]
    assert row["digest"] == clip.digest
    # The file is lossy; the mean of 6 x 6 pixels comes close.
    exact = measure_clip(clip.frames, clip.geometry)
    for name in ("si", "ti", "motion"):
        assert row["measures"][name] == pytest.approx(exact[name], rel=0.02)


def test_json_and_csv_agree(swept):
    tree = tree_of(swept[0])
    with (swept[0] / "report" / "measures.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(row["prompt"], row["seed"]) for row in tree["clips"]] == [
        (prompt, str(seed)) for prompt in PROMPTS for seed in SEEDS
    ]
    for row, line in zip(tree["clips"], lines, strict=True):
        assert [line[name] for name in ("prompt", "seed", "file", "digest")] == [
            row[name] for name in ("prompt", "seed", "file", "digest")
        ]
        assert (swept[0] / "report" / row["file"]).is_file()
        for measure in MEASURES:
            value = row["measures"][measure.name]
            assert line[measure.name] == ("" if value is None else str(value))


def test_the_json_says_what_was_found(swept):
    tree = tree_of(swept[0])
    assert tree["settings"]["num_frames"] == 5
    assert tree["variance"]["seeds"] == ["0", "1", "7"]
    shares = tree["variance"]["shares"]
    assert shares["black_frames"] is None
    assert sum(shares["sharpness"].values()) == pytest.approx(1)
    motions = [row["measures"]["motion"] for row in tree["clips"]]
    assert tree["between_seeds"][0]["spread"]["motion"]["std"] == pytest.approx(np.std(motions[:3], ddof=1))
    assert 0 < tree["between_seeds"][0]["pairwise_ssim"] < 1


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
        assert read_video(copy)[0].shape == (5, 384, 384, 3)
    links = [each.get(name) for _, each in page.elements for name in ("src", "href") if name in each]
    assert all(link.startswith(("data:", "#")) for link in links)
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert "default-src 'none'" in policy
    identities = [each["id"] for _, each in page.elements if "id" in each]
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


def test_the_contact_sheet_has_a_row_a_seed(swept):
    sheet = np.asarray(Image.open(swept[0] / "report" / "contact_sheet.png"))
    height, width, _ = sheet.shape
    assert height > 6 * 96
    assert 5 * 96 < width < 5 * 96 + 200


def test_again_makes_only_what_is_missing(swept):
    folder, summary = swept
    # The page holds the clips, and a clip's manifest says how long it took.
    names = ["measures.json", "measures.csv", "contact_sheet.png"]
    before = [(folder / "report" / name).read_bytes() for name in names]
    (folder / "clips" / next(iter(summary.batch.digests))).unlink()
    (folder / "report" / "index.html").unlink()
    again = run_sweep(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)
    assert (again.batch.made, again.batch.found) == (1, 5)
    assert (folder / "report" / "index.html").is_file()
    assert [(folder / "report" / name).read_bytes() for name in names] == before
    fewer = run_sweep(PROMPTS[:1], folder, seeds=(7, 0), device="cpu", progress=False, **FEW)
    assert (fewer.batch.made, fewer.batch.found) == (0, 2)
    assert [row["seed"] for row in tree_of(folder)["clips"]] == ["7", "0"]
    assert set(tree_of(folder)["variance"]["shares"].values()) == {None}
    run_sweep(PROMPTS, folder, seeds=SEEDS, device="cpu", progress=False, **FEW)
    assert [(folder / "report" / name).read_bytes() for name in names] == before


def test_settings_are_compared_seed_by_seed(swept, tmp_path, capsys):
    command = [
        "sweep",
        PROMPTS[0],
        "--seeds",
        "0-1",
        "-o",
        str(tmp_path),
        "--against",
        str(swept[0]),
        *OPTIONS,
    ]
    assert main([*command, "--guidance-scale", "5"]) == 0
    assert "2 made" in capsys.readouterr().out
    paired = tree_of(tmp_path)["paired"]
    there = [row["measures"]["si"] for row in tree_of(swept[0])["clips"][:2]]
    here = [row["measures"]["si"] for row in tree_of(tmp_path)["clips"]]
    assert paired["against"] == str(swept[0])
    assert paired["differences"]["si"]["difference"] == pytest.approx(np.mean(here) - np.mean(there))
    assert "95 % interval" in Page(tmp_path / "report" / "index.html").text


@pytest.mark.parametrize("embedded_bytes", [2**30, 1])
def test_lossless_files_have_exact_measures_and_copies_that_play(swept, tmp_path, embedded_bytes):
    summary = run_sweep(PROMPTS[:1], tmp_path, seeds=(7,), lossless=True, device="cpu", progress=False, **FEW)
    clip = generate(PROMPTS[0], seed=7, device="cpu", progress=False, **FEW)
    (row,) = tree_of(tmp_path)["clips"]
    assert row["measures"] == measure_clip(clip.frames, clip.geometry)

    told = {"settings": tree_of(tmp_path)["settings"], "against": None, "failed": {}}
    path = write_report(tmp_path / "report", summary.findings, embedded_bytes=embedded_bytes, **told)
    (video,) = Page(path).all("video")
    copy = path.parent / video["src"]
    if embedded_bytes > 1:
        copy = tmp_path / "copy.mp4"
        copy.write_bytes(base64.b64decode(video["src"].split(",")[1]))
        assert not (tmp_path / "report" / "clips").exists()
    with av.open(copy) as container:
        assert container.streams.video[0].format.name == "yuv420p"
    assert read_video(copy)[0].shape == (5, 384, 384, 3)

    with pytest.raises(ValueError, match="lossy files and this sweep makes lossless ones"):
        run_sweep(PROMPTS, tmp_path, seeds=(7,), lossless=True, against=swept[0], progress=False)


def test_large_clips_stay_beside_the_page(swept, tmp_path):
    folder, summary = swept
    told = {"settings": tree_of(folder)["settings"], "against": None, "failed": {"x.mp4": "<i>"}}
    path = write_report(folder / "other", summary.findings, embedded_bytes=1, **told)
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.txt"], "nowhere.txt"),
        (["a", "--seeds", "5-2"], "use 2-5"),
        (["a", "--seeds", "x"], "such as 0-15"),
        (["a b", "a b"], "given twice"),
        (["a", "red", "circle"], "put a prompt into quotes"),
        ([" "], "must not be empty"),
        (["a", "--against", "nowhere"], "measures.json"),
        (["a", "--num-frames", "10"], "use 9 or 13"),
        (["a", "--preset", "tny"], "tiny"),
        (["a", "--num-processes", "2"], "torchrun"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments, "-o", "out"]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.mp4"))
    assert not (tmp_path / "out" / "report").exists()


def test_another_sweep_without_these_clips_is_refused(swept, tmp_path):
    with pytest.raises(ValueError, match="no clip of these prompts and seeds"):
        run_sweep(["something else"], tmp_path, against=swept[0], progress=False)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "measures.json").write_text('{"schema": "other", "schema_version": 1}')
    with pytest.raises(ValueError, match="no measures of a sweep"):
        run_sweep(["a"], tmp_path / "b", against=tmp_path, progress=False)


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="other things"):
        run_sweep(["a"], tmp_path, progress=False)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_different_and_at_least_one(seeds, tmp_path):
    with pytest.raises(ValueError, match="different numbers, at least one"):
        run_sweep(["a"], tmp_path, seeds=seeds)


def test_a_missing_extra_is_told_with_the_command(tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    hide = {"cv2", "skimage"}
    monkeypatch.setattr(
        "pyramid_seed.explore.extras.find_spec", lambda name: None if name in hide else find_spec(name)
    )
    assert main(["sweep", "a", "-o", str(tmp_path / "out")]) == 2
    assert '.[report]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_write_the_report_of_one(swept, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "pyramid_seed", "sweep", *PROMPTS, "--seeds", "0,1,7", "-o", str(tmp_path / "two")]
    command += [*OPTIONS, "--num-processes", "2"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("index.html") == 1
    for name in ("measures.json", "measures.csv", "contact_sheet.png"):
        assert (tmp_path / "two" / "report" / name).read_bytes() == (swept[0] / "report" / name).read_bytes()
