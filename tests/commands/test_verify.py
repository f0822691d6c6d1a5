"""`pyramid-seed verify`."""

from __future__ import annotations

import json
import shutil

from pyramid_seed.cli import main
from tests.conftest import REFERENCE

MODEL = str(REFERENCE / "miniflux-tiny")


def test_it_answers_match_or_the_first_difference(saved, tampered, capsys):
    assert main(["verify", str(saved), "--model", MODEL, "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("MATCH\n")
    other = tampered(lambda m: (m.update(seed="3"), m["environment"].update(python="2.7")))
    assert main(["verify", str(other), "--model", MODEL, "--quiet"]) == 1
    shown = capsys.readouterr().out
    assert "DIFFERS first in noise: draw initial/0/0" in shown
    assert "environment python: '2.7' then, " in shown
    assert main(["verify", str(saved), "--quiet"]) == 2
    assert "--model FOLDER" in capsys.readouterr().err


def test_a_manifest_cannot_steer_the_terminal(tampered, capsys):
    path = tampered(lambda m: (m.update(seed="3"), m["environment"].update({"\x1b[2J": "\x1b[31m"})))
    assert main(["verify", str(path), "--noise-only"]) == 1
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert "\\x1b[2J: " in shown
    assert main(["verify", "\x1b[2J.json"]) == 2
    assert "\\x1b[2J.json" in (refused := capsys.readouterr().err)
    assert "\x1b" not in refused


def test_several_clips_and_folders_are_counted(saved, tampered, capsys, tmp_path):
    """One line per clip, the counts, and the highest status; what cannot be made again ends nothing."""
    other = tampered(lambda m: m.update(seed="3"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    arguments = ["verify", str(saved), str(other), "--noise-only"]
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"MATCH   {saved}"
    assert lines[1].startswith(f"DIFFERS {other}: noise: draw initial/0/0")
    assert lines[2] == "clips       1 match, 1 differ"

    assert main([*arguments[:-1], str(broken), "--noise-only", "--json"]) == 2
    rows = json.loads(capsys.readouterr().out)
    assert [row["result"] for row in rows] == ["match", "differs", "failed"]
    assert rows[1]["stage"] == "noise"
    assert str(broken) in rows[2]["note"]

    folder = tmp_path / "clips"
    (folder / "0a").mkdir(parents=True)
    shutil.copy(saved, folder / "0a")
    assert main(["verify", str(folder), "--noise-only"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "clips       1 match"
    assert main(["verify", str(tmp_path / "clips" / "0b"), "--noise-only"]) == 2
    (folder / "0b").mkdir()
    assert main(["verify", str(folder / "0b"), "--noise-only"]) == 2
    assert "there is no .mp4 in the folder" in capsys.readouterr().err
