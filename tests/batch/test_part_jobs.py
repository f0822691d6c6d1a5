"""Parts of a batch, made by processes that know of each other by their logs alone, and their gathering."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from pyramid_seed import gather_parts
from pyramid_seed.batch.errors import OutputError
from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.lock import folder_lock, part_lock
from pyramid_seed.batch.part import Part
from tests.batch.makers import (
    UNITS,
    NoiseMaker,
    index,
    jobs_of,
    raiser,
    run,
    run_one_part,
)
from tests.forks import Fork, fork
from tests.invariance.launches import outcomes

SEEDS = (1, 2, 3, 4, 5)


def seeds_of(part: str, seeds=SEEDS) -> set[int]:
    own = Part(*map(int, part.split("/")))
    return {job.item.seed for job in jobs_of(*seeds) if own.has(job.id)}


def left_behind(folder: Path) -> list[str]:
    """What lies in `.work` besides what belongs there once all is made and gathered."""
    expected = {"lock", "parts", "records", "strips"}
    work = folder / ".work"
    return [
        *(path.name for path in work.iterdir() if path.name not in expected),
        *(path.name for path in (work / "records").iterdir()),
        *(path.name for path in folder.rglob(".*.tmp*")),
    ]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    """The folder of one plain run."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, *SEEDS)
    return folder


def test_parts_make_the_batch_of_one_process(tmp_path, one_process):
    for part in ("1/3", "0/3", "2/3"):
        maker = NoiseMaker()
        summary = run_one_part(tmp_path, *SEEDS, part=part, maker=maker)
        assert (summary.status, summary.made) == (0, len(seeds_of(part)))
        assert {seed for seed, _ in maker.made} == seeds_of(part)
    assert not (tmp_path / "index.jsonl").exists()
    assert not (tmp_path / "contact_sheet.png").exists()
    gathered = gather_parts(tmp_path)
    assert (gathered.status, gathered.found, gathered.num_parts, gathered.parts) == (0, 5, 3, ())
    assert outcomes(tmp_path) == outcomes(one_process)
    assert {entry["process"] for entry in index(tmp_path)} == {n for n in range(3) if seeds_of(f"{n}/3")}
    assert (tmp_path / "contact_sheet.png").read_bytes() == (one_process / "contact_sheet.png").read_bytes()
    assert left_behind(tmp_path) == []
    again = gather_parts(tmp_path, check_files=True)
    assert (again, outcomes(tmp_path)) == (gathered, outcomes(one_process))


def test_what_is_missing_is_told_as_parts_to_run_again(tmp_path, one_process):
    with pytest.raises(ValueError, match=f"no part of a batch was begun in {tmp_path}; begin with"):
        gather_parts(tmp_path)
    first, second = sorted(range(4), key=lambda n: -len(seeds_of(f"{n}/4")))[:2]
    run_one_part(tmp_path, *SEEDS, part=f"{first}/4")
    others = tuple(n for n in range(4) if n != first)
    assert gather_parts(tmp_path).parts == others  # not begun
    victim = min(seeds_of(f"{second}/4"))
    maker = NoiseMaker({(victim, 1): raiser(ValueError("too dark"))})
    for n in others:
        assert run_one_part(tmp_path, *SEEDS, part=f"{n}/4", maker=maker).status == (n == second)
    gathered = gather_parts(tmp_path)
    assert (gathered.status, gathered.parts, gathered.missing) == (1, (second,), 0)
    (file,) = gathered.failed
    assert gathered.failed == {file: "ValueError: too dark"}
    assert jobs_of(victim)[0].file == file
    made = next(entry["file"] for entry in index(tmp_path) if int(entry["seed"]) in seeds_of(f"{first}/4"))
    (tmp_path / made).unlink()
    assert gather_parts(tmp_path).parts == tuple(sorted((first, second)))
    for n in (first, second):
        maker = NoiseMaker()
        run_one_part(tmp_path, *SEEDS, part=f"{n}/4", maker=maker)
        assert len({seed for seed, _ in maker.made}) == 1
    assert gather_parts(tmp_path).status == 0
    assert outcomes(tmp_path) == outcomes(one_process)
    run_one_part(
        tmp_path, *SEEDS, 6, part="0/4"
    )  # the list has grown: parts that were begun before do not count
    assert gather_parts(tmp_path).parts == (1, 2, 3)


