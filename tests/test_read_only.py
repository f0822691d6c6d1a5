"""Where nothing can be written, a command ends in one sentence of ours, or goes on without."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.cli import main
from pyramid_seed.shared_pipeline import shared_pipeline
from tests.cases import check_cases
from tests.conftest import REFERENCE
from tests.forks import fork
from tests.stand_in_hub import StandInHub, ask_hub

VAE = "causal_video_vae/diffusion_pytorch_model"
MOUNT = """
for folder in $FOLDERS; do mount --bind $folder $folder && mount -o remount,bind,ro $folder || exit 99; done
exec "$@"
"""
RUN = """
import contextlib, io, json, sys
from pyramid_seed.cli import main
for command in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        status = main(command)
    print(json.dumps([status, told.getvalue()]))
"""
NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # of <sched.h>
Told = list[tuple[int, str]]
"""Exit status and standard error of commands."""


@pytest.fixture(autouse=True)
def _mounts_for_one_process_alone():
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs user namespaces, to mount something for one process alone")


def run_read_only(folders, commands, **environment) -> Told:
    """What commands of a fresh process tell that sees these folders as mounted read-only."""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNT, "sh", sys.executable, "-c", RUN, json.dumps(commands)],
        env={**os.environ, **environment, "FOLDERS": " ".join(map(str, folders))},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def run_read_only_in_copy(folders, commands, told: Path) -> Told:
    """The same of a copy of this process, which has imported all there is; what they tell goes by a file."""

    def process() -> int:
        apart_with_read_only(folders)
        shared_pipeline.clear()
        logging.getLogger().handlers.clear()  # of pytest
        told.write_text(json.dumps([run_here(command) for command in commands]))
        return 0

    assert fork(process).wait() == (0, "")
    return [tuple(each) for each in json.loads(told.read_text())]


def apart_with_read_only(folders) -> None:
    """Give this process, of one thread, mounts of its own, as `unshare -rm` does."""
    ids = {"uid_map": os.getuid(), "gid_map": os.getgid()}
    if ctypes.CDLL(None).unshare(NEW_USER | NEW_MOUNTS):
        raise OSError("unshare failed")
    Path("/proc/self/setgroups").write_text("deny")
    for name, number in ids.items():
        Path(f"/proc/self/{name}").write_text(f"0 {number} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    environment = {**os.environ, "FOLDERS": " ".join(map(str, folders))}
    subprocess.run(["sh", "-c", MOUNT, "sh", "true"], env=environment, check=True)


def run_here(command: list[str]) -> tuple[int, str]:
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        status = main(command)
    return status, told.getvalue()


def test_every_command_ends_in_one_sentence_or_goes_on(tmp_path, monkeypatch):
    plain = REFERENCE / "miniflux-tiny"
    published = Path(shutil.copytree(plain, tmp_path / "published"))
    weights = load_file(published / f"{VAE}.safetensors")
    (published / f"{VAE}.safetensors").unlink()
    torch.save(weights, published / f"{VAE}.bin")
    complete = Path(shutil.copytree(published, tmp_path / "complete"))
    torch.save({"state_dict": weights}, complete / f"{VAE}.bin")
    hub, cache, out, free = (tmp_path / name for name in ("hub", "cache", "out", "free"))
    for folder in (hub, cache, out, free):
        folder.mkdir()
    standing = StandInHub({"owner/name": published, "owner/complete": complete})
    few = ["--variant", "384p", "--height", "64", "--width", "64", "--num-frames", "1", "--fps", "8"]
    few += ["--num-inference-steps", "1", "--guidance-scale", "1", "--max-sequence-length", "32", "--quiet"]
    generate, fetch = ["generate", "a boat", *few, "--model"], ["fetch", "--variant", "384p"]
    (tmp_path / "list.txt").write_text("a boat")
    batch = ["batch", str(tmp_path / "list.txt"), *few, "--model"]
    hub_words = "files of owner/name cannot be written (Read-only file system: "
    not_into = f"cannot be written: no permission to write into {out}"
    no_copy = f"no safetensors copy of {published / f'{VAE}.bin'} can be made: {cache}"
    cases = {
        "generate, hub": ([*generate, "owner/name", "-o", f"{free}/a.mp4"], hub_words),
        "fetch": ([*fetch, "owner/name"], f"{hub_words}{hub}"),
        "fetch -o": ([*fetch, "owner/name", "-o", str(out)], f"{hub_words}{out}"),
        "fetch -o new": ([*fetch, "owner/name", "-o", f"{out}/new"], f"{hub_words}{out}/new"),
        "fetch a folder": ([*fetch, str(published)], no_copy),
        "generate, convert": ([*generate, str(published), "-o", f"{free}/b.mp4"], no_copy),
        "generate -o": ([*generate, str(plain), "-o", f"{out}/a.mp4"], not_into),
        "batch -o": ([*batch, str(plain), "-o", f"{out}/clips"], f"{out}/clips: cannot be written to"),
    }
    goes_on = {
        "fetch, complete": [*fetch, "owner/complete"],
        "generate, complete": [*generate, "owner/complete", "-o", f"{free}/c.mp4"],
        "fetch a plain folder": [*fetch, str(plain)],
    }
    with standing.serve() as endpoint:
        ask_hub(endpoint, monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        read_source("owner/complete", variant="384p", cache_dir=hub)
        for path in filter(Path.is_file, hub.rglob("*")):
            os.utime(path, (1e9, 1e9))  # digests of young files are not kept
        commands = [command for command, _ in cases.values()] + list(goes_on.values())
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
        results = run_read_only_in_copy((hub, cache, out), commands, tmp_path / "told.json")

    about_cache = r"^the cache of weight digests was not written: .*\n"  # said once, by whoever comes first

    def is_refused(status, told, words):
        sentence = re.sub(about_cache, "", told)
        assert (status, sentence.count("\n")) == (2, 1), told
        assert words in sentence

    def goes_well(status, told):
        assert (status, re.sub(about_cache, "", told)) == (0, ""), told

    refused = zip(cases, results, strict=False)
    check_cases({name: (*result, cases[name][1]) for name, result in refused}, is_refused)
    check_cases(dict(zip(goes_on, results[len(cases) :], strict=True)), goes_well)
    assert "".join(told for _, told in results).count("the cache of weight digests was not written") == 1
    assert [path.name for path in free.iterdir()] == ["c.mp4"]


def test_without_a_folder_for_temporary_files():
    """As in a container whose whole file system is read-only: torch cannot be imported there."""
    places = [Path(__file__).parents[1], *filter(Path.is_dir, map(Path, ("/tmp", "/var/tmp", "/usr/tmp")))]
    commands = [["generate", "a boat", "-o", "a.mp4"], ["fetch", "owner/name"], ["presets"]]
    generated, fetched, listed = run_read_only(places, commands, TMPDIR=str(places[0]))
    reason = (
        "no folder for temporary files can be written to, and torch needs one; set TMPDIR to one that can"
    )
    assert generated == (2, f"pyramid-seed generate: {reason}\n")
    assert fetched == (2, f"pyramid-seed fetch: {reason}\n")
    assert listed == (0, "")
