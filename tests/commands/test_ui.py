"""`pyramid-seed ui`, as far as it comes without serving anything."""

from __future__ import annotations

import socket
import sys

import pytest

from pyramid_seed.cli import build_parser, main
from pyramid_seed.ui.limits import Limits


def test_without_gradio_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    assert main(["ui", "-o", str(tmp_path / "clips")]) == 2
    assert 'this needs gradio; pip install "pyramid-seed[ui]"' in capsys.readouterr().err
    assert not (tmp_path / "clips").exists()


def test_it_listens_on_this_machine_only_unless_told_otherwise():
    assert build_parser().parse_args(["ui"]).host == "127.0.0.1"


def test_the_help_warns_of_other_addresses(capsys):
    with pytest.raises(SystemExit):
        main(["ui", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "WARNING: with any other address everybody who can reach this machine can use its page" in text
    assert "--share" not in text


def test_the_limits_are_those_of_the_page_unless_told_otherwise(capsys):
    options = vars(build_parser().parse_args(["ui", "--max-height", "64"]))
    limits = {name: options[name] for name in ("max_frames", "max_height", "max_width", "max_waiting")}
    assert limits == {**vars(Limits()), "max_height": 64}
    with pytest.raises(SystemExit):
        main(["ui", "--help"])
    assert "--max-waiting N jobs behind the running one (default: 8)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_mistakes_are_named(capsys, tmp_path):
    folder = str(tmp_path / "clips")
    assert main(["ui", "-o", folder, "--max-frames", "0"]) == 2
    assert "max_frames must be at least 1, got 0" in capsys.readouterr().err
    assert main(["ui", "-o", folder, "--preset", "tiny", "tiny"]) == 2
    assert "presets must be at least one, each with its own name" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["ui", "-o", folder, "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use" in capsys.readouterr().err
