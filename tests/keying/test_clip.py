"""A keyed clip in its file: shown, verified, and refused where it is not what it says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from pyramid_seed import keyed, read_manifest, verify
from pyramid_seed.cli import main
from pyramid_seed.keying.manifest import is_told_by_digest, read_any_manifest, told
from pyramid_seed.media.video import read_video
from pyramid_seed.provenance.manifest import manifest_json
from pyramid_seed.record import compare_with_record, diff_records, read_record, record_of, write_record
from tests import test_testing
from tests.cases import check_cases

from .tiny_pipelines import made

ARGUMENTS = ["height=32", "width=32", "num_frames=9", "num_inference_steps=2", "max_sequence_length=16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LTX, as diffusers saves it."""
    path = tmp_path_factory.mktemp("models") / "ltx"
    made("LTX")[0].save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def clip(loaded):
    (clip,) = keyed(loaded)(**made("LTX")[1], seed=2**64 - 1).clips
    return clip


@pytest.fixture(scope="module")
def saved(clip, tmp_path_factory):
    return clip.save(tmp_path_factory.mktemp("clips") / "boat.mp4", fps=8, lossless=True)


@pytest.fixture
def tampered(saved, tmp_path):
    def write(change):
        manifest = read_any_manifest(saved)
        change(manifest)
        path = tmp_path / "tampered.json"
        path.write_text(manifest_json(manifest), encoding="utf-8")
        return path

    return write


def test_weights_in_memory_and_from_files_make_one_clip(clip):
    """Wherever a file's mapping lies; and a manifest names the files only where there are any."""
    pipe, call = made("LTX")
    (again,) = keyed(pipe)(**call, seed=2**64 - 1).clips
    assert again.digest == clip.digest
    assert again.manifest(8)["weights"] is None
    assert "not loaded from a folder" in again.manifest(8)["weights_note"]
    files = [row["file"] for row in clip.manifest(8)["weights"]]
    assert "transformer/diffusion_pytorch_model.safetensors" in files
    assert "text_encoder/config.json" in files


def test_equal_clips_are_equal_files_with_their_frames(clip, saved, tmp_path):
    again = clip.save(tmp_path / "again.mp4", fps=8, lossless=True)
    assert again.read_bytes() == saved.read_bytes()
    assert np.array_equal(read_video(saved)[0], clip.frames)
    with pytest.raises(FileExistsError):
        clip.save(saved, fps=8)
    with pytest.raises(ValueError, match=r"saved as \.mp4"):
        clip.save(tmp_path / "clip.gif", fps=8)


