"""Commands that are killed or stopped at exact file events lose nothing and leave nothing.

Each command is run once without interruption. Then a copy of this process, which has the model, is ended
before its n-th change of a file, by SIGKILL and by a signal after which commands clean up; and by a kill at
the n-th byte of a file, which stops writers in C as well. What is there then is whole, old or new, or its
reader refuses it; and the same command, run again, gives what it gives without interruption.

    KILLS=all pytest -m slow tests/test_kills.py --log-cli-level INFO     every event of every command
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyramid_seed.cli import main
from pyramid_seed.files import file_digest, latents_path, sidecar_path
from pyramid_seed.media.images import read_image
from pyramid_seed.provenance.latents import read_latents
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.provenance.verify import verify_noise_of_file
from tests.cases import check_cases
from tests.file_events import before_each_change, kill_at_byte
from tests.forks import fork

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.slow

RUNS = os.environ.get("KILLS", "8")
"""Ends of each command by each way, evenly spaced over its events; "all" for every event."""

CLEANED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Files = dict[str, bytes | None]


@dataclass(frozen=True)
class Command:
    """A command in a folder.

    Attributes:
        arguments: of the command; `FOLDER` is where it runs.
        before: commands that make what is there already.
    """

    arguments: Sequence[str]
    before: Sequence[Sequence[str]] = ()


SETTINGS = "--variant 384p --preset tiny --height 64 --width 64 --num-frames 9 --num-inference-steps 1"
SETTINGS += " --video-num-inference-steps 1 --scale 1 --quiet"
RUN = ["--device", "cpu", "--workers", "1"]


def commands(model: str) -> dict[str, Command]:
    """Every command that writes, where it replaces something if it can."""
    settings = ["--model", model, *shlex.split(SETTINGS)]

    def generate(prompt: str, name: str, *options: str) -> list[str]:
        return ["generate", prompt, "--seed", "1", "-o", f"FOLDER/{name}", *options, *settings, *RUN]

    def saved(name: str) -> Command:
        more = ("--sidecar", "--keep-latents", "--overwrite")
        return Command(generate("a cat", name, *more), [generate("a boat", name, *more)])

    def batch(name: str, *options: str) -> list[str]:
        return ["batch", f"LISTS/{name}.txt", "-o", "FOLDER/clips", *options, *settings, *RUN]

    def sweep(seeds: str) -> list[str]:
        return ["sweep", "a boat", "--seeds", seeds, "-o", "FOLDER/seeds", *settings, *RUN]

    def monitor(seeds: str) -> list[str]:
        return ["monitor", model, "a boat", "--seeds", seeds, "-o", "FOLDER/history", *settings[2:], *RUN]

    def compare(left: str, right: str) -> list[str]:
        return ["compare", f"LISTS/{left}.mp4", f"LISTS/{right}.mp4", "-o", "FOLDER/compared", "--overwrite"]

    def encode(name: str) -> list[str]:
        return ["encode", f"LISTS/{name}.txt", "-o", "FOLDER/texts.safetensors", "--overwrite", *settings]

    extended = ["extend", "LISTS/one.mp4", "--num-frames", "17", "--keep-latents", "--sidecar", "--quiet"]
    extended += ["--model", model, *RUN]
    return {
        **{name: saved(name) for name in ("clip.mp4", "clip.gif", "clip.webp", "clip.png", "clip")},
        "extend": Command([*extended, "-o", "FOLDER/longer.mp4", "--overwrite"]),
        "extend in new folders": Command([*extended, "-o", "FOLDER/new/er/longer.mp4", "--overwrite"]),
        "batch": Command(batch("two")),
        "batch, longer": Command(batch("two"), [batch("one")]),
        "batch in folders": Command(batch("two", "--folders", "--num-frames", "17")),
        "sweep": Command(sweep("0-1")),
        "sweep, longer": Command(sweep("0-1"), [sweep("1")]),
        "monitor": Command(monitor("0-1")),
        "monitor, again": Command(monitor("0-1"), [monitor("0-1")]),
        "compare": Command(compare("one", "other"), [compare("one", "one")]),
        "encode": Command(encode("two"), [encode("one")]),
    }


@pytest.fixture(scope="module")
def lists(tmp_path_factory, made) -> Path:
    """What the commands read."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "one.txt").write_text("a boat\n")
    (folder / "two.txt").write_text("a boat\na cat\n")
    made.save(folder / "one.mp4", keep_latents=True, scale=1)
    made.save(folder / "other.mp4", scale=1, lossless=True)
    return folder


