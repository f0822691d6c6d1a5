"""`pyramid-seed demo`."""

from __future__ import annotations

import re
import webbrowser
from base64 import b64decode
from functools import partial

import pytest

from pyramid_seed.batch.run import run_batch
from pyramid_seed.cli import main
from pyramid_seed.explore import gallery
from pyramid_seed.provenance.manifest import read_manifest

ROWS = (("a <red> circle", 19), ("a star", 7))


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The command for a small gallery, and the pages that it opens."""
    opened = []
    short = partial(run_batch, num_frames=1, num_inference_steps=1)
    monkeypatch.setattr(gallery, "run_batch", short)
    monkeypatch.setattr(gallery, "DEMO", ROWS)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    folder = tmp_path / "demo"
    return lambda *words: main(["demo", "-q", "-o", str(folder), *words]), folder, opened


def test_the_page_has_all_clips_in_it_and_is_opened(demo, monkeypatch, capsys):
    run, folder, opened = demo
    monkeypatch.setenv("DISPLAY", ":0")
    assert run() == 0
    page = (folder / "index.html").read_text()
    clips = [b64decode(data) for data in re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)]
    files = {path.read_bytes(): read_manifest(path) for path in (folder / "clips").glob("*.mp4")}
    assert [(files[clip]["prompt"], int(files[clip]["seed"])) for clip in clips] == list(ROWS)
    assert "<h2>a &lt;red&gt; circle</h2>" in page
    assert opened == [(folder / "index.html").resolve().as_uri()]
    assert "2 made" in capsys.readouterr().out
    assert run("--no-open") == 0
    said = capsys.readouterr().out
    assert "2 there already" in said
    assert str(folder / "index.html") in said
    assert len(opened) == 1


def test_without_a_screen_the_path_is_enough(demo, monkeypatch, capsys):
    run, folder, opened = demo
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert run() == 0
    assert opened == []
    assert f"page        {folder / 'index.html'}" in capsys.readouterr().out


def test_a_folder_with_other_things_is_refused(demo, capsys):
    run, folder, _ = demo
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert run() == 2
    assert "holds other things than the demo" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