def test_it_is_shown(saved, capsys):
    assert main(["show", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "seed        18446744073709551615\n" in shown
    assert "pipeline    diffusers.LTXPipeline, ltx, 6 files\n" in shown
    assert "noise       pyramid-seed/keyed-v1, 12 draws\n" in shown
    assert main(["show", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_any_manifest(saved)


def test_other_commands_say_whose_it_is(saved, capsys):
    commands = {
        "diff": ["diff", str(saved), str(saved)],
        "extend": ["extend", str(saved), "--num-frames", "17"],
        "noise": ["verify", "--noise-only", str(saved)],
    }

    def rule(command):
        assert main(command) == 2
        assert "keyed" in capsys.readouterr().err

    check_cases({name: (command,) for name, command in commands.items()}, rule)
    with pytest.raises(ValueError, match="only show, verify, record and check read"):
        read_manifest(saved)


def test_it_is_verified_with_its_pipeline_and_with_its_folder(saved, loaded, folder, capsys):
    found = verify(saved, pipeline=loaded, progress=False)
    assert found.difference is None
    assert [(step.stage, step.note) for step in found.steps] == [
        ("weights", "6 files"),
        ("noise", "12 draws"),
        ("frames", "all frames"),
        ("file", "the pixels in the file, bit for bit"),
    ]
    assert found.environment == ()
    assert main(["verify", str(saved), "--model", str(folder), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("MATCH\n")


def test_the_first_difference_is_named(tampered, loaded):
    def other_seed(manifest):
        manifest["seed"] = "5"

    def other_frames(manifest):
        manifest["digests"]["frames"] = "0" * 64

    def fewer_draws(manifest):
        del manifest["ledger"][3]

    def other_weights(manifest):
        manifest["weights"][0]["sha256"] = "0" * 64

    def moved_line(manifest):
        manifest["ledger"][3]["site"]["line"] += 1

    cases = {
        "seed": (other_seed, "noise", r"draw 0: randn of 1x8x3x8x8 at .*pipeline_ltx.py:501, .* now"),
        "frames": (other_frames, "frames", r"all frames: 0000000000000000\.\.\. against"),
        "draws": (
            fewer_draws,
            "noise",
            r"draw 3: randn of 8x8 at .*_ltx.py:166, .* then, .*_ltx.py:182, .* now",
        ),
        "weights": (other_weights, "weights", "file vae/config.json: 0000000000000000"),
    }

    def rule(change, stage, note):
        difference = verify(tampered(change), pipeline=loaded, progress=False).difference
        assert difference.stage == stage
        assert re.search(note, difference.note)

    check_cases(cases, rule)
    assert verify(tampered(moved_line), pipeline=loaded, progress=False).difference is None


def test_what_is_no_manifest_of_ours_is_refused_by_field(tampered, capsys):
    def change(*keys, value):
        def apply(manifest):
            for key in keys[:-1]:
                manifest = manifest[key]
            manifest[keys[-1]] = value

        return apply

    cases = {
        "seed must be a whole number": change("seed", value="-1"),
        "settings.num_frames must be a whole number >= 1": change("settings", "num_frames", value=0),
        "noise scheme 'pyramid-seed/keyed-v9'": change("noise_scheme", value="pyramid-seed/keyed-v9"),
        "schema version 2": change("schema_version", value=2),
        "ledger[0].library: invalid enum value 'cuda'": change("ledger", 0, "library", value="cuda"),
        "pipeline.type must be text": change("pipeline", "type", value=3),
        "components[...].dtype must be text": change("pipeline", "components", "vae", "dtype", value=3),
    }

    def rule(message, change):
        assert main(["show", str(tampered(change))]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error

    check_cases({message: (message, change) for message, change in cases.items()}, rule)


def test_a_manifest_that_names_no_dtype_is_refused(tampered, folder):
    def change(manifest):
        manifest["pipeline"]["components"]["vae"]["dtype"] = "save"

    with pytest.raises(ValueError, match="must name dtypes of torch, got 'save'"):
        verify(tampered(change), model=folder, progress=False)


def test_what_is_missing_to_make_it_again_is_refused(saved, loaded, folder):
    refusals = {
        "say where it is here: --model FOLDER": {},
        "noise_only does not apply": {"pipeline": loaded, "noise_only": True},
        "this pipeline is diffusers.WanPipeline": {"pipeline": made("Wan")[0]},
        "made without latents; leave it out": {"pipeline": loaded, "arguments": {"latents": 1}},
        "width is not that of the clip: 64, the manifest says 32": {
            "pipeline": loaded, "arguments": {"width": 64},
        },
    }  # fmt: skip

    def rule(message, given):
        with pytest.raises(ValueError, match=message):
            verify(saved, progress=False, **given)

    check_cases({message: (message, given) for message, given in refusals.items()}, rule)


def test_arguments_that_json_does_not_hold_are_told_by_digest(loaded):
    """And must be given again, the very same."""
    call = made("LTX")[1]
    latents = torch.randn(1, 192, 8, generator=torch.Generator().manual_seed(0))
    image = Image.new("RGB", (2, 2))
    assert is_told_by_digest(told([1, {"a": image}]))
    assert told(image) != told(Image.new("RGB", (2, 2), (0, 0, 1)))
    assert not is_told_by_digest(told({"a": [1, None, "b", 0.5, (True,)]}))
    assert is_told_by_digest(told(float("nan")))
    (clip,) = keyed(loaded)(**call, seed=1, latents=latents).clips
    manifest = clip.manifest(8)
    json.dumps(manifest, allow_nan=False)
    with pytest.raises(ValueError, match=r"latents = \{.*torch.Tensor.*give it"):
        verify(manifest, pipeline=loaded, progress=False)
    with pytest.raises(ValueError, match="latents is not that of the clip"):
        verify(manifest, pipeline=loaded, progress=False, arguments={"latents": latents + 1})
    assert (
        verify(manifest, pipeline=loaded, progress=False, arguments={"latents": latents}).difference is None
    )


@pytest.mark.slow
def test_the_audit_of_a_folder_ends_in_a_status(folder, capsys):
    assert main(["audit", str(folder), "--argument", *ARGUMENTS]) == 1
    out = capsys.readouterr().out
    assert (
        "leak        diffusers/models/autoencoders/autoencoder_kl_ltx.py:166 (forward): randn of 8x8" in out
    )
    assert out.endswith(
        "NOT A FUNCTION OF ITS SEED: 2 leaks, globals: clip 0 differs, batch: clip 0 differs\n"
    )
    assert main(["audit", str(folder), "--keyed", "--argument", *ARGUMENTS]) == 0
    out = capsys.readouterr().out
    assert "leak" not in out
    assert out.endswith("A FUNCTION OF ITS SEED\n")
    assert main(["audit", str(folder), "--argument", "frames=3"]) == 2
    with pytest.raises(SystemExit):
        main(["audit", str(folder), "--argument", "frames"])
    assert "an argument must be NAME=JSON, got 'frames'" in capsys.readouterr().err


# ---- golden records


def test_a_record_holds_and_names_the_first_draw_or_frame_that_moved(clip, loaded, tmp_path):
    path = tmp_path / "boat.json"
    write_record(path, record_of(clip))
    record = read_record(path)
    assert "fps" not in record.manifest["settings"]
    assert len(record.indices) == 9
    assert str(compare_with_record(record, clip)) == "the same, bit for bit"

    (other,) = keyed(loaded)(**made("LTX")[1], seed=5).clips
    found = str(compare_with_record(record, other))
    assert found.startswith("the first stage that moved is noise, draw 0: randn of 1x8x3x8x8 at ")
    assert "settings: seed: '18446744073709551615' then, '5' now" in found

    frames = clip.frames.copy()
    frames[4:, 0, 0, 0] ^= 1
    moved = compare_with_record(record, replace(clip, frames=frames)).moved
    assert moved.stage == "frames"
    assert moved.note.endswith(", of the recorded ones first in frame 4")


def test_records_are_of_one_kind_and_have_frames(clip):
    with pytest.raises(ValueError, match=r"made by keyed\(\) and one was not"):
        diff_records(clip.manifest(), {"schema": "pyramid-seed/manifest"})
    with pytest.raises(ValueError, match="no frames to record"):
        record_of(replace(clip, frames=None))


@pytest.mark.slow
def test_record_and_check_make_it_again_from_its_folder(saved, folder, tmp_path, capsys):
    path = str(tmp_path / "boat.json")
    again = ["--model", str(folder), "--quiet", "--device", "cpu"]
    assert main(["record", str(saved), "-o", path, *again]) == 0
    assert capsys.readouterr().out.split() == ["file", path]
    assert main(["check", path, *again]) == 0
    assert capsys.readouterr().out == "SAME: the same, bit for bit\n"
    assert main(["check", path]) == 2
    assert "say where it is here: --model FOLDER" in capsys.readouterr().err
    assert main(["show", path]) == 0
    assert "clip        9 frames of 32x32\n" in capsys.readouterr().out


def test_the_plugin_takes_it(clip, pytester, monkeypatch):
    monkeypatch.setattr(test_testing, "make", lambda: clip, raising=False)
    pytester.makepyfile(test_inner=test_testing.TEST)
    options = ["-p", "pyramid_seed.testing"]
    pytester.runpytest_inprocess(*options, "--clip-regression-renew").assert_outcomes(passed=1)
    frames = clip.frames.copy()
    frames[8] ^= 1
    monkeypatch.setattr(test_testing, "make", lambda: replace(clip, frames=frames))
    failed = pytester.runpytest_inprocess(*options)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*test_style.json: the first stage that moved is frames, *first in frame 8"])
