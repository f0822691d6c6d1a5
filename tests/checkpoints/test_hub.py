"""From a hub to a model: the real client, a hub on this machine, and every way in which one can fail."""

from __future__ import annotations

import json
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from pyramid_seed import encode_prompts, generate
from pyramid_seed.checkpoints import hub as hub_module
from pyramid_seed.checkpoints.pickles import converted_folder
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.cli import main
from pyramid_seed.loading import load_pipeline
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.cases import check_cases
from tests.conftest import REFERENCE
from tests.stand_in_hub import COMMIT, StandInHub, ask_hub

VAE = "causal_video_vae/diffusion_pytorch_model"
TRANSFORMER = "diffusion_transformer_384p/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A checkpoint as miniFLUX is published: three variants, the VAE a pickle, and a file nobody needs."""
    folder = Path(shutil.copytree(REFERENCE / "miniflux-tiny", tmp_path_factory.mktemp("hub") / "model"))
    torch.save(load_file(folder / f"{VAE}.safetensors"), folder / f"{VAE}.bin")
    (folder / f"{VAE}.safetensors").unlink()
    for variant in ("768p", "image"):
        other = folder / f"diffusion_transformer_{variant}"
        other.mkdir()
        shutil.copy(folder / "diffusion_transformer_384p" / "config.json", other)
        (other / "diffusion_pytorch_model.safetensors").write_bytes(b"of another variant")
    (folder / "README.md").write_text("# a model")
    return folder


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """A hub with owner/name, and a user who has nothing yet."""
    standing = StandInHub({"owner/name": published})
    with standing.serve() as endpoint:
        ask_hub(endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(hub_module, "_PAUSE", 0.0)
        huggingface_hub.utils.close_session()
        yield standing
        huggingface_hub.utils.close_session()


def read(**options):
    return read_source("owner/name", **{"variant": "384p", **options})


def written(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def sentence(error: BaseException) -> str:
    """The error's message, if it is one that people are to see."""
    text = str(error)
    assert "\n" not in text, text
    assert len(text) < 400, text
    return text


def told(call, *words: str) -> str:
    """What an error says that must be one sentence with these words in it."""
    with pytest.raises(OSError) as error:  # noqa: PT011 - the words are checked
        call()
    text = sentence(error.value)
    assert not [word for word in words if word not in text], text
    return text


# What arrives


def test_one_command_makes_a_clip_and_the_next_fetches_and_converts_nothing(hub, tmp_path, capsys):
    shared_pipeline.clear()
    command = ["generate", "a boat", "--seed", "1", "--model", "owner/name", "--variant", "384p", "--quiet"]
    command += ["--height", "64", "--width", "64", "--num-frames", "9", "--num-inference-steps", "1"]
    command += ["--fps", "8", "--guidance-scale", "2", "--max-sequence-length", "32"]
    assert main([*command, "-o", str(tmp_path / "a.mp4")]) == 0
    assert len(hub.files) == len(set(hub.files)) == 14
    assert not [name for name in hub.files if "768p" in name or "image" in name or name == "README.md"]
    assert f"{VAE}.bin" in hub.files
    hub.heal()
    shared_pipeline.clear()
    kept = [tmp_path / "hub", converted_folder()]
    before = [written(folder) for folder in kept]
    capsys.readouterr()
    assert main([*command, "-o", str(tmp_path / "b.mp4")]) == 0
    assert [path for _, path, _ in hub.requests] == ["/api/models/owner/name"]
    assert [written(folder) for folder in kept] == before
    assert capsys.readouterr().err == ""
    manifest = read_manifest(tmp_path / "b.mp4")
    assert manifest["model"] == {"kind": "hub", "name": "owner/name", "revision": COMMIT}
    (row,) = [row for row in manifest["weights"] if "converted_sha256" in row]
    assert row["file"] == f"{VAE}.bin"
    # Made again from the name and the commit in the manifest.
    assert main(["verify", str(tmp_path / "a.mp4"), "--quiet"]) == 0
    assert main(["diff", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]) == 0
    assert hub.files == []


def test_text_encoders_and_the_rest_are_downloaded_apart(hub, tmp_path):
    """Only for texts, only for clips of texts that are encoded: no file is asked for twice, or in vain."""
    shared_pipeline.clear()
    settings = {"model": "owner/name", "variant": "384p", "preset": "tiny", "progress": False}
    encoded = encode_prompts(["a boat"], **settings)
    of_text = {name for name in hub.files if name.startswith(("text_encoder", "tokenizer"))}
    assert {name for name in hub.files if name.endswith((".safetensors", ".bin"))} == {
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
    }
    hub.heal()
    size = {"height": 64, "width": 64, "num_frames": 1, "num_inference_steps": 1, "scale": 1}
    clip = generate("a boat", seed=1, prompt_embeds=encoded, **settings, **size)
    assert not of_text & set(hub.files)
    assert of_text < {row["file"] for row in clip.weights}


def test_what_is_here_needs_no_hub(hub, monkeypatch, caplog):
    folder = read().folder
    hub.heal()
    assert read(local_files_only=True).folder == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read().folder == folder
    assert hub.requests == []
    told(lambda: read(variant="768p"), "incomplete, and HF_HUB_OFFLINE is set: run this", "no variant '768p'")
    told(lambda: read(revision="v2"), "owner/name at v2 is missing here, or incomplete")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fail = lambda handler: handler.answer(503) or True
    assert read().folder == folder
    assert f"using commit {COMMIT[:12]} of owner/name, which is here" in caplog.text


def test_a_cache_that_cannot_be_written_is_enough_once_all_is_there(hub, tmp_path):
    source = read()
    (tmp_path / "hub" / "models--owner--name" / "refs" / "main").unlink()
    (tmp_path / "hub" / "models--owner--name" / "refs").rmdir()
    (tmp_path / "hub" / "models--owner--name" / "refs").touch()  # no folder: nothing can be written in it
    assert read().files == source.files


def test_the_clients_cache_is_shared_both_ways(hub, tmp_path):
    cached = Path(huggingface_hub.hf_hub_download("owner/name", TRANSFORMER, revision=COMMIT))
    hub.heal()
    folder = read().folder
    assert TRANSFORMER not in hub.files
    assert cached == folder / TRANSFORMER
    hub.heal()
    assert huggingface_hub.hf_hub_download("owner/name", f"{VAE}.bin") == str(folder / f"{VAE}.bin")
    assert [method for method, _, _ in hub.requests] == ["HEAD"]
    (repository,) = huggingface_hub.scan_cache_dir().repos
    assert repository.size_on_disk == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_processes_that_start_together_fetch_each_file_once(hub):
    with ThreadPoolExecutor(3) as pool:  # locks are between open files, so threads are like processes here
        folders = [future.result().folder for future in [pool.submit(read) for _ in range(3)]]
    assert len(set(folders)) == 1
    assert len(hub.files) == len(set(hub.files)) == 14


def test_half_a_snapshot_of_the_client_is_seen(hub):
    names = [name for name in read().files if name != "tokenizer/tokenizer_config.json"]
    shutil.rmtree(constants.HF_HUB_CACHE)
    folder = Path(huggingface_hub.snapshot_download("owner/name", allow_patterns=names))
    told(
        lambda: read(local_files_only=True),
        "local_files_only is set",
        "1 of 14 files, tokenizer/tokenizer_config.json",
    )
    assert read().folder == folder


def test_a_mirror_that_lists_no_sizes(hub, published):
    def forget(rows):
        for row in rows:
            if "rfilename" in row:
                del row["size"], row["blobId"]
                row.pop("lfs", None)

    hub.change_listing = forget
    assert (read().folder / f"{VAE}.bin").read_bytes() == (published / f"{VAE}.bin").read_bytes()


def test_a_revision_that_save_pretrained_wrote_and_shards(hub, tmp_path):
    load_pipeline(REFERENCE / "miniflux-tiny", device="cpu").save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vae" / "notes.md").touch()
    hub.repositories["owner/saved"] = tmp_path / "saved"
    source = read_source("owner/saved")
    assert source.layout == "diffusers"
    assert sorted(hub.files) == list(source.files)
    sharded = Path(shutil.copytree(REFERENCE / "miniflux-tiny", tmp_path / "sharded"))
    part = sharded / "text_encoder_2"
    (part / "model.safetensors").rename(part / "mine.safetensors")
    (part / "model.safetensors.index.json").write_text(
        '{"weight_map": {"shared.weight": "mine.safetensors"}}'
    )
    hub.repositories["owner/sharded"] = sharded
    assert "text_encoder_2/mine.safetensors" in read_source("owner/sharded").files


def test_a_repository_is_refused_before_its_weights_are_downloaded(hub, published, tmp_path):
    other = Path(shutil.copytree(published, tmp_path / "other"))
    (other / "causal_video_vae" / "config.json").write_text("{}")
    hub.repositories["owner/other"] = other
    cases = [
        (lambda: read(variant=None), "owner/name has the variants 384p, 768p, image; name one"),
        (lambda: read_source("owner/other", variant="large"), "variant must be one of"),
    ]

    def rule(call, message):
        with pytest.raises(ValueError, match=message):
            call()

    check_cases(cases, rule)
    assert hub.files == []


def test_what_a_model_cannot_make_is_refused_before_its_weights_are_downloaded(hub, tmp_path, capsys):
    """Settings that it needs, and sizes that it does not know; read from its configs alone."""
    configs = [
        "causal_video_vae/config.json",
        "diffusion_transformer_384p/config.json",
        "text_encoder_2/config.json",
    ]
    needed = {"height": 64, "width": 64, "num_frames": 9, "fps": 8, "num_inference_steps": 1}
    needed |= {"guidance_scale": 1.0, "max_sequence_length": 32}
    model = {"model": "owner/name", "variant": "384p"}
    asks = r"no preset knows miniflux, .*: name the settings that it needs \("
    asked = f"{', '.join(needed)}), or a preset"
    arguments = ["--model", "owner/name", "--variant", "384p", "-o", str(tmp_path / "clips")]
    with_size = arguments + [f"--{name.replace('_', '-')}={value}" for name, value in needed.items()]
    no_size = needed | {"height": 100}
    rows = [json.dumps({"prompt": "a", **model, **values}) for values in (needed, {"fps": 8})]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))

    def rule(call, message):
        shared_pipeline.clear()
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        hub.heal()
        if isinstance(call, list):
            assert main(call) == 2
            told = capsys.readouterr().err
        else:
            with pytest.raises(ValueError, match=asks if call == {} else "height") as error:
                generate("a boat", progress=False, **model, **call)
            told = str(error.value)
        assert message in told, told
        assert sorted(hub.files) == configs
        kept = [path for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()]
        assert {path.name for path in kept if "snapshots" in path.parts} == {"config.json"}
        assert max(path.stat().st_size for path in kept) < 10_000

    fix = "height must be a multiple of 64, got 100; use 64 or 128"
    check_cases(
        {
            "Python": ({}, asked),
            "Python, size": (no_size, fix),
            "generate": (["generate", "a boat", *arguments], asked),
            "generate, size": (["generate", "a boat", *with_size, "--height=100"], fix),
            "batch": (
                ["batch", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "clips")],
                "line 2: no pr",
            ),
        },
        rule,
    )
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("hub", "cache")] == ["list.jsonl"]