@pytest.mark.parametrize("name", commands(""))
def test_a_command_that_ends_at_any_file_event_loses_nothing(name, quick, lists, tmp_path_factory):
    work = tmp_path_factory.mktemp("kills")
    command = commands(quick["model"])[name]

    def run(arguments: Sequence[str], folder: Path) -> int:
        places = {"FOLDER": str(folder), "LISTS": str(lists)}
        for word, place in places.items():
            arguments = [argument.replace(word, place) for argument in arguments]
        return main(arguments)

    (work / "old").mkdir()
    for arguments in command.before:
        assert run(arguments, work / "old") in (0, 1)
    whole = shutil.copytree(work / "old", work / "new")
    status = run(command.arguments, whole)
    assert status in (0, 1)
    old, new = files_of(work / "old"), files_of(whole)

    def ended(end: Callable[[Path], None]) -> tuple[Path, int, str]:
        folder = Path(shutil.copytree(work / "old", work / "run"))

        def call() -> int:
            end(folder)
            return run(command.arguments, folder)

        return folder, *fork(call).wait()

    def rule(end: Callable[[Path], None], expected: Sequence[int], is_clean: bool) -> None:
        folder, ending, told = ended(end)
        try:
            assert ending in (*expected, status), told
            there = files_of(folder)
            assert_whole(folder, there, old, new)
            if is_clean:
                assert_nothing_left(there, old, new)
            # By another process: this one looks for what others left once, see `files.replacing`.
            again, told = fork(lambda: run(command.arguments, folder)).wait()
            assert again == status, told
            assert_same(files_of(folder), new)
        finally:
            shutil.rmtree(folder)

    events, num_bytes = counted(ended, work), max(len(data or b"") for data in new.values())
    kills = {
        f"SIGKILL before change {number}": (
            partial(kill_before, number, signal.SIGKILL),
            [-signal.SIGKILL],
            False,
        )
        for number in chosen(events)
    }
    stops = {
        f"{name.name} before change {number}": (partial(kill_before, number, name), [128 + name], True)
        for number in chosen(events)
        for name in [CLEANED[number % len(CLEANED)]]
    }
    bytes_ = {
        f"killed at byte {number}": (lambda _, number=number: kill_at_byte(number), [-signal.SIGXFSZ], False)
        for number in chosen_bytes(num_bytes)
    }
    num_ends = len(kills), len(stops), len(bytes_)
    logger.info("%s: %d changes; %d kills, %d signals, %d kills at a byte", name, events, *num_ends)
    check_cases(kills | stops | bytes_, rule)


def kill_before(number: int, name: signal.Signals, folder: Path) -> None:
    before_each_change(folder, lambda n: os.kill(os.getpid(), name) if n == number else None)


def counted(ended: Callable[[Callable[[Path], None]], tuple[Path, int, str]], work: Path) -> int:
    """The changes of a run that is not interrupted."""

    def count(folder: Path) -> None:
        before_each_change(folder, lambda n: (work / "changes").write_text(str(n)))

    shutil.rmtree(ended(count)[0])
    return int((work / "changes").read_text())


