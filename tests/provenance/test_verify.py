"""A clip made again: the same, or the first thing that is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_seed import generate
from pyramid_seed.cli import main
from pyramid_seed.media.video import read_comment, read_video, write_video
from pyramid_seed.noise import Branch
from pyramid_seed.provenance import pixels
from pyramid_seed.provenance.manifest import manifest_json, read_manifest
from pyramid_seed.provenance.pixels import compare_file
from pyramid_seed.provenance.verify import redraw, verify_noise_of_file
from pyramid_seed.reproduce import regenerate, verify
from tests.cases import check_cases
from tests.conftest import REFERENCE

MODEL = str(REFERENCE / "miniflux-tiny")


def check(path, **options):
    return verify(path, model=MODEL, progress=False, **options)


def machine(found):
    """What differs but for variables, one of which the command line sets in this very process."""
    return [(each.field, each.a) for each in found.environment if not each.field.startswith("variables.")]


def test_a_saved_clip_matches(saved):
    found = check(saved)
    assert found.difference is None
    assert [step.stage for step in found.steps] == [
        "weights", "text", "noise", "unit", "decode", "frames", "file",
    ]  # fmt: skip
    assert all(step.status == "equal" for step in found.steps)
    assert machine(found) == []


def test_a_branched_clip_matches_and_tells_its_story(quick, tmp_path):
    clip = generate("a boat", seed=1, branches=(Branch(1, 2), Branch(2, 3)), **quick | {"num_frames": 17})
    path = clip.save(tmp_path / "clip.mp4", lossless=True)
    assert check(path).difference is None
    assert verify_noise_of_file(path).difference is None
    assert redraw(clip.manifest) == clip.ledger


def test_a_clip_from_an_image_matches_with_its_image_only(quick, tmp_path):
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    path = generate("a boat", seed=1, image=picture, **quick).save(tmp_path / "clip.mp4")
    assert check(path, image=picture).difference is None
    assert verify_noise_of_file(path).difference is None
    with pytest.raises(ValueError, match="--image FILE"):
        check(path)
    with pytest.raises(ValueError, match="not the image that the clip was made from"):
        check(path, image=Image.new("RGB", (64, 64)))


def test_an_image_that_was_not_there_is_refused(saved):
    with pytest.raises(ValueError, match="made without an image"):
        check(saved, image=Image.new("RGB", (64, 64)))


def test_the_first_difference_in_causal_order(tampered):
    cases = [
        (lambda m: m["weights"][3].update(sha256="0" * 64), "weights", "file diffusion_transformer_384p/"),
        (lambda m: m.update(prompt="a car"), "text", "embeddings of prompt"),
        (lambda m: m["settings"].update(negative_prompt="x"), "text", "embeddings of negative_prompt"),
        (lambda m: m.update(seed="3"), "noise", "draw initial/0/0"),
        (lambda m: m["branches"].append({"from_unit": 1, "seed": "3"}), "noise", "draw initial/1/0"),
        (lambda m: m["ledger"].pop(), "noise", "draw renoise/1/2"),
        (lambda m: m["settings"].update(video_guidance_scale=2.5), "unit", "latents of stage 0 of unit 1"),
        (
            lambda m: m["digests"]["stages"][0].__setitem__(1, "0" * 64),
            "unit",
            "latents of stage 1 of unit 0",
        ),
        (
            lambda m: (
                m["digests"]["stages"][1].__setitem__(2, "0" * 64),
                m["digests"]["units"].__setitem__(1, "0" * 64),
            ),
            "unit",
            "latents of stage 2 of unit 1",
        ),
        (
            lambda m: (
                m["digests"]["stages"].__setitem__(1, None),
                m["digests"]["units"].__setitem__(1, "0" * 64),
            ),
            "unit",
            "latents of unit 1",
        ),
        (lambda m: m["digests"]["chunks"].__setitem__(1, "0" * 64), "decode", "chunk 1 (frames 1 to 8)"),
        (lambda m: m["digests"].update(frames="0" * 64), "frames", "all frames"),
    ]

    def rule(change, stage, note):
        found = check(tampered(change))
        assert found.difference == found.steps[-1]
        assert found.difference.stage == stage
        assert found.difference.note.startswith(note)

    check_cases(cases, rule)


def test_stages_that_are_not_known_are_skipped(tampered):
    def change(manifest):
        manifest["digests"]["stages"][0] = None

    found = check(tampered(change))
    assert found.difference is None
    assert [step.note for step in found.steps if step.stage == "unit"] == [
        "latents of 2 units, after 3 stages"
    ]

    def change_unit(manifest):
        change(manifest)
        manifest["digests"]["units"][0] = "0" * 64

    assert check(tampered(change_unit)).difference.note.startswith("latents of unit 0: 0000")


def test_one_byte_of_the_weights(saved, tmp_path):
    copy = shutil.copytree(MODEL, tmp_path / "copy")
    file = copy / "causal_video_vae/diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    found = verify(saved, model=copy, progress=False)
    assert found.difference.stage == "weights"
    assert found.difference.note.startswith("file causal_video_vae/diffusion_pytorch_model.safetensors: ")


def test_what_the_machine_differs_in_is_told(tampered):
    found = check(tampered(lambda m: m["environment"]["packages"].update(torch="1.0")))
    assert found.difference is None
    assert machine(found) == [("packages.torch", "1.0")]


def test_what_cannot_be_run_is_an_error(tampered):
    cases = [
        (lambda m: m.update(noise_scheme="pyramid-seed/v9"), "noise scheme 'pyramid-seed/v9'"),
        (lambda m: m.update(noise_scheme="pyramid-seed/v2"), "must be 'pyramid-seed/v1', that of its draws"),
        (lambda m: m.update(schema_version=3), "schema version 3"),
        (lambda m: m.pop("ledger"), "ledger is missing"),
    ]
    folders = [  # of this machine, which a stranger's manifest must not name
        (lambda m: m["model"].update(kind="hub", name="/etc", revision=None), "as owner/name, got '/etc'"),
        (lambda m: m["model"].update(kind="hub", name="../x", revision=None), "as owner/name, got '../x'"),
        (lambda m: m["model"].update(kind="embedded", name="embedded:../x"), "no model named '../x' comes"),
        (lambda m: m["model"].update(kind="embedded", name="/etc"), "must name embedded:NAME, got '/etc'"),
    ]
    for change, message in folders:
        with pytest.raises((ValueError, OSError), match=message):
            verify(tampered(change), progress=False)

    def rule(change, message):
        path = tampered(change)
        with pytest.raises(ValueError, match=message):
            check(path)
        with pytest.raises(ValueError, match=message):
            verify_noise_of_file(path)

    check_cases(cases, rule)


def test_weights_from_a_folder_must_be_found_again(saved, tmp_path):
    with pytest.raises(ValueError, match=r"a folder named 'miniflux-tiny'; .* --model FOLDER"):
        verify(saved, progress=False)
    with pytest.raises(FileNotFoundError, match="gone"):
        verify(saved, model=tmp_path / "gone", progress=False)


def test_regenerate_gives_the_clip(saved, made):
    again = regenerate(read_manifest(saved), model=MODEL, progress=False)
    assert np.array_equal(again.frames, made.frames)
    assert again.ledger == made.ledger


# ---- noise only


def test_noise_only_compares_the_noise(saved):
    verification = verify_noise_of_file(saved)
    assert [(step.stage, step.status) for step in verification.steps] == [
        ("noise", "equal"),
        ("file", "not compared"),
    ]


@pytest.mark.slow
def test_noise_only_needs_no_model(saved):
    command = (
        "import sys; from pyramid_seed.cli import main; status = main(sys.argv[1:]); "
        "assert not {'diffusers', 'transformers'} & set(sys.modules); sys.exit(status)"
    )
    arguments = [sys.executable, "-c", command, "verify", str(saved), "--noise-only"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("MATCH, as far as the noise goes\n")


def test_noise_only_finds_the_first_draw(tampered):
    cases = [
        (lambda m: m.update(seed="3"), "draw initial/0/0"),
        (lambda m: m["branches"].append({"from_unit": 1, "seed": "3"}), "draw initial/1/0"),
        (lambda m: m["ledger"][4].update(sha256="0" * 64), "draw renoise/1/1"),
        (lambda m: m["ledger"][4].update(shape=[1, 16, 1, 4, 2]), "draw renoise/1/1"),
        (lambda m: m["settings"].update(height=128), "draw initial/0/0"),
    ]

    def rule(change, note):
        found = verify_noise_of_file(tampered(change))
        assert found.difference.stage == "noise"
        assert found.difference.note.startswith(note)

    check_cases(cases, rule)


def test_more_noise_than_any_clip_has_is_not_drawn(tampered):
    def grow(manifest):
        manifest["settings"] |= {"height": 8192, "width": 8192, "scale": 1}
        manifest["geometry"] |= {"spatial_factor": 1, "latent_channels": 64}

    with pytest.raises(ValueError, match="4,294,967,296 in one draw; at most 4,294,967,296 and 134,"):
        verify_noise_of_file(tampered(grow))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_noise_of_a_device_that_is_not_here_is_an_error(tampered, capsys):
    path = tampered(lambda m: m.update(noise_device="cuda"))
    with pytest.raises(ValueError, match="noise_device 'cuda' cannot be used here"):
        verify_noise_of_file(path)
    assert main(["verify", str(path), "--noise-only"]) == 2
    assert "noise_device 'cuda' cannot be used here" in capsys.readouterr().err


# ---- pixels in the file


def doctored(path, frames, manifest, **options):
    write_video(path, frames, 8, comment=manifest_json(manifest), scale=2, **options)
    return path


def with_file(made, **shown):
    return made.manifest | {"file": {"ending": ".mp4", "scale": 2, "lossless": False} | shown}


def test_a_lossless_file_must_match_bit_for_bit(made, tmp_path):
    manifest = with_file(made, lossless=True)
    good = doctored(tmp_path / "good.mp4", made.frames, manifest, lossless=True)
    assert verify_noise_of_file(good).steps[-1].note == "the pixels in the file, bit for bit"
    frames = made.frames.copy()
    frames[3, 10, 10, 0] ^= 1
    bad = doctored(tmp_path / "bad.mp4", frames, manifest, lossless=True)
    found = check(bad).difference
    assert (found.stage, found.note) == (
        "file",
        "the pixels in the file differ from the manifest's, from chunk 1 (frames 1 to 8) on",
    )
    assert verify_noise_of_file(bad).difference == found


def test_one_enlarged_pixel_that_is_not_alike_is_found(made, tmp_path):
    manifest = with_file(made, lossless=True)
    shown = made.frames.repeat(2, axis=1).repeat(2, axis=2)
    shown[0, 1, 1, 0] ^= 1
    path = tmp_path / "clip.mp4"
    write_video(path, shown, 8, comment=manifest_json(manifest), lossless=True)
    assert verify_noise_of_file(path).difference.stage == "file"


def test_a_doctored_lossy_file_is_found(made, tmp_path):
    cases = {
        "reversed": lambda frames: frames[::-1],
        "inverted": lambda frames: 255 - frames,
        "shifted": lambda frames: np.roll(frames, 1, axis=2),
    }

    def rule(doctor):
        path = doctored(tmp_path / "clip.mp4", doctor(made.frames), with_file(made), overwrite=True)
        assert check(path).difference.stage == "file"

    check_cases(cases, rule)


def test_a_smooth_file_must_be_of_smooth_frames(made, tmp_path):
    path = made.save(tmp_path / "clip.mp4", smooth=True)
    manifest = read_manifest(path)
    assert manifest["file"] == {"ending": ".mp4", "scale": 2, "lossless": False, "smooth": True}
    assert check(path).difference is None
    square = doctored(tmp_path / "square.mp4", made.frames, manifest)
    assert check(square).difference.stage == "file"


def test_a_lossy_file_by_another_encoder_is_close(made, tmp_path, monkeypatch):
    manifest = with_file(made)
    with monkeypatch.context() as patch:
        patch.setattr("pyramid_seed.media.mp4._CRF", "16")
        path = doctored(tmp_path / "clip.mp4", made.frames, manifest)
    same = compare_file(path, manifest, made.frames, made.environment)
    assert same.status == "differs"  # this encoder is known: it gives other pixels
    close = compare_file(path, manifest, made.frames, {})
    assert close.status == "equal"
    assert close.note.startswith("as far as the codec allows (another encoder version here): frame ")
    swapped = doctored(tmp_path / "swapped.mp4", made.frames[::-1].copy(), manifest)
    far = compare_file(swapped, manifest, made.frames, {})
    assert far.status == "differs"
    assert "PSNR" in far.note


def test_frames_that_are_missing_or_of_another_size(made, tmp_path):
    path = doctored(tmp_path / "clip.mp4", made.frames[:-1], with_file(made))
    assert verify_noise_of_file(path).difference.note == (
        "it holds 8 frames of 128x128, the manifest promises 9 frames of 128x128"
    )


def test_pictures_are_read_back_and_gifs_are_not(made, tmp_path):
    pictures = made.save(tmp_path / "frames.png", sidecar=True)
    assert verify_noise_of_file(pictures).steps[-1].status == "equal"
    one = pictures / "0004.png"
    Image.open(one).convert("RGBA").save(one)
    assert verify_noise_of_file(pictures).steps[-1].status == "equal"
    Image.open(one).rotate(90).save(one)
    assert verify_noise_of_file(pictures).difference.note.endswith("from chunk 1 (frames 1 to 8) on")
    gif = made.save(tmp_path / "clip.gif", sidecar=True)
    assert verify_noise_of_file(gif).steps[-1] == pixels.Step(
        "file", "not compared", "pixels of .gif cannot be read back"
    )


def test_the_file_is_read_as_it_was_written(saved, made):
    shown, rate = read_video(saved)
    assert shown.shape == (9, 128, 128, 3)
    assert rate == made.fps
    assert json.loads(read_comment(saved))["file"] == {"ending": ".mp4", "scale": 2, "lossless": False}
