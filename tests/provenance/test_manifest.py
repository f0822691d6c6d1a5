"""The manifest: what it holds, that it survives in a file, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from pyramid_seed import generate
from pyramid_seed.files import file_digest
from pyramid_seed.media.video import read_comment, read_video, write_video
from pyramid_seed.noise import SCHEME, Branch, NoiseLedger
from pyramid_seed.provenance.manifest import (
    SCHEMA_VERSION,
    check_manifest,
    chunk_digests,
    geometry_of,
    manifest_json,
    read_manifest,
    recipe_of,
    stage_root,
    unit_digests,
)
from pyramid_seed.provenance.merkle import merkle_root
from tests.cases import check_cases
from tests.conftest import REFERENCE


def test_it_says_what_was_asked_for_and_what_came_out(made):
    manifest = made.manifest
    assert (manifest["schema"], manifest["schema_version"]) == ("pyramid-seed/manifest", 2)
    assert manifest["noise_scheme"] == SCHEME
    assert manifest["seed"] == "18446744073709551615"
    assert manifest["settings"]["num_inference_steps"] == [1, 1, 1]
    assert manifest["settings"]["negative_prompt"] == made.settings.negative_prompt
    assert manifest["settings"]["model"] == "miniflux-tiny"
    assert manifest["model"] == {"kind": "folder", "name": "miniflux-tiny", "revision": None}
    assert NoiseLedger.from_list(manifest["ledger"]) == made.ledger
    assert manifest["digests"]["frames"] == made.digest
    assert manifest["digests"]["text"] == made.text_digests
    assert manifest["environment"] == made.environment
    assert manifest["geometry"] == {
        "num_units": 2,
        "latent_channels": 16,
        "spatial_factor": 8,
        "temporal_factor": 8,
        "patch_size": 2,
        "num_stages": 3,
    }


def test_no_absolute_path_is_told(made):
    assert str(REFERENCE) not in manifest_json(made.manifest)


def test_weights_are_the_files_of_the_variant(made):
    rows = {row["file"]: row for row in made.manifest["weights"]}
    names = {str(path.relative_to(REFERENCE / "miniflux-tiny")) for path in made.source.folder.rglob("*.*")}
    assert set(rows) == names
    file = made.source.folder / "tokenizer_2/spiece.model"
    assert rows["tokenizer_2/spiece.model"] == {
        "file": "tokenizer_2/spiece.model",
        "size": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_weights_of_a_saved_pipeline_are_its_files(quick, tmp_path):
    from pyramid_seed.checkpoints.source import read_source
    from pyramid_seed.loading import load_pipeline

    load_pipeline(quick["model"], variant="384p", device="cpu").save_pretrained(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    names.remove("pipeline.py")  # for diffusers: no code of a folder is run
    (tmp_path / "README.md").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "prompts.txt").touch()
    assert set(read_source(tmp_path).files) == names
    clip = generate("a boat", seed=1, **quick | {"model": str(tmp_path), "variant": None})
    assert {row["file"] for row in clip.manifest["weights"]} == names


def test_a_pipeline_given_by_hand_is_not_taken_for_the_presets_model(quick):
    from pyramid_seed.loading import load_pipeline

    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    settings = {name: value for name, value in quick.items() if name not in ("model", "variant")}
    clip = generate("a boat", seed=1, pipeline=pipeline, **settings)
    assert (clip.settings.model, clip.settings.variant) == (quick["model"], "384p")
    pipeline.source = None
    unknown = generate("a boat", seed=1, pipeline=pipeline, **settings).manifest
    assert (unknown["model"]["kind"], unknown["settings"]["model"], unknown["weights"]) == (
        "unknown",
        None,
        None,
    )
    check_manifest(json.loads(manifest_json(unknown)), "here")


def test_the_last_stage_is_the_unit(made):
    digests = made.manifest["digests"]
    assert [len(stages) for stages in digests["stages"]] == [3, 3]
    assert [stages[-1] for stages in digests["stages"]] == digests["units"]


def test_the_root_is_over_all_stages_in_causal_order(made):
    digests = made.manifest["digests"]
    leaves = [bytes.fromhex(digest) for stages in digests["stages"] for digest in stages]
    assert len(leaves) == 6
    assert digests["root"] == merkle_root(leaves)
    # A unit whose stages are not known, or that an image gave, is one leaf itself.
    one, two = digests["stages"]
    for none in (None, []):
        leaves = [bytes.fromhex(digest) for digest in (one[-1], *two)]
        assert stage_root([none, two], digests["units"]) == merkle_root(leaves)


def test_a_manifest_of_version_1_has_no_root_and_is_read(made):
    digests = {name: value for name, value in made.manifest["digests"].items() if name != "root"}
    check_manifest(made.manifest | {"schema_version": 1, "digests": digests}, "here")


def test_digests_of_units_and_chunks_can_be_recomputed_by_anybody(made):
    for unit, digest in enumerate(unit_digests(made.latents)):
        data = made.latents[:, :, unit : unit + 1].numpy().astype("<f4").tobytes()
        assert digest == hashlib.sha256(data).hexdigest()
    pieces = [made.frames[:1], made.frames[1:9]]
    assert chunk_digests(made.frames, made.geometry) == [
        hashlib.sha256(each.tobytes()).hexdigest() for each in pieces
    ]


def test_one_frame_is_one_chunk(made):
    assert len(chunk_digests(np.zeros((1, 2, 2, 3), np.uint8), made.geometry)) == 1


def test_the_recipe_comes_back(made):
    recipe = recipe_of(json.loads(manifest_json(made.manifest)))
    assert (recipe.prompt, recipe.seed, recipe.branches) == (made.prompt, made.seed, made.branches)
    assert recipe.settings.num_inference_steps == made.settings.num_inference_steps
    assert recipe.settings.guidance_scale == made.settings.guidance_scale
    assert geometry_of(made.manifest) == made.geometry


def test_manifests_from_before_the_choice_are_of_the_reference_path(made):
    before = {name: value for name, value in made.manifest.items() if name not in ("attention", "compiled")}
    check_manifest(before, "here")
    recipe = recipe_of(before)
    assert (recipe.attention, recipe.compiled) == ("reference", False)


NASTY = {
    "quotes": "a \"red\" 'circle' \\ \\n",
    "newlines": "one\ntwo\r\n\tthree\x00\x1b[31m",
    "emoji": "🎈 👨‍👩‍👧 Ω ß 中文 \u202e",
    "long": 'x🎈\n"' * 1000,
    "lone surrogate": "a \udc80 b",
    "like metadata": ";FFMETADATA1\n[CHAPTER]\ncomment=x\\=#",
    "empty": "",
}


def test_any_prompt_survives_in_an_mp4(made, tmp_path):
    def rule(prompt):
        manifest = made.manifest | {"prompt": prompt}
        path = tmp_path / "clip.mp4"
        write_video(path, made.frames, 8, comment=manifest_json(manifest), overwrite=True)
        assert read_manifest(path) == manifest

    check_cases(NASTY, rule)


def test_a_long_prompt_is_generated_saved_and_read_back(quick, tmp_path):
    prompt = NASTY["long"]
    path = generate(prompt, seed=1, **quick).save(tmp_path / "clip.mp4")
    assert read_manifest(path)["prompt"] == prompt
    assert len(prompt) == 4000


def test_json_is_canonical(made):
    text = manifest_json(made.manifest)
    assert text == manifest_json(dict(reversed(made.manifest.items())))
    assert "\n" not in text
    assert json.loads(text) == made.manifest
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest_json({"value": float("nan")})


def test_it_is_found_inside_or_beside(made, saved, tmp_path):
    inside, beside = read_manifest(saved), read_manifest(saved.with_suffix(".json"))
    assert inside == json.loads(read_comment(saved))
    own = {"file": inside["file"] | {"sha256": file_digest(saved)}, "timings": made.manifest["timings"]}
    assert "timings" not in inside
    assert beside == inside | own
    gif = made.save(tmp_path / "clip.gif", sidecar=True)
    shown = {"ending": ".gif", "scale": 2, "lossless": False, "sha256": file_digest(gif)}
    assert read_manifest(gif)["file"] == shown
    gif.write_bytes(gif.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"clip\.json is the manifest of another file than .*clip\.gif"):
        read_manifest(gif)
    pictures = made.save(tmp_path / "frames.png", sidecar=True)
    assert pictures.is_dir()
    assert read_manifest(pictures)["file"]["lossless"]
    stripped = tmp_path / "stripped.mp4"
    write_video(stripped, made.frames, 8)
    with pytest.raises(ValueError, match=r"holds no manifest, and there is no stripped.json beside it"):
        read_manifest(stripped)
    stripped.with_suffix(".json").write_text(manifest_json(made.manifest), encoding="utf-8")
    assert read_manifest(stripped) == made.manifest


def test_what_is_not_ours_is_refused(made, tmp_path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_manifest(path)
    write_video(path, made.frames, 8, comment="my holiday")
    with pytest.raises(ValueError, match=r"no manifest of pyramid-seed, but 'my holiday'"):
        read_manifest(path)
    write_video(path, made.frames, 8, comment='{"schema": "else"}', overwrite=True)
    with pytest.raises(ValueError, match="holds no manifest of pyramid-seed"):
        read_manifest(path)


def test_json_that_is_deep_or_large_is_refused(made, tmp_path):
    path = tmp_path / "clip.json"
    contents = {"deep": "[" * 100_000, "large": " " * 2**25 + " ", "binary": b"\xff", "number": "1" * 5000}
    contents["deep inside"] = '{"schema": ' + "[" * 900 + "]" * 900 + "}"

    def is_refused(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=r"clip\.json (holds no manifest|must be at most)"):
            read_manifest(path)

    check_cases(contents, is_refused)
    write_video(tmp_path / "clip.mp4", made.frames, 8, comment=contents["deep"])
    with pytest.raises(ValueError, match=r"clip\.mp4 holds no manifest of pyramid-seed"):
        read_manifest(tmp_path / "clip.mp4")


def test_a_newer_schema_is_refused_with_advice(made):
    newer = made.manifest | {"schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(
        ValueError, match=r"schema version 3, this pyramid-seed .* reads up to 2; install a newer"
    ):
        check_manifest(newer, "clip.mp4")


DAMAGED = [
    (("schema_version",), "1", "schema_version must be a whole number of at least 1, got '1'"),
    (("seed",), 5, "seed must be text, got 5"),
    (("seed",), "-5", "seed must be a whole number in 0 .. 2**64 - 1, got '-5'"),
    (("seed",), str(2**64), "seed must be a whole number in 0 .. 2**64 - 1"),
    (("seed",), "\u0663", "seed must be a whole number in 0 .. 2**64 - 1"),
    (("branches",), [{"from_unit": 1}], "branches[0].seed is missing"),
    (("weights",), ["x"], "weights[0] must be an object, got 'x'"),
    (
        ("loras",),
        [{"file": "x", "size": 1, "sha256": "", "adapter": "x", "scale": "1"}],
        "loras[0].scale must be",
    ),
    (("image_sha256",), 5, "image_sha256 must be text or null, got 5"),
    (("video",), {"sha256": "x", "num_frames": 0}, "video.num_frames must be a whole number >= 1, got 0"),
    (("video",), {"sha256": "x", "num_frames": 9}, "video only with a geometry of unit_frames"),
    (("attention",), None, "attention must be text, got None"),
    (("compiled",), "no", "compiled must be true or false, got 'no'"),
    (("digests", "units"), [], "num_frames makes 2 units"),
    (("digests", "chunks"), None, "digests.chunks must be a list, got None"),
    (("digests", "text"), {"prompt": 5}, "digests.text[...] must be text, got {'prompt': 5}"),
    (("digests", "stages"), [None], "stages, units and chunks are [2, 1, 2, 2]"),
    (("digests", "stages"), [None, []], "digests.stages[1] must be 3 texts or null, got []"),
    (("digests", "stages"), [["x", "x", 5], None], "digests.stages[0][2] must be text, got 5"),
    (("digests", "stages", 0, 1), "f" * 64, "digests.root must be "),
    (("digests", "stages", 1), None, "that of its stages, got "),
    (("digests", "stages", 1, 1), "0" * 63, "must be SHA-256, 64 digits of 0-9a-f, got '000"),
    (("digests", "units", 1), "0" * 64, "the last of digests.stages[1] must be that of the unit, '00000"),
    (("digests", "root"), None, "that of its stages, got None"),
    (("digests", "root"), 5, "digests.root must be text or null, got 5"),
    (("digests", "stages"), ["xyz", None], "digests.stages[0] must be a list or null, got 'xyz'"),
    (("geometry", "num_units"), True, "geometry.num_units must be a whole number, got True"),
    (("geometry", "temporal_factor"), 0, "temporal_factor must be at least 1"),
    (("settings", "num_frames"), 17, "num_frames makes 3 units"),
    (("settings", "guidance_scale"), "high", "guidance_scale must be a number of at least 0, got 'high'"),
    (("settings", "speed"), 3, "not those of this version: unknown key 'speed'"),
    (("ledger",), [{"stream": "initial"}], "a ledger row must have the fields"),
    (("ledger", 0, "shape"), 5, "shape of a ledger row must be a list of whole numbers, got 5"),
    (("ledger", 0, "sha256"), None, "sha256 of a ledger row must be text, got None"),
    (("geometry", "latent_channels"), 10**9, "latent_channels must be a whole number <= 4096, got 10000"),
    (("geometry", "num_stages"), 10**6, "num_stages must be a whole number <= 16, got 1000000"),
    (("environment", "packages"), "all", "environment.packages must be an object, got 'all'"),
    (("environment", "device"), [], "environment.device must be an object, got []"),
    (("timings", "seconds"), "1", "timings.seconds must be a number, got '1'"),
    (("timings",), {}, "timings.load_seconds is missing"),
    (("file",), {"scale": 0}, "file.scale must be a whole number >= 1, got 0"),
    (("file",), 5, "file must be an object or null, got 5"),
    (("settings", "height"), 10**6, "height must be a whole number of at least 1 and at most 8192"),
]


def test_a_damaged_manifest_is_refused_and_the_field_named(made):
    def is_refused(path, value, message):
        manifest = json.loads(manifest_json(made.manifest))
        *parents, last = path
        inner = manifest
        for name in parents:
            inner = inner[name]
        inner[last] = value
        with pytest.raises(ValueError, match=f"^clip.mp4.*{re.escape(message)}"):
            check_manifest(manifest, "clip.mp4")

    check_cases(DAMAGED, is_refused)


def test_a_missing_field_is_named(made):
    def rule(field):
        manifest = {name: value for name, value in made.manifest.items() if name != field}
        with pytest.raises(ValueError, match=f"clip.mp4 holds a damaged manifest: {field} is missing"):
            check_manifest(manifest, "clip.mp4")

    check_cases(["prompt", "settings", "ledger", "digests", "environment", "weights"], rule)
    settings = {name: value for name, value in made.manifest["settings"].items() if name != "fps"}
    with pytest.raises(ValueError, match="settings are not those of this version: missing fps"):
        check_manifest(made.manifest | {"settings": settings}, "clip.mp4")


def test_it_tells_what_the_clip_holds(made):
    latents, stages = torch.zeros(1, 16, 1, 8, 8), (("0" * 64,) * 3,)
    other = replace(made, latents=latents, stage_digests=stages, load_seconds=0.12345, seconds=1)
    assert other.manifest["timings"] == {"load_seconds": 0.123, "seconds": 1}
    assert other.manifest["digests"]["units"] == [hashlib.sha256(bytes(4 * 16 * 64)).hexdigest()]


def test_seeds_keep_all_their_bits(quick):
    branches = (Branch(1, 2**64 - 2),)
    clip = generate("a boat", seed=2**63 + 1, branches=branches, **quick)
    again = recipe_of(json.loads(manifest_json(clip.manifest)))
    assert (again.seed, again.branches) == (2**63 + 1, branches)


def test_the_tag_of_every_container_is_read(saved, tmp_path, monkeypatch):
    """As a copy under another ending, as other tools write them anew, and under a name with a colon."""
    manifest = read_manifest(saved)
    monkeypatch.chdir(tmp_path)
    for name in ("a.m4v", "a.mov", "a.MP4", "a", "2025-07-02T13:21:50.mp4", "file:x.mp4", "a%03d.mp4"):
        shutil.copy(saved, name)
        assert read_manifest(name) == manifest, name
        assert len(read_video(name)[0]) == manifest["settings"]["num_frames"]
    for name in ("b.mov", "b.m4v", "b.mkv"):
        with av.open(str(saved)) as source, av.open(name, "w") as copy:
            copy.metadata["comment"] = source.metadata["comment"]
            stream = copy.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    copy.mux(packet)
        assert read_manifest(name) == manifest, name