def test_rows_of_a_batch_go_on_without_a_model_that_the_hub_does_not_give(hub, tmp_path, capsys):
    hub.fail = on_file(answers(404))
    of_hub = {"model": "owner/name", "variant": "384p", "height": 64, "width": 64}
    rows = [json.dumps({"prompt": "a", "preset": "tiny", **model}) for model in (of_hub, {})]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    few = ["--num-inference-steps", "1", "--num-frames", "1", "--quiet"]
    command = ["batch", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "clips"), *few]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "did not deliver a file of owner/name (404)" in told
    assert not (tmp_path / "clips").exists()
    assert main([*command, "--keep-going"]) == 1
    assert "line 1: http" in capsys.readouterr().err
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 1


def test_a_listing_with_names_that_lead_elsewhere(hub, tmp_path):
    def mislead(rows):
        rows.extend(
            {**rows[0], "rfilename": f"tokenizer/{name}"}
            for name in ("../../evil.json", "a/b.json", ".x.json")
        )

    hub.change_listing = mislead
    assert len(read().files) == 14
    hub.change_listing = lambda rows: rows[0].update(blobId="../../evil", lfs=None)
    told(
        lambda: read(cache_dir=tmp_path / "other"),
        "does not answer as a hub does: '../../evil' is not a digest",
    )


