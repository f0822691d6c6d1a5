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