def test_a_plan_that_is_damaged_is_told_and_its_part_is_to_be_run_again(tmp_path, capsys):
    for n in (0, 1):
        run_one_part(tmp_path, *SEEDS, part=f"{n}/2")
    plan = tmp_path / ".work" / "parts" / "part-1-of-2.json"
    plan.write_bytes(plan.read_bytes().replace(b'"ids":["', b'"ids":["../'))
    gathered = gather_parts(tmp_path)
    assert (gathered.parts, gathered.found) == ((1,), len(seeds_of("0/2")))
    assert f"warning: {plan} cannot be used: " in capsys.readouterr().err
    assert len(index(tmp_path)) == 5


def test_a_killed_part_goes_on_after_its_last_unit_and_reads_what_all_others_recorded(tmp_path, one_process):
    """Its own earlier log, those of parts of another division, and the index of one process."""
    run(tmp_path, 1)
    run_one_part(tmp_path, *SEEDS, part="0/2")
    rest = tuple(sorted(seeds_of("1/2") - {1}))
    child = fork(
        lambda: (
            run_one_part(
                tmp_path,
                *SEEDS,
                part="1/2",
                maker=NoiseMaker({(rest[0], 1): lambda: os.kill(os.getpid(), 9)}),
            ).status
        )
    )
    assert child.wait()[0] == -signal.SIGKILL
    maker = NoiseMaker()
    for n in range(3):
        run_one_part(tmp_path, *SEEDS, part=f"{n}/3", maker=maker)
    assert len(maker.made) == len(set(maker.made))
    assert (rest[0], 0) not in maker.made
    assert {seed for seed, _ in maker.made}.isdisjoint(seeds_of("0/2") | {1})
    gathered = gather_parts(tmp_path)
    assert (gathered.status, gathered.num_parts) == (0, 3)
    assert outcomes(tmp_path) == outcomes(one_process)
    assert left_behind(tmp_path) == []


def test_a_batch_goes_on_whichever_way_it_was_begun(tmp_path, one_process):
    run(tmp_path, *SEEDS[:2])
    run_one_part(tmp_path, *SEEDS, part="0/2")
    assert run(tmp_path, *SEEDS).status == 0
    assert outcomes(tmp_path) == outcomes(one_process)
    assert left_behind(tmp_path) == []
    maker = NoiseMaker()
    for n in (0, 1):
        run_one_part(tmp_path, *SEEDS, part=f"{n}/2", maker=maker)
    assert (maker.made, gather_parts(tmp_path).status) == ([], 0)


def test_a_part_that_runs_twice_makes_a_clip_twice_only_where_both_are_at_it(tmp_path, one_process):
    """The second run makes the whole part while the first is in the middle of a clip."""
    own = seeds_of("1/2")
    inner, first = NoiseMaker(), []

    def second_run():
        if not first:
            first.append(True)
            assert run_one_part(tmp_path, *SEEDS, part="1/2", maker=inner).made == len(own)

    outer = NoiseMaker({(seed, 1): second_run for seed in own})
    summary = run_one_part(tmp_path, *SEEDS, part="1/2", maker=outer)
    assert summary.status == 0
    assert len(summary.digests) == len(own)
    assert {seed for seed, _ in inner.made} == own
    assert len({seed for seed, _ in outer.made}) == 1
    run_one_part(tmp_path, *SEEDS, part="0/2")
    assert gather_parts(tmp_path).status == 0
    assert outcomes(tmp_path) == outcomes(one_process)
    assert left_behind(tmp_path) == []


def test_a_process_whose_clip_another_has_made_and_cleared_away_goes_on(tmp_path, monkeypatch):
    """The other removes the work on a clip while this one writes there."""
    maker = NoiseMaker()

    def vanish(path, *arguments, **options):
        monkeypatch.undo()
        run_one_part(tmp_path, *SEEDS, maker=maker)
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr("pyramid_seed.batch.worker.save_unit", vanish)
    summary = run_one_part(tmp_path, *SEEDS)
    assert (summary.status, len(summary.digests)) == (0, 5)
    assert len(maker.made) == 5 * UNITS
    with monkeypatch.context() as patch:  # nobody else has made it
        patch.setattr(Journal, "open_work_folder", lambda *_: raiser(FileNotFoundError(2, "gone"))())
        with pytest.raises(OutputError, match="gone"):
            run_one_part(tmp_path, *SEEDS, 6)


