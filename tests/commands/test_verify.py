"""`pyramid-seed verify`."""

from __future__ import annotations

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
