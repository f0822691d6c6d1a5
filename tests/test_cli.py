"""The command line as a person meets it."""

from __future__ import annotations

import errno
import io
import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pyramid_seed.cli import main
from pyramid_seed.pipelines import denoise
from tests.cases import check_cases
from tests.forks import fork

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
def test_help_imports_little(arguments):
    """What else it needs costs more than all the rest; `benchmark.py startup` holds it to 0.3 s."""
    command = [sys.executable, "-X", "importtime", "-m", "pyramid_seed", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "pyramid_seed" in packages
    assert not packages & {"torch", "numpy", "PIL", "av", "imageio", "yaml", "psutil", "diffusers", "jinja2"}


def test_a_crash_is_not_a_negative_answer(saved, monkeypatch, capsys):
    def crash(*_):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr("pyramid_seed.provenance.verify.verify_noise_of_file", crash)
    assert main(["verify", str(saved), "--noise-only"]) == 2
    assert "not foreseen" in capsys.readouterr().err


def command(*arguments: str, **options) -> subprocess.CompletedProcess:
    """A command in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "pyramid_seed", *arguments], cwd=ROOT, check=False, **options
    )


@pytest.fixture
def generate_clip(quick):
    """Arguments of a command that makes a small clip."""
    steps = ["--num-inference-steps", "1", "--video-num-inference-steps", "1"]
    model = ["--model", quick["model"], "--variant", quick["variant"], "--height", "64", "--width", "64"]
    return ["generate", "a red circle", "--seed", "1", "--preset", "tiny", *model, *steps]


@pytest.mark.parametrize("output", ["full", "closed"])
def test_an_output_that_cannot_be_written_decides_nothing_about_the_clip(tmp_path, generate_clip, output):
    path = tmp_path / "clip.png"
    arguments = [*generate_clip, "--num-frames", "1", "--quiet", "-o", str(path)]
    with Path("/dev/full").open("w") as full:
        making = fork(lambda: main(arguments), stdout=full.fileno() if output == "full" else -1)
        status, errors = making.wait()
    assert status == 0, errors
    assert path.is_file()
    assert ("the output could not be written" in errors) == (output == "full")


def test_an_output_that_cannot_be_written_fails_a_command_that_only_tells():
    with Path("/dev/full").open("w") as full:
        told = command("presets", stdout=full, stderr=subprocess.PIPE)
    assert told.returncode == 2
    assert b"the output could not be written: [Errno 28]" in told.stderr


def test_a_terminal_without_a_character_shows_its_escape(made, tmp_path, monkeypatch):
    path = replace(made, recipe=replace(made.recipe, prompt="a 🎈 rises")).save(tmp_path / "clip.mp4")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["show", str(path)]) == 0
    assert rb"a \U0001f388 rises" in terminal.buffer.getvalue()


def test_a_signal_stops_a_command_in_the_middle_and_leaves_nothing(
    tmp_path, generate_clip, monkeypatch, capsys
):
    """In this process, for another one takes seconds to start; see below."""

    def rule(name):
        def stop_in_the_second_unit(unit, *rest):
            if unit == 1:
                os.kill(os.getpid(), number)
            return denoise_unit(unit, *rest)

        number = getattr(signal, name)
        monkeypatch.setattr(denoise, "denoise_unit", stop_in_the_second_unit)
        assert main([*generate_clip, "--num-frames", "17", "-o", str(tmp_path / "clip.mp4")]) == 128 + number
        assert "stopped; no file was left half-written" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    denoise_unit = denoise.denoise_unit
    check_cases(("SIGHUP", "SIGTERM", "SIGINT"), rule)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_stops_the_process_of_a_command_and_leaves_nothing(tmp_path, generate_clip, name):
    number = getattr(signal, name)
    arguments = [*generate_clip, "--num-frames", "249", "-o", str(tmp_path / "clip.mp4")]
    command = [sys.executable, "-m", "pyramid_seed", *arguments]
    terminal, end = pty.openpty()  # a pipe would get no bar within half a minute
    termios.tcsetwinsize(end, (24, 100))
    with subprocess.Popen(command, cwd=ROOT, stderr=end) as process:
        os.close(end)
        while b"unit " not in os.read(terminal, 4096):
            pass
        process.send_signal(number)
        rest = b""
        with suppress(OSError):  # so a terminal ends on Linux
            while part := os.read(terminal, 4096):
                rest += part
    os.close(terminal)
    assert process.returncode == 128 + number
    assert b"stopped; no file was left half-written" in rest
    assert list(tmp_path.iterdir()) == []
