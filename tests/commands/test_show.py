"""`pyramid-seed show`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pyramid_seed.cli import main
from pyramid_seed.provenance.manifest import read_manifest
from tests.cases import check_cases


def test_it_prints_for_people_and_for_programs(saved, capsys):
    assert main(["show", str(saved)]) == 0
    assert "seed        18446744073709551615\n" in capsys.readouterr().out
    assert main(["show", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_manifest(saved)


def test_what_is_no_clip_is_refused_by_name_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("a boat")
    Path("loop.mp4").symlink_to("loop.mp4")
    for name in ("fifo.mp4", "fifo.json", "fifo"):
        os.mkfifo(name)
    cases = {
        "fifo.mp4": "fifo.mp4 is not a file but a FIFO",
        "fifo.json": "fifo.json is not a file but a FIFO",
        "fifo": "fifo is not a file but a FIFO",
        "loop.mp4": "loop.mp4",
        "folder": "folder holds no manifest, and there is no folder.json beside it",
        ".": f"there is no {tmp_path.name}.json beside it",
        "/": "/ holds no manifest",
        "notes.txt": "notes.txt holds no manifest, and there is no notes.json beside it",
        "x:y.mp4": "x:y.mp4 does not exist",
    }

    def rule(name):
        assert main(["show", name]) == 2
        assert cases[name] in capsys.readouterr().err

    check_cases(list(cases), rule)
    with pytest.raises(SystemExit):
        main(["show", ""])
    assert "argument CLIP: a path must not be empty" in capsys.readouterr().err


def test_no_manifest_is_status_2(tmp_path, capsys):
    assert main(["show", str(tmp_path / "gone.mp4")]) == 2
    errors = capsys.readouterr().err
    assert "pyramid-seed show: " in errors
    assert "Traceback" not in errors