def chosen(events: int) -> Iterator[int]:
    runs = events if RUNS == "all" else min(int(RUNS), events)
    return (1 + index * events // runs for index in range(runs))


def chosen_bytes(longest: int) -> list[int]:
    runs = 40 if RUNS == "all" else int(RUNS)
    return sorted({int(longest ** (index / runs)) - 1 for index in range(runs)})


def files_of(folder: Path) -> Files:
    """What is in a folder, by path; None for folders. Texts are without times, and logs without lines."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else comparable(path)
        for path in sorted(folder.rglob("*"))
    }


def comparable(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".log" or path.name == "lock":
        return b""
    try:
        if path.name == "index.jsonl" or path.name == "log.jsonl":
            return b"\n".join(timeless(json.loads(line)) for line in data.splitlines())
        return timeless(json.loads(data)) if path.suffix == ".json" else data
    except ValueError:  # half of one
        return data


def timeless(values: dict[str, Any]) -> bytes:
    run = ("timings", "seconds", "mtime_ns", "resumed_units", "process")
    kept = {name: value for name, value in values.items() if name not in run}
    return json.dumps(kept, sort_keys=True).encode()


def assert_same(there: Files, wanted: Files) -> None:
    assert sorted(there) == sorted(wanted)
    assert [name for name in wanted if there[name] != wanted[name]] == []


def assert_whole(folder: Path, there: Files, old: Files, new: Files) -> None:
    """What has a name of its own is the old or the new one, and no reader takes one for the other."""
    for name, data in there.items():
        if any(part.startswith(".") for part in Path(name).parts) or data is None:
            continue
        if name in old or name in new:
            assert data in (old.get(name), new.get(name)) or is_of_fewer_clips(folder / name), name
        else:
            pytest.fail(f"{name} is no file of this command")
    assert [name for name in old if name in new and name not in there] == [], "lost"
    for name in ("clip.mp4", "clip.gif", "clip.webp", "clip.png", "clip", "longer.mp4"):
        if name in there:
            assert_one_clip(folder / name, there, new)
    for index in folder.rglob("index.jsonl"):
        for entry in map(json.loads, index.read_text().splitlines()):
            assert entry["status"] == "done"
            assert file_digest(index.parent / entry["file"]) == entry["file_sha256"]


def is_of_fewer_clips(path: Path) -> bool:
    """What tells of the clips that are there already: whole, but another file."""
    if path.name == "contact_sheet.png":
        return read_image(path).size > 0
    return path.name == "index.jsonl"


def assert_one_clip(path: Path, there: Files, new: Files) -> None:
    """Frames, manifest and latents are of one clip, or who reads them is told."""

    def is_new(file: Path) -> bool:
        name = file.name
        return all(there[each] == new[each] for each in new if each == name or each.startswith(f"{name}/"))

    try:
        manifest = read_manifest(path)
    except ValueError as error:
        if re.search("is the manifest of another file|holds no manifest", str(error)):
            return
        raise
    if path.is_dir():
        assert (verify_noise_of_file(path).difference is None) == (is_new(path) == is_new(sidecar_path(path)))
    else:
        assert is_new(path) == (manifest["prompt"] == "a cat" or path.name == "longer.mp4")
    latents = latents_path(path)
    if latents.exists():
        try:
            read_latents(latents, manifest["digests"]["units"])
        except ValueError as error:
            if "does not belong to the clip" not in str(error):
                raise
        else:
            assert is_new(latents) == (is_new(sidecar_path(path)) if path.is_dir() else is_new(path))


def assert_nothing_left(there: Files, old: Files, new: Files) -> None:
    """Work that is gone on with may be there; half-written files and empty folders are not."""
    for name in there.keys() - old.keys() - new.keys():
        assert "/.work/" in f"/{name}", f"{name} is left"
        assert "tmp" not in name, f"{name} is left"
    for name in [name for name, data in there.items() if data is None and "/.work" not in f"/{name}"]:
        is_empty = not any(other.startswith(f"{name}/") for other in there)
        assert name in old or not is_empty, f"{name} is left, empty"
