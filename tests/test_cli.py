"""The command line as a person meets it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pyramid_seed.cli import main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_ends_it_in_silence(unbuffered):
    """As in `pyramid-seed presets | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "pyramid_seed", "presets"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        cwd=ROOT,
    ) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 141


def test_another_broken_pipe_is_an_error(monkeypatch, capfd):
    def breaks(options):
        raise BrokenPipeError(errno.EPIPE, "the encoder has gone")

    monkeypatch.setattr("pyramid_seed.commands.presets.run", breaks)
    assert main(["presets"]) == 2
    assert "the encoder has gone" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["batch", "--help"]])
def test_help_is_quick(arguments):
    """Under 0.3 s; processor time of the child, which other work on the machine does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "pyramid_seed", *arguments], check=True, capture_output=True, cwd=ROOT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_crash_is_not_a_negative_answer(saved, monkeypatch, capsys):
    def crash(*_):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr("pyramid_seed.provenance.verify.verify_noise_of_file", crash)
    assert main(["verify", str(saved), "--noise-only"]) == 2
    assert "not foreseen" in capsys.readouterr().err