# Ways to fail, told in one sentence. What has arrived stays.


def answers(status, **headers):
    return lambda handler: (
        handler.answer(status, b"<html>" * 9, {k.replace("_", "-"): v for k, v in headers.items()}) or True
    )


def on_file(fail, name=TRANSFORMER):
    """The failure of one file only."""
    return lambda handler: name in handler.path and fail(handler)


def test_every_refusal_of_a_hub_is_one_sentence(hub, monkeypatch):
    gated = (
        answers(403, X_Error_Code="GatedRepo"),
        ["request it at http", "/owner/name, then log in with `hf auth"],
    )
    forbidden = answers(403), ["refuses access to owner/name (403)", "with a token that may read it"]
    busy = (
        answers(429, Retry_After="20"),
        ["too many requests", "run the same command again in 20 s"],
    )
    away = answers(503), ["is failing at the moment (503)", "run the same command again"]
    silent = (lambda handler: handler.hub.stopped.wait(2) or True), ["did not answer in time"]
    hung_up = (
        (lambda handler: setattr(handler, "close_connection", True) or True),
        ["broke off; what has arrived"],
    )
    listing = {
        "gated": gated,
        "not there": (
            answers(404, X_Error_Code="RepoNotFound"),
            ["has no model owner/name", "check the spelling"],
        ),
        "no such page": (answers(404), ["has no model owner/name"]),
        "private": (answers(401), ["has no model owner/name, or hides it", "HF_TOKEN"]),
        "bad token": (
            answers(401, X_Error_Message="Invalid credentials in Authorization header"),
            ["refuses access to owner/name (401)", "log in"],
        ),
        "forbidden": forbidden,
        "no revision": (answers(404, X_Error_Code="RevisionNotFound"), ["has no revision main on http"]),
        "busy": busy,
        "busy for long": (answers(429), ["too many requests", "in a few minutes"]),
        "broken": (answers(500), ["is failing at the moment (500)", "run the same command again"]),
        "away": away,
        "a login page": (answers(200), ["does not answer as a hub does (JSONDecodeError", "wants a login"]),
        "no hub": (lambda handler: handler.answer(200, b"{}") or True, ["as a hub does (KeyError"]),
        "silent": silent,
        "hung up": hung_up,
    }
    file = {
        "gated": gated,
        "forbidden": forbidden,
        "gone": (
            answers(404, X_Error_Code="EntryNotFound"),
            ["did not deliver a file of owner/name (404)"],
        ),
        "busy": busy,
        "away": away,
        "silent": silent,
        "hung up": hung_up,
        "a login page": (
            answers(200),
            [f"{TRANSFORMER} is not the file that was listed (54 bytes instead of"],
        ),
    }
    cases = {f"listing, {name}": case for name, case in listing.items()}
    cases |= {f"file, {name}": (on_file(fail), words) for name, (fail, words) in file.items()}

    def rule(fail, words):
        hub.fail = fail
        with monkeypatch.context() as patch:
            for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
                patch.setattr(constants, name, 0.2 if words == silent[1] else 10)
            told(read, *words)

    check_cases(cases, rule)
    hub.heal()
    assert read().family.name == "miniflux"
    assert hub.files == [TRANSFORMER, f"{VAE}.bin"], "the smaller ones had arrived"