def test_a_launch_and_parts_keep_each_other_out_and_parts_share(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pyramid_seed.batch.part_jobs._PATIENCE_SECONDS", 0.2)
    with folder_lock(tmp_path), pytest.raises(OutputError, match="in use by another batch"):
        run_one_part(tmp_path, 1)
    run_one_part(tmp_path, 1, 2, part="0/2")
    with part_lock(tmp_path):
        with pytest.raises(OutputError, match="in use by another batch"):
            run(tmp_path, 1)
        run_one_part(tmp_path, 1, 2, part="1/2")
        logs = set((tmp_path / ".work" / "records").iterdir())
        gathered = gather_parts(tmp_path)
        assert (gathered.status, gathered.found) == (0, 2)
        assert "parts are running" in capsys.readouterr().err
        assert set((tmp_path / ".work" / "records").iterdir()) == logs  # who runs may still write there
    before = outcomes(tmp_path)
    assert gather_parts(tmp_path).status == 0
    assert outcomes(tmp_path) == before
    assert left_behind(tmp_path) == []


def test_where_files_cannot_be_locked_parts_run_and_a_marker_keeps_them_out(tmp_path, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert run_one_part(tmp_path, 1).status == 0
    assert "files cannot be locked" in capsys.readouterr().err
    with folder_lock(tmp_path), pytest.raises(OutputError, match=r"lock\.owner serves as the lock"):
        run_one_part(tmp_path, 1)


def test_that_one_process_failed_does_not_hide_that_another_has_made_it(tmp_path):
    run_one_part(tmp_path, 1)
    (job,) = jobs_of(1)
    failed = {"file": job.file, "status": "failed", "id": job.id, "reason": "out of memory"}
    Journal(tmp_path, Part(0, 1)).record(failed)
    assert run_one_part(tmp_path, 1).found == 1
    assert gather_parts(tmp_path).status == 0
    assert [entry["status"] for entry in index(tmp_path)] == ["done"]


# Real kills ------------------------------------------------------------------------------------------------


def slow_maker(seed: int) -> NoiseMaker:
    """One whose units take some milliseconds each, so that there is something to be killed in."""
    chance = random.Random(seed)
    pause = lambda: time.sleep(chance.uniform(0.01, 0.15))  # noqa: E731
    return NoiseMaker({(number, unit): pause for number in range(200) for unit in range(UNITS)})


def campaign(folder: Path, seeds: tuple[int, ...], num_kills: int, chance: random.Random) -> dict[str, int]:
    """Run parts of a batch, now and then one twice or of another division, and kill so many of them.

    Returns:
        How many were killed, and how often the others were gathered meanwhile.
    """
    told = {"killed": 0, "gathered beside": 0}
    running: list[Fork] = []

    def begin(part: str) -> None:
        maker = slow_maker(chance.randrange(2**32))
        running.append(fork(lambda: run_one_part(folder, *seeds, part=part, maker=maker).status))

    def reap() -> None:
        for process in list(running):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                running.remove(process)
                status, text = process.wait()
                assert status in (0, -signal.SIGKILL), text

    while told["killed"] < num_kills:
        while len(running) < 4:
            count = chance.choice((3, 3, 3, 4))
            begin(f"{chance.randrange(count)}/{count}")
        time.sleep(chance.uniform(0.0, 0.25))
        if chance.random() < 0.1 and list((folder / ".work" / "parts").glob("*.json")):
            gather_parts(folder)
            told["gathered beside"] += 1
        victim = chance.choice(running)
        os.kill(victim.pid, signal.SIGKILL)
        running.remove(victim)
        told["killed"] += victim.wait()[0] == -signal.SIGKILL  # else it had ended
        reap()
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
        told["killed"] += process.wait()[0] == -signal.SIGKILL
    return told


def finish(folder: Path, seeds: tuple[int, ...]) -> int:
    """Run what `gather_parts` asks for until nothing is missing; how many parts that were."""
    num_parts = 0
    run_one_part(folder, *seeds, part="0/3")  # the division that counts
    while (gathered := gather_parts(folder)).status:
        for n in gathered.parts:
            assert run_one_part(folder, *seeds, part=f"{n}/{gathered.num_parts}").status == 0
            num_parts += 1
    return num_parts


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_that_are_killed_at_random_lose_nothing(tmp_path, seed):
    seeds = tuple(range(40))
    folder, plain = tmp_path / "parts", tmp_path / "plain"
    assert campaign(folder, seeds, 12, random.Random(seed))["killed"] >= 12
    finish(folder, seeds)
    run(plain, *seeds)
    assert outcomes(folder) == outcomes(plain)
    assert left_behind(folder) == []
    assert gather_parts(folder, check_files=True).status == 0
