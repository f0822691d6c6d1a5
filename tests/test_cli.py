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
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.video import read_video

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--num-frames", "5", "--num-inference-steps", "1", "--video-num-inference-steps", "1", "--quiet"]


def test_generate_writes_the_clip_and_says_what_it_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["generate", "A red circle / moves!", "--seed", "7", "--lossless", "--scale", "1", *SHORT]) == 0
    )
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["seed"] == "7"
    assert said["file"] == "a-red-circle-moves_seed7.mp4"
    frames, fps = read_video(tmp_path / said["file"])
    assert frames.shape == (5, 64, 64, 3)
    assert fps == 8
    assert frames_digest(frames) == said["digest"]


def test_without_a_seed_one_is_drawn_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a star", *SHORT]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert Path(said["file"]).name == f"a-star_seed{said['seed']}.mp4"


def test_nothing_is_overwritten_silently(tmp_path, capsys):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"mine")
    command = ["generate", "a star", "--seed", "1", "-o", str(path), *SHORT]
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main([*command, "--overwrite"]) == 0
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-frames", "18"], "num_frames must be 4k + 1, got 18; use 17 or 21"),
        (["--height", "70"], "height must be a multiple of 32, got 70; use 64 or 96"),
        (["--num-frames", "0"], "generate: num_frames must be a whole number of at least 1, got 0; use 1"),
        (["--preset", "tinny"], "did you mean 'tiny'?"),
        (["--preset", "no.yaml"], "the preset no.yaml does not exist"),
        (["--image", "no.png"], "the picture no.png does not exist"),
        (["-o", "clip.avi"], "known endings: .mp4, .gif, .webp, .png"),
        (["--num-inference-steps", "2", "2"], "one entry for each of the 3 stages"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--device", "gpu"], "device must be one that torch knows, such as cpu, cuda or mps, got 'gpu'"),
        (["--noise-device", "gpu"], "noise_device must be one that torch knows"),
        (["-o", "/dev/null/clip.mp4"], "/dev/null is not a folder"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a star", "--seed", "1", *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["batch"], ["sweep", "--seeds", "0-1"]])
def test_a_list_that_is_not_there_is_named(command, tmp_path, capsys):
    assert main([*command, str(tmp_path / "no.txt"), "--output", str(tmp_path / "clips")]) == 2
    assert f"the list {tmp_path / 'no.txt'} does not exist" in capsys.readouterr().err


def test_a_prompt_without_quotes_is_explained(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "a", "red", "circle"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: red circle; put the prompt into quotes" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", str(2**64)])
def test_a_wrong_seed_is_named(seed, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "a star", "--seed", seed])
    assert stopped.value.code == 2
    assert "0 .. 2^64 - 1" in capsys.readouterr().err


def test_presets_are_listed(capsys):
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    for name in (
        "tiny",
        "tiny-fast",
        "miniflux-384p",
        "miniflux-768p",
        "miniflux-image",
        "sd3-384p",
        "sd3-768p",
    ):
        assert name in listed


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
