"""A clip does not depend on how many processes make it together: real processes, which pass data on by gloo.

Copies of the test's process where that will do, as a launch starts Python several times and takes most of the
time; what is marked slow is started by torchrun.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import PartialState

from pyramid_seed import generate, processes_of_launch
from pyramid_seed.cli import main
from pyramid_seed.pipelines import shared_step
from pyramid_seed.provenance.manifest import read_manifest
from tests.forks import fork

from . import one_clip

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
PATIENCE = 120
"""Seconds after which a process hangs, on the busiest of machines."""


@pytest.fixture(autouse=True)
def _short_sequences_are_cut(monkeypatch):
    monkeypatch.setattr(shared_step, "FEWEST_ROWS", 1)


def copies(number: int, call: Callable[[], int]) -> list[tuple[int, str]]:
    """Exit status and output of each process of a launch that all call a function; none of them may hang."""

    def process() -> int:
        signal.alarm(PATIENCE)  # ends it
        PartialState._reset_state()
        return call()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    running = [fork(process, environment=launch | rank) for rank in ranks]
    return [each.wait() for each in running]


@pytest.fixture
def together(tmp_path, loaded):
    """What each of several processes made of a function of `one_clip`, and how it ended."""

    def make(name: str, number: int = 2):
        for model in ("miniflux", "sd3"):
            loaded(model)
        ended = copies(number, lambda: one_clip.run(name, tmp_path, loaded))
        made = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
        return made, [status for status, _ in ended], "\n".join(text for _, text in ended)

    return make


def alone(name: str, loaded):
    """The same by this process, as JSON knows it."""
    return json.loads(json.dumps(getattr(one_clip, name)(None, loaded)))


def assert_same(made: list[dict], expected: dict) -> None:
    """What each process made is what one made, but that only the first has frames."""
    assert [made[0][name] for name in made[0]] == [expected[name] for name in made[0]]
    for other in made[1:]:
        assert other.keys() == made[0].keys()
        for name, clip in other.items():
            assert clip == expected[name] | {"frames": None}, name


def test_two_processes_make_the_clips_of_one(together, loaded):
    made, statuses, text = together("some_clips")
    assert statuses == [0, 0], text
    # Nobody gave a seed: the first process drew it, and another call draws another one.
    seeds = [clips.pop("no seed") for clips in made]
    assert seeds[1] == seeds[0] | {"frames": None}
    expected = alone("some_clips", loaded)
    assert expected.pop("no seed")["seed"] != seeds[0]["seed"]
    assert made[0].keys() == expected.keys()
    assert_same(made, expected)


def test_a_run_that_one_process_stops(together, loaded):
    made, statuses, text = together("stopped")
    assert statuses == [0, 0], text
    expected = alone("stopped", loaded)
    assert len(expected["units"]) == 2
    assert_same([{"stopped": clip} for clip in made], {"stopped": expected})


@pytest.mark.parametrize("name", ["other_seeds", pytest.param("other_shards", marks=pytest.mark.slow)])
def test_other_arguments_end_all_with_the_rank(together, name):
    made, statuses, text = together(name)
    assert statuses == [1, 1], text
    for each in made:
        assert each["error"].startswith(
            "RuntimeError: the processes of one clip must have the same seed, text and settings: rank 1 has "
            "another one than rank 0"
        )


def test_other_latents_end_all_with_rank_and_unit(together):
    made, statuses, text = together("other_latents")
    assert statuses == [1, 1], text
    for each in made:
        assert each["error"].startswith(
            "RuntimeError: the processes of one clip must have the same latents of unit 1: rank 1 has another"
        )


def test_a_process_that_fails_ends_the_others(together):
    (first, second), statuses, text = together("fails")
    assert statuses == [1, 1], text
    assert first["error"].startswith("ProcessLostError: rank 0 has lost another process of its clip")
    assert second["error"] == "OSError: no space left"


def test_a_process_whose_arguments_are_refused_ends_the_others(together):
    (first, second), statuses, text = together("refused")
    assert statuses == [1, 1], text
    assert first["error"].startswith("ProcessLostError: rank 0 has lost another process of its clip")
    assert second["error"].startswith("ValueError: shards must divide the 3 heads of the transformer, got 2")


def test_a_process_that_dies_ends_the_others(together):
    (first,), statuses, text = together("dies")
    assert statuses == [1, -signal.SIGKILL], text
    assert first["error"].startswith("ProcessLostError: rank 0 has lost another process of its clip")


# ---- the command line


@pytest.fixture(scope="module")
def short(quick):
    """One unit: pieces as of any other."""
    return quick | {"num_frames": 1}


@pytest.fixture(scope="module")
def options(short) -> list[str]:
    wanted = {name: value for name, value in short.items() if name != "progress"}
    return [text for name, value in wanted.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def of_one(short):
    """The clip of all tests here, made by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_step, "FEWEST_ROWS", 1)
        return generate("a boat", seed=5, shards=3, **short)


