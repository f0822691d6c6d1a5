"""`run_jobs`: what is kept, what is made again, who makes what."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from pyramid_seed.batch.jobs import run_jobs
from pyramid_seed.batch.launch import join_launch
from pyramid_seed.batch.summary import Plan
from tests.batch.makers import NoiseMaker, index, jobs_of, log_of, raiser, run


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_of_clips(tmp_path, plain):
    summary = run(tmp_path, 1, 2, duplicates=3)
    assert (summary.made, summary.found, summary.status, summary.duplicates) == (2, 0, 0, 3)
    assert summary.digests.items() <= plain.items()
    assert listing(tmp_path) == sorted(
        [*summary.digests, ".work", "contact_sheet.png", "index.jsonl", "logs"]
    )
    for entry in index(tmp_path):
        assert entry["status"] == "done"
        assert entry["digest"] == summary.digests[entry["file"]]
        assert entry["seconds"] >= 0
    assert "digest" in log_of(tmp_path)
    assert sorted(path.name for path in (tmp_path / ".work").iterdir()) == ["lock", "records", "strips"]


@pytest.mark.parametrize("seeds", [(5, 3, 1, 2, 4), (2, 4), (1, 2, 3, 4, 5, 6)])
def test_other_items_change_no_clip(tmp_path, plain, seeds):
    digests = run(tmp_path, *seeds).digests
    assert {name: digests[name] for name in digests.keys() & plain.keys()}.items() <= plain.items()
    assert len(digests) == len(seeds)


def test_what_is_whole_is_not_made_again(tmp_path, plain):
    run(tmp_path, 1, 2)
    maker = NoiseMaker()
    summary = run(tmp_path, 1, 2, 3, maker=maker)
    assert (summary.made, summary.found) == (1, 2)
    assert maker.made == [(3, 0), (3, 1), (3, 2)]
    again = run(tmp_path, 1, 2, 3)
    assert (again.made, again.found, again.digests) == (0, 3, summary.digests)


@pytest.mark.parametrize("damage", ["change", "remove", "forget"])
def test_what_is_not_whole_is_made_again(tmp_path, damage):
    before = run(tmp_path, 1, 2).digests
    path = tmp_path / jobs_of(1)[0].file
    if damage == "change":
        path.write_bytes(path.read_bytes() + b"x")
    elif damage == "remove":
        path.unlink()
    else:
        lines = (tmp_path / "index.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "index.jsonl").write_text("".join(line for line in lines if path.name not in line))
    maker = NoiseMaker()
    summary = run(tmp_path, 1, 2, maker=maker)
    assert summary.digests == before
    assert {seed for seed, _ in maker.made} == {1}


def test_what_is_whole_is_not_opened_unless_asked_for(tmp_path, monkeypatch):
    before = run(tmp_path, 1, 2).digests
    path = tmp_path / jobs_of(1)[0].file
    data, state = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with monkeypatch.context() as patch:
        patch.setattr("pyramid_seed.batch.journal.file_digest", raiser(AssertionError))
        assert run(tmp_path, 1, 2).found == 2
    summary = run(tmp_path, 1, 2, check_files=True)
    assert (summary.found, summary.made, summary.digests) == (1, 1, before)
    assert path.read_bytes() == data


def test_new_clips_go_into_folders_if_asked_for(tmp_path, plain):
    """Those that are there stay where they are, with or without."""
    run(tmp_path, 1)
    first, second, third = (job.file for job in jobs_of(1, 2, 3))
    in_folder = f"{jobs_of(2)[0].id[:2]}/{second}"
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / in_folder[:2]).symlink_to(outside)
    summary = run(tmp_path, 1, 2, folders=True)
    assert summary.digests == {first: plain[first], in_folder: plain[second]}
    assert [entry["file"] for entry in index(tmp_path)] == [in_folder, first]
    assert list(outside.iterdir()) == []
    summary = run(tmp_path, 1, 2, 3)
    assert (summary.found, summary.digests.keys()) == (2, {first, in_folder, third})
    assert not (tmp_path / second).exists()
    assert not list(tmp_path.rglob(".*.tmp*"))


def test_a_clip_is_known_by_its_id_under_the_name_of_an_earlier_version(tmp_path):
    """Names left out all letters but a-z: what is finished keeps its name."""
    before = run(tmp_path, 1).digests
    (job,) = jobs_of(1)
    earlier = job.file.replace("a-boat", "clip")
    (tmp_path / job.file).rename(tmp_path / earlier)
    index_file = tmp_path / "index.jsonl"
    index_file.write_text(index_file.read_text().replace(job.file, earlier))
    maker = NoiseMaker()
    summary = run(tmp_path, 1, maker=maker)
    assert (summary.found, summary.digests, maker.made) == (1, {earlier: before[job.file]}, [])


def test_a_plan_that_cannot_be_made_ends_the_batch(tmp_path):
    def refuse():
        raise ValueError("bad list")

    launch = join_launch(environment={})
    with pytest.raises(ValueError, match="bad list"):
        run_jobs(tmp_path, launch, refuse, NoiseMaker(), lossless=True, progress=False)
    follower = replace(launch, rank=1)
    assert run_jobs(tmp_path, follower, refuse, NoiseMaker(), lossless=True, progress=False).status == 0


def test_processes_share_the_plan(tmp_path, plain):
    launch = replace(join_launch(environment={}), world_size=2)
    plan = Plan(jobs_of(1, 2, 3))
    follower = replace(launch, rank=1)

    def second_process():
        return run_jobs(
            tmp_path, follower, raiser(AssertionError), NoiseMaker(), lossless=True, progress=False
        )

    first = min(plan.jobs, key=lambda job: job.key).item.seed
    with ThreadPoolExecutor() as threads:
        second: list[Future] = []

        def let_it_make_the_others():
            second.append(threads.submit(second_process))
            launch.wait_for("left", 1, second[0].done)

        maker = NoiseMaker({(first, 1): let_it_make_the_others})
        summary = run_jobs(tmp_path, launch, lambda: plan, maker, lossless=True, progress=False)
        assert (second[0].result().status, second[0].result().is_main) == (0, False)
    assert {seed for seed, _ in maker.made} == {first}
    assert len(summary.digests) == 3
    assert summary.digests.items() <= plain.items()
    assert sorted(entry["process"] for entry in index(tmp_path)) == [0, 1, 1]