def test_an_endpoint_that_is_down_is_told_at_once(hub, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        addresses = [
            f"http://127.0.0.1:{taken.getsockname()[1]}",
            "localhost",
            "http://[bad",
            "http://no.host.invalid",
        ]
        for address in addresses:
            monkeypatch.setattr(constants, "ENDPOINT", address)
            begun = time.monotonic()
            told(read, address, "HF_ENDPOINT")
            assert time.monotonic() - begun < 2


def test_a_connection_that_breaks_goes_on_from_what_has_arrived(hub, published):
    path = published / TRANSFORMER
    size = path.stat().st_size
    steps = iter([size // 3, size // 2])
    hub.fail = on_file(lambda handler: (count := next(steps, 0)) and (handler.break_off(path, count) or True))
    assert (read().folder / TRANSFORMER).read_bytes() == path.read_bytes(), "healed by itself"
    ranges = [part for _, asked, part in hub.requests if asked.endswith(TRANSFORMER)]
    assert ranges == [None, f"bytes={size // 3}-", f"bytes={size // 2}-"]

    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.heal()
    hub.fail = on_file(lambda handler: handler.break_off(path, size // 3) or True)
    told(read, "broke off; what has arrived is kept: run the same command again")
    hub.heal()
    assert (read().folder / TRANSFORMER).read_bytes() == path.read_bytes()
    (asked,) = (part for _, path, part in hub.requests if path.endswith(TRANSFORMER))
    assert asked == f"bytes={size // 3}-"


def test_a_server_that_knows_no_ranges_sends_all_again(hub, published):
    path = published / TRANSFORMER
    steps = iter([path.stat().st_size // 2])

    def forgetful(handler):
        if count := next(steps, 0):
            handler.break_off(path, count)
        else:
            handler.answer(200, path.read_bytes())
        return True

    hub.fail = on_file(forgetful)
    assert (read().folder / TRANSFORMER).read_bytes() == path.read_bytes()


def test_a_file_that_is_not_the_listed_one_is_thrown_away(hub, published):
    content = (published / TRANSFORMER).read_bytes()
    cases = [
        ("tokenizer/merges.txt", b"x" * 4, "4 bytes instead of"),
        (TRANSFORMER, bytes([content[0] ^ 1]) + content[1:], "its digest differs"),
        (TRANSFORMER, content + b"more", "bytes instead of"),
    ]

    def rule(name, other, why):
        hub.fail = on_file(lambda handler: handler.answer(200, other) or True, name)
        told(lambda: read(), f"{name} is not the file that was listed", why, "run the same command again")

    check_cases(cases, rule)
    hub.heal()
    assert (read().folder / TRANSFORMER).read_bytes() == content


def test_a_full_disk_and_a_cache_that_cannot_be_written(hub, tmp_path):
    hub.change_listing = lambda rows: [row["lfs"].update(size=10**16) for row in rows if "lfs" in row]
    told(read, "owner/name needs 50,000,000,000 MB in", "MB are free; make room there, or choose")
    hub.heal()
    partial = tmp_path / "hub" / "models--owner--name" / "blobs"
    read()
    (folder,) = (tmp_path / "hub" / "models--owner--name" / "snapshots").iterdir()
    blob = (folder / TRANSFORMER).resolve()
    (folder / TRANSFORMER).unlink()
    blob.unlink()
    (partial / f"{blob.name}.incomplete").symlink_to("/dev/full")
    told(read, "cannot be written (No space left on device); make room; what has arrived is kept")
    (partial / f"{blob.name}.incomplete").unlink()
    assert read()
    (tmp_path / "file").touch()
    told(
        lambda: read(cache_dir=tmp_path / "file" / "hub"),
        "cannot be written (",
        "choose a folder on another disk",
    )


# The commands


def test_fetch_and_models(hub, tmp_path, capsys, published):
    assert main(["models"]) == 0
    assert capsys.readouterr().out == "no models; `pyramid-seed fetch MODEL` downloads one\n"
    assert main(["fetch", "owner/name", "--variant", "384p"]) == 0
    assert f"revision    {COMMIT}\nfiles       14, " in capsys.readouterr().out
    hub.fail = on_file(answers(503), "768p/diffusion")
    assert main(["fetch", "owner/name", "--variant", "768p"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("pyramid-seed fetch: http")
    assert told.count("\n") == 1
    assert main(["models"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].startswith("owner/name ")
    assert "384p, 768p (in part)" in listed[0]
    assert f"revision {COMMIT[:12]}" in listed[0]
    assert f"{VAE}.bin" in listed[1]
    assert "converted" in listed[1]
    hub.heal()
    folder = tmp_path / "mine"
    assert main(["fetch", "owner/name", "--variant", "384p", "-o", str(folder)]) == 0
    assert hub.files == [], "copied from the cache"
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert read_source(folder).weights == read().weights
    hub.heal()
    assert main(["fetch", "owner/name", "--variant", "384p", "-o", str(folder)]) == 0
    assert hub.files == []
    assert main(["fetch", str(folder), "-o", str(tmp_path / "again")]) == 2
    assert "is already a folder; local_dir is for a model on the hub" in capsys.readouterr().err


def test_fetch_refuses_weights_of_another_model(hub, capsys):
    assert main(["fetch", "owner/name", "--variant", "768p"]) == 2
    assert "768p/diffusion_pytorch_model.safetensors is not a safetensors file" in capsys.readouterr().err