@pytest.mark.slow
def test_commands_of_two_processes(short, options, of_one, tmp_path):
    """`generate`, `verify` and `extend`: one file, one voice."""
    path, longer = tmp_path / "boat.mp4", tmp_path / "longer.mp4"
    command = ["generate", "a boat", "--seed", "5", "--shards", "3", *options, "-o", str(path), "--quiet"]
    (first, told), (second, silence) = copies(2, lambda: main(command))
    assert (first, second) == (0, 0), told + silence
    assert str(path) in told
    assert silence == ""
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    manifest = read_manifest(path)
    assert manifest["digests"] == of_one.manifest["digests"]
    assert manifest["settings"] == of_one.manifest["settings"]

    given = ["--model", short["model"], "--quiet"]
    assert main(["verify", str(path), *given]) == 0
    theirs = of_one.save(tmp_path / "theirs.mp4")
    (first, told), (second, silence) = copies(2, lambda: main(["verify", str(theirs), *given]))
    assert (first, second) == (0, 0), told + silence
    assert told.endswith("MATCH\n")
    assert silence == ""

    command = ["extend", str(path), "--num-frames", "9", *given, "-o", str(longer)]
    (first, told), (second, silence) = copies(2, lambda: main(command))
    assert (first, second, silence) == (0, 0, ""), told
    whole = generate("a boat", seed=5, shards=3, **short | {"num_frames": 9})
    assert read_manifest(longer)["digests"] == whole.manifest["digests"]


@pytest.mark.slow
def test_errors_of_commands_are_told_by_all(options, tmp_path):
    """What does not fit is the same on each; and a number of processes that does not fit names others."""
    path = tmp_path / "boat.mp4"
    command = ["generate", "a boat", "--seed", "5", *options, "-o", str(path), "--quiet"]
    for changes, words in (
        (["--shards", "2"], "shards must divide the 3 heads of the transformer, got 2; use one of 1, 3"),
        ([], "a clip that 2 processes make must be in pieces: give shards=1"),
    ):
        ended = copies(2, lambda changes=changes: main([*command, *changes]))
        assert [status for status, _ in ended] == [2, 2], ended
        assert words in ended[0][1]
    assert not list(tmp_path.iterdir())


def test_a_launch_that_accelerate_does_not_know_is_refused():
    """Or else each process would make the clip alone."""

    def process() -> int:
        PartialState()  # as for accelerators
        with pytest.raises(ValueError, match="this launch has 2 processes, but accelerate"):
            processes_of_launch()
        return 0

    ended = copies(2, process)
    assert [status for status, _ in ended] == [0, 0], ended  # what they print is up to Gloo


# ---- torchrun


def torchrun(number: int, program: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TORCHRUN, str(number), *program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def all_clips(loaded):
    """All clips of `one_clip`, made by this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_step, "FEWEST_ROWS", 1)
        return alone("all_clips", loaded)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_any_number_of_processes_makes_the_clips_of_one(all_clips, tmp_path, number):
    process = torchrun(number, [one_clip.__file__, "all_clips", str(tmp_path)])
    assert process.returncode == 0, process.stderr
    made = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(number)]
    assert len(made[0]) >= 13
    assert_same(made, all_clips)


@pytest.mark.slow
def test_the_command_started_by_torchrun(tmp_path):
    """Of the embedded model: the same file for one process and two."""
    command = ["generate", "a red circle", "--shards", "1", "--preset", "tiny-fast", "--seed", "5", "-o"]
    path = tmp_path / "two.mp4"
    process = torchrun(2, ["-m", "pyramid_seed", *command, str(path)])
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("two.mp4") == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert main([*command, str(tmp_path / "one.mp4"), "--quiet"]) == 0
    assert read_manifest(path)["digests"] == read_manifest(tmp_path / "one.mp4")["digests"]
    assert main(["verify", str(path), "--quiet"]) == 0
    process = torchrun(2, ["-m", "pyramid_seed", "verify", str(tmp_path / "one.mp4"), "--quiet"])
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("MATCH") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["other_seeds", "fails", "dies"])
def test_a_failed_launch_of_torchrun_ends(tmp_path, name):
    assert torchrun(2, [one_clip.__file__, name, str(tmp_path)]).returncode != 0
    (error,) = {json.loads(path.read_text())["error"].split(":")[0] for path in tmp_path.glob("1.json")} or {
        None
    }
    assert error == {"other_seeds": "RuntimeError", "fails": "OSError", "dies": None}[name]
