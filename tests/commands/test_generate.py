"""`pyramid-seed generate`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from pyramid_seed import generate, load_pipeline
from pyramid_seed.cli import build_parser, main
from pyramid_seed.commands.next_steps import tell_next
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.video import read_video
from pyramid_seed.pipelines.out_of_memory import GenerationOutOfMemoryError
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.cases import check_cases
from tests.conftest import REFERENCE

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
    assert "already exists" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main([*command, "--overwrite"]) == 0
    assert path.read_bytes() != b"mine"


MISTAKES = {
    "--num-frames 18": "num_frames must be 4k + 1, got 18; use 17 or 21",
    "--height 70": "height must be a multiple of 32, got 70; use 64 or 96",
    "--num-frames 0": "generate: num_frames must be a whole number of at least 1, got 0; use 1",
    "--num-frames 16.5": "num_frames must be a whole number of at least 1, got 16.5; use 16",
    "--fps inf": "fps must be a number above 0, got inf",
    "--width wide": "width must be a whole number of at least 1, got 'wide'",
    "--guidance-scale \u0663": "guidance_scale must be a number of at least 0, got '\u0663'",
    "--preset tinny": "did you mean 'tiny'?",
    "--preset no.yaml": "the preset no.yaml does not exist",
    "--image no.png": ": no.png does not exist",
    "--video no.mp4": "no.mp4",
    "--lora no.safetensors": "no.safetensors does not exist",
    "--lora no.safetensors:0.5": "no.safetensors does not exist",
    "-o clip.avi": "known endings: .mp4, .gif, .webp, .png",
    "--num-inference-steps 2 2": "one entry for each of the 3 stages",
    "--num-inference-steps 2 0 2": "num_inference_steps must be a whole number of at least 1, or several",
    "--model /no/such/folder": "/no/such/folder",
    "--device gpu": "device must be one that torch knows, such as cpu, cuda or mps, got 'gpu'",
    "--noise-device gpu": "noise_device must be one that torch knows",
    "-o /dev/null/clip.mp4": "/dev/null is not a folder",
}


def test_a_mistake_is_named_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "pyramid_seed.shared_pipeline.load_source", lambda *_, **__: pytest.fail("the model was loaded")
    )

    def is_named(options, message):
        assert main(["generate", "a star", "--seed", "1", *options.split()]) == 2
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    check_cases(MISTAKES.items(), is_named)


def test_a_prompt_without_quotes_is_explained(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "a", "red", "circle"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: red circle; put the prompt into quotes" in capsys.readouterr().err


def test_a_wrong_seed_is_named(capsys):
    def is_named(seed):
        with pytest.raises(SystemExit) as stopped:
            main(["generate", "a star", f"--seed={seed}"])
        assert stopped.value.code == 2
        assert "seed must be a whole number in 0 .. 2**64 - 1, got" in capsys.readouterr().err

    check_cases(("-1", "1.5", "x", str(2**64), "\u0663", "\u00b2", "1" * 5000), is_named)


def test_the_same_command_writes_the_same_bytes(tmp_path, monkeypatch):
    command = ["generate", "a red circle", "--seed", "5", "--num-frames", "1", "--num-inference-steps", "1"]
    for name in ("a", "b"):
        assert main([*command, "--quiet", "--sidecar", "-o", str(tmp_path / f"{name}.mp4")]) == 0
        shared_pipeline.clear()  # so that it is loaded anew
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    # Also from Python, where nothing has set what the command line sets.
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    clip = generate("a red circle", seed=5, num_frames=1, num_inference_steps=1, progress=False)
    assert clip.save(tmp_path / "c.mp4", smooth=True).read_bytes() == (tmp_path / "a.mp4").read_bytes()
    assert "timings" not in read_manifest(tmp_path / "a.mp4")
    assert read_manifest(tmp_path / "a.json")["timings"]["seconds"] > 0


@pytest.mark.parametrize("ending", [".mp4", ".png"])
def test_it_writes_the_file_of_clip_save(quick, tmp_path, ending):
    held = generate("a boat", seed=5, **quick)
    path = tmp_path / f"clip{ending}"
    options = ["--model", quick["model"], "--variant", "384p", "--height", "64", "--width", "64"]
    options += ["--num-frames", "9", "--num-inference-steps", "1", "--video-num-inference-steps", "1"]
    more = ["--preset", "tiny", "--scale", "2", "-o", str(path), "--no-metadata", "--quiet"]
    assert main(["generate", "a boat", "--seed", "5", *options, *more]) == 0
    expected = held.save(tmp_path / f"expected{ending}", smooth=ending == ".mp4", metadata=False)
    if ending == ".mp4":
        assert path.read_bytes() == expected.read_bytes()
    else:
        assert [file.read_bytes() for file in sorted(path.iterdir())] == [
            file.read_bytes() for file in sorted(expected.iterdir())
        ]


@pytest.mark.slow
def test_what_a_terminal_is_told_to_try_next_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command = ["generate", "it's a star", "--seed", "7", "-o", "my star.mp4", *SHORT[:-1]]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err.startswith("pyramid-seed generate: loading torch")
    lines = said.out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("next "))
    verify, other, page = (shlex.split(line[12:])[3:] for line in lines[first:])
    assert shlex.split(lines[-1])[:3] == [sys.executable, "-m", "pyramid_seed"]
    assert build_parser().parse_args(page).command in ("ui", "demo")
    assert main(verify) == 0
    assert "MATCH" in capsys.readouterr().out
    assert main(other) == 0
    assert read_manifest(tmp_path / "my star_seed8.mp4")["seed"] == "8"
    capsys.readouterr()
    assert main([*command, "--overwrite", "-q"]) == 0
    said = capsys.readouterr()
    assert "next" not in said.out
    assert said.err == ""


def test_nothing_to_try_is_said_that_would_not_work(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    def told(*words):
        options = build_parser().parse_args(["generate", *words])
        options.given = ["generate", *words]
        tell_next(options, options.output or Path("a.mp4"), 3)
        return capsys.readouterr().out

    assert " verify a.mp4" in told("a")
    assert " generate a --seed 4\n" in told("a", "--seed", "3")
    for words in (
        ["--no-metadata"],
        ["-o", "a.gif"],
        ["--model", "folder"],
        ["--image", "a.png"],
        ["--video", "a.mp4"],
    ):
        assert " verify " not in told("a", *words)
    assert " generate " not in told("--", "a")
    assert " generate " not in told("a\tb")


def test_out_of_memory_is_said_without_a_traceback(capsys, tmp_path, monkeypatch):
    """The error itself is tested with the pipeline, at a size that no command takes."""

    def out_of_memory(*_, **__):
        raise GenerationOutOfMemoryError("out of memory on cpu")

    monkeypatch.setattr("pyramid_seed.api.generate", out_of_memory)
    clip = tmp_path / "clip.mp4"
    assert main(["generate", "a", "-o", str(clip), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pyramid-seed generate: out of memory on cpu")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["miniflux", "sd3"])
def test_it_says_what_it_loaded(family, tmp_path, capsys):
    model = str(REFERENCE / f"{family}-tiny")
    options = ["--variant", "384p", "--preset", "tiny", "--num-frames", "1", "--num-inference-steps", "1"]
    path = tmp_path / "boat.mp4"
    assert main(["generate", "a boat", "--model", model, *options, "--quiet", "-o", str(path)]) == 0
    assert f"model       {family}, variant 384p, in the original's layout at" in capsys.readouterr().out
    saved = tmp_path / "saved"
    pipeline = load_pipeline(model, variant="384p", device="cpu")
    pipeline.save_pretrained(saved)
    assert (
        load_pipeline(saved, device="cpu").source.description
        == f"{family}, in the layout of diffusers at {saved}"
    )
