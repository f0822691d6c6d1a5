"""A clip does not depend on how the work is shared out, interrupted or resumed: real processes and signals.

Each test compares file names, digests and the bytes of files with one plain run. A launch starts Python
several times, which takes most of the time, so launches are slow; by default a copy of the test's process is
killed, and two share a batch in tests/batch/test_group.py.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time

import pytest

from pyramid_seed import run_batch
from pyramid_seed.cli import main
from tests.forks import fork

from .launches import (
    ACCELERATE,
    ROOT,
    ROWS,
    TORCHRUN,
    arguments,
    assert_as_alone,
    digests,
    finish,
    index,
    kill,
    kill_all,
    launch,
    pids,
    start,
    wait_for,
    write_list,
)

HELIOS_UNITS = {"a boat": 2, "a red circle": 1, "a sea": 1}


def test_a_copy_that_is_killed_loses_no_finished_unit(tmp_path, settings):
    source, output = write_list(tmp_path, ROWS[1:3]), tmp_path / "clips"
    finish(source, tmp_path / "plain", settings)
    copy = fork(lambda: main(["batch", *arguments(source, output, settings), "--quiet"]))
    while not list(output.glob(".work/*/unit-0000.safetensors")):
        assert os.waitid(os.P_PID, copy.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "it has ended"
        time.sleep(0.005)
    kill(copy.pid)
    status, _ = copy.wait()
    assert status == -signal.SIGKILL
    finish(source, output, settings)
    assert digests(output) == digests(tmp_path / "plain")
    assert sum(entry["resumed_units"] for entry in index(output)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_many_processes_make_the_clips_of_one(tmp_path, plain, settings, processes):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    status, text = launch([*TORCHRUN, str(processes)], source, output, settings)
    assert status == 0, text
    assert digests(output) == plain
    entries = index(output)
    assert len(entries) == len(ROWS)
    assert {entry["process"] for entry in entries} <= set(range(processes))
    longest = next(entry["file"] for entry in entries if entry["prompt"] == "a boat")
    first = [re.search(r"INFO (\S+): begun", path.read_text()) for path in (output / "logs").iterdir()]
    assert longest in {match[1] for match in first if match}


@pytest.mark.slow
def test_two_processes_make_the_clips_of_one_with_helios(tmp_path, quick_helios):
    settings = {name: value for name, value in quick_helios.items() if name not in ("num_frames", "progress")}
    rows = [{"prompt": prompt, "num_frames": 33 * units, "seed": 3} for prompt, units in HELIOS_UNITS.items()]
    source, output, alone = write_list(tmp_path, rows), tmp_path / "clips", tmp_path / "alone"
    status, text = launch([*TORCHRUN, "2"], source, output, settings)
    assert status == 0, text
    finish(source, alone, settings)
    assert len(digests(alone)) == len(rows)
    assert_as_alone(output, alone)


@pytest.mark.slow
def test_more_processes_than_items(tmp_path, plain, settings):
    source, output = write_list(tmp_path, ROWS[1:2]), tmp_path / "clips"
    status, text = launch([*TORCHRUN, "2"], source, output, settings)
    assert status == 0, text
    made = digests(output)
    assert len(made) == 1
    assert made.items() <= plain.items()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_process_fails_the_launch_and_the_next_one_finishes(tmp_path, plain, settings, processes):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    process = start(launcher, source, output, settings)
    last = processes - 1
    assert wait_for(
        lambda: last in pids(output) and list(output.glob(".work/*/unit-0000.safetensors")), process
    )
    kill(pids(output)[last])
    text, _ = process.communicate(timeout=600)
    assert process.returncode != 0, text
    finish(source, output, settings)
    assert digests(output) == plain


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_starts_a_launch_again_and_it_goes_on(tmp_path, plain, settings, victim):
    """Whichever process was killed, twice: what was finished is kept, and the launch ends well."""
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    process = start([*TORCHRUN, "2", "--max-restarts", "3"], source, output, settings)
    killed: set[int] = set()
    for number in (1, 2):

        def has_come_on(number=number) -> bool:
            files = [*output.glob("*.mp4"), *output.glob(".work/*/unit-*.safetensors")]
            return pids(output).get(victim, 0) not in {0, *killed} and len(files) >= number

        assert wait_for(has_come_on, process), process.communicate()[0]
        kill(pid := pids(output)[victim])
        killed.add(pid)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert "missing" not in re.findall(r"^clips +(.*)$", text, re.MULTILINE)[-1]  # of the last attempt
    assert digests(output) == plain


@pytest.mark.slow
@pytest.mark.parametrize("change", ["shuffled", "thinned", "extended"])
def test_the_list_around_a_clip_does_not_change_it(tmp_path, plain, settings, change):
    rows = {
        "shuffled": random.Random(0).sample(ROWS, len(ROWS)),
        "thinned": ROWS[1::2],
        "extended": [{"prompt": "a cat", "num_frames": 9}, *ROWS, ROWS[0], {"prompt": "a boat", "seed": 4}],
    }[change]
    source, output = write_list(tmp_path, rows), tmp_path / "clips"
    status, text = launch([*TORCHRUN, "2"], source, output, settings)
    assert status == 0, text
    made = digests(output)
    assert {name: made[name] for name in made if name in plain}.items() <= plain.items()
    assert len(made) == {"shuffled": 5, "thinned": 2, "extended": 7}[change]
    assert len(made.keys() & plain.keys()) == {"shuffled": 5, "thinned": 2, "extended": 5}[change]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["main", "all"])
@pytest.mark.parametrize("moment", ["unit", "step", "writing"])
@pytest.mark.parametrize("processes", [1, 2])
def test_sigkill_at_any_moment_loses_no_finished_unit(tmp_path, plain, settings, processes, moment, victim):
    """After a unit, in the steps of the first one, after a file; the test above kills the other process."""
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    process = start([*TORCHRUN, str(processes)], source, output, settings)
    conditions = {
        "unit": lambda: list(output.glob(".work/*/unit-0001.safetensors")),
        "step": lambda: all(": begun" in path.read_text() for path in (output / "logs").iterdir()),
        "writing": lambda: list(output.glob("*.mp4")),
    }
    # A process is known by its log.
    assert wait_for(lambda: len(pids(output)) == processes, process)
    assert wait_for(conditions[moment], process, pause=0.0005)
    if victim == "all":
        kill_all(process, output)
    else:
        kill(pids(output)[0])
        process.communicate(timeout=600)
    assert process.returncode != 0
    # Beside temporary files, which the next launch removes, there are whole clips only.
    found = {path.name for path in output.glob("*.mp4") if not path.name.startswith(".")}
    assert found < set(plain)  # else the moment came too late
    finish(source, output, settings)
    assert digests(output) == plain
    assert not list(output.rglob(".*.tmp*"))


@pytest.mark.slow
def test_a_terminated_launch_stops_cleanly_and_says_how_to_go_on(tmp_path, plain, settings):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    process = start([sys.executable], source, output, settings)
    assert wait_for(lambda: list(output.glob(".work/*/unit-0000.safetensors")), process)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "run the same command again" in text
    assert str(source) in text
    finish(source, output, settings)
    assert digests(output) == plain


@pytest.mark.slow
def test_one_failing_item_among_five_on_two_processes(tmp_path, plain, settings):
    rows = [dict(row) for row in ROWS]
    rows[2] |= {"guidance_scale": 1e38, "num_inference_steps": 4}
    source, output = write_list(tmp_path, rows), tmp_path / "clips"
    status, text = launch([*TORCHRUN, "2"], source, output, settings)
    assert status == 1, text
    (failed,) = [entry for entry in index(output) if entry["status"] == "failed"]
    assert failed["prompt"] == "a sea"
    assert failed["reason"].startswith("FloatingPointError: latents are not finite")
    assert digests(output) == {name: digest for name, digest in plain.items() if "a-sea" not in name}
    assert failed["reason"] in text


@pytest.mark.slow
def test_accelerate_with_its_launch_file_makes_the_clips_of_one(tmp_path, plain, settings):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    config = ["--config_file", str(ROOT / "configs" / "accelerate" / "cpu-2.yaml")]
    status, text = launch([*ACCELERATE, *config], source, output, {**settings, "num_processes": 2})
    assert status == 0, text
    assert digests(output) == plain
    assert len(list((output / "logs").iterdir())) == 2


@pytest.mark.slow
def test_accelerate_starting_one_process_instead_of_two_is_refused(tmp_path, settings):
    source, output = write_list(tmp_path, ROWS), tmp_path / "clips"
    status, text = launch([*ACCELERATE, "--cpu", "--num_processes", "2"], source, output, settings)
    assert status != 0
    assert "asked for several processes and started one" in text
    assert not output.exists()


@pytest.mark.slow
def test_bad_rows_are_refused_on_every_process(tmp_path, settings):
    rows = [*ROWS, {"prompt": "a", "num_frames": 10}, {"prompt": "b", "height": 100}]
    source, output = write_list(tmp_path, rows), tmp_path / "clips"
    status, text = launch([*TORCHRUN, "2"], source, output, settings)
    assert status != 0
    assert "line 6: num_frames must be 8k + 1, got 10; use 9 or 17" in text
    assert "line 7: height must be a multiple of 64, got 100; use 64 or 128" in text
    assert not list(output.glob("*.mp4"))


@pytest.mark.slow
def test_ranks_killed_at_work_on_one_clip_and_another_number_of_them_goes_on(tmp_path, settings):
    """Five shards of the embedded model's five heads: 1, 2, 5 or 10 processes can make a clip together."""
    settings = settings | {"model": "embedded:tiny", "shards": 5}
    del settings["variant"]
    rows, random_ranks = write_list(tmp_path, [{"prompt": "a star", "num_frames": 33}]), random.Random(0)
    assert run_batch(rows, tmp_path / "alone", progress=False, **settings).status == 0
    output, num_units = tmp_path / "clips", 0
    for processes in (2, 5, 1):
        together = settings | {"processes_per_clip": processes}
        launcher = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
        process = start(launcher, rows, output, together)
        next_unit = f".work/*/unit-{num_units:04}.safetensors"
        assert wait_for(lambda name=next_unit: list(output.glob(name)), process)
        kill(pids(output)[random_ranks.randrange(processes)])
        text, _ = process.communicate(timeout=120)
        assert process.returncode != 0, text
        num_units = len(list(output.glob(".work/*/unit-*.safetensors")))
    finish(rows, output, settings)
    assert digests(output) == digests(tmp_path / "alone")
    (entry,) = index(output)
    assert entry["resumed_units"] == num_units
