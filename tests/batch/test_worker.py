"""Batches with a maker that needs no model: what is kept, gone on from, reported."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from dataclasses import dataclass, field, replace

import pytest
import torch

from pyramid_seed.batch.identity import Job, content_key
from pyramid_seed.batch.items import BatchItem
from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.launch import join_launch
from pyramid_seed.batch.rows import BadRow
from pyramid_seed.batch.units import save_unit
from pyramid_seed.batch.worker import OutputError, Plan, run_jobs
from pyramid_seed.media.frame_file import FrameFile
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.video import read_video
from pyramid_seed.noise import NoiseKey, NoiseStreams
from pyramid_seed.presets import load_preset

UNITS = 3


class Killed(BaseException):
    """What SIGKILL does, as far as files are concerned: nothing after it runs."""


@dataclass
class NoiseClip:
    digest: str
    file: FrameFile

    def save(self, path, *, lossless, overwrite):
        self.file.check(path.suffix, None, lossless)
        self.file.save(path, comment=None, overwrite=overwrite)
        return path


@dataclass
class NoiseMaker:
    """Clips of keyed noise, each unit mixed with the one before; `before` is called before each unit."""

    before: dict = field(default_factory=dict)
    machine: str = "here"
    made: list = field(default_factory=list)

    def origin(self, item):
        return {"machine": self.machine}

    def make(self, job, known, on_step, on_unit, sink):
        item = job.item
        noise = NoiseStreams(item.seed)
        units = [] if known is None else list(known.latents.split(1, dim=2))
        assert known is None or known.stage_digests == tuple((str(unit),) for unit in range(len(units)))
        for unit in range(len(units), UNITS):
            self.before.get((item.seed, unit), lambda: None)()
            latents = noise.draw(NoiseKey("initial", unit, 0), (1, 3, 1, 16, 16))
            units.append(latents if not units else 0.5 * units[-1] + latents)
            on_step()
            on_unit(unit, units[-1], [str(unit)])
            self.made.append((item.seed, unit))
        values = torch.cat(units, dim=2)[0].permute(1, 2, 3, 0) * 40 + 128
        frames = values.clamp(0, 255).to(torch.uint8).numpy()
        sink.start(8, 1)
        sink.write(frames)
        return NoiseClip(frames_digest(frames), sink)


def jobs_of(*seeds):
    items = [BatchItem("a boat", seed, replace(load_preset("tiny"), num_frames=UNITS)) for seed in seeds]
    return tuple(Job(item, content_key(item, "w"), (1,) * UNITS) for item in items)


def run(folder, *seeds, maker=None, bad=(), duplicates=0):
    plan = Plan(jobs_of(*seeds), tuple(bad), duplicates)
    maker = maker or NoiseMaker()
    return run_jobs(folder, join_launch(environment={}), lambda: plan, maker, lossless=True, progress=False)


def raiser(error):
    def action():
        raise error

    return action


def index(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"), 1, 2, 3, 4, 5).digests


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
    assert "digest" in (tmp_path / "logs" / "process-0.log").read_text()
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


@pytest.mark.parametrize("unit", range(UNITS))
def test_a_killed_clip_goes_on_after_its_last_finished_unit(tmp_path, plain, unit):
    with pytest.raises(Killed):
        run(tmp_path, 1, 2, 3, maker=NoiseMaker({(2, unit): raiser(Killed)}))
    maker = NoiseMaker()
    summary = run(tmp_path, 1, 2, 3, maker=maker)
    assert summary.digests.items() <= plain.items()
    assert len(summary.digests) == 3
    assert [made for seed, made in maker.made if seed == 2] == list(range(unit, UNITS))
    assert [e["resumed_units"] for e in index(tmp_path) if e["seed"] == "2"] == [unit]
    assert not (tmp_path / ".work" / jobs_of(2)[0].id).exists()


def test_killed_between_the_file_and_its_record(tmp_path, plain, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", lambda self, entry: raiser(Killed)())
        with pytest.raises(Killed):
            run(tmp_path, 1)
    assert (tmp_path / jobs_of(1)[0].file).exists()
    maker = NoiseMaker()
    assert run(tmp_path, 1, maker=maker).digests.items() <= plain.items()
    assert maker.made == [(1, UNITS - 1)]


def test_killed_while_writing_leaves_nothing_half_written(tmp_path, plain, monkeypatch):
    def half(path, *_):
        path.with_name(".0123456789abcdef.tmp.mp4").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pyramid_seed.media.frame_file.mux_mp4", half)
        with pytest.raises(Killed):
            run(tmp_path, 1)
    assert not (tmp_path / jobs_of(1)[0].file).exists()
    assert run(tmp_path, 1).digests.items() <= plain.items()
    assert not list(tmp_path.glob(".*.tmp*"))


def test_units_of_another_machine_are_refused(tmp_path, plain):
    with pytest.raises(Killed):
        run(tmp_path, 1, maker=NoiseMaker({(1, 2): raiser(Killed)}))
    maker = NoiseMaker(machine="there")
    assert run(tmp_path, 1, maker=maker).digests.items() <= plain.items()
    assert len(maker.made) == UNITS
    assert "other versions" in (tmp_path / "logs" / "process-0.log").read_text()


def test_units_that_are_not_the_clips_are_refused(tmp_path, plain):
    (job,) = jobs_of(1)
    folder, latents = tmp_path / ".work" / job.id, torch.zeros(1, 3, 1, 16, 16)
    save_unit(folder, 0, latents, ["0"], {"machine": "here", "key": "x"})
    assert run(tmp_path, 1).digests.items() <= plain.items()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("height must be a multiple of 64"),
        FileNotFoundError("image.png"),
        FloatingPointError("latents are not finite"),
        torch.OutOfMemoryError("out of memory"),
        MemoryError(),
    ],
)
def test_one_failing_item_does_not_stop_the_others(tmp_path, plain, error):
    summary = run(tmp_path, 1, 2, 3, maker=NoiseMaker({(3, 1): raiser(error)}))
    bad = jobs_of(3)[0].file
    assert summary.status == 1
    assert summary.failed == {bad: f"{type(error).__name__}: {error}"}
    assert len(summary.digests) == 2
    assert bad not in summary.digests
    assert [entry["status"] for entry in index(tmp_path) if entry["file"] == bad] == ["failed"]
    assert "Traceback" in (tmp_path / "logs" / "process-0.log").read_text()
    again = run(tmp_path, 1, 2, 3)
    assert (again.status, again.made, len(again.digests)) == (0, 1, 3)
    assert again.digests.items() <= plain.items()


def test_rows_of_which_nothing_can_be_made_are_recorded(tmp_path):
    summary = run(tmp_path, 1, bad=[BadRow("list, line 2", "too wide")])
    assert (summary.status, summary.failed) == (1, {"list, line 2": "too wide"})
    assert index(tmp_path)[-1] == {"status": "failed", "row": "list, line 2", "reason": "too wide"}
    assert run(tmp_path, 1).status == 0
    assert len(index(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_running_step(tmp_path, plain, number):
    before, during = signal.getsignal(number), []

    def send():
        during.append(signal.getsignal(number))
        os.kill(os.getpid(), number)

    maker = NoiseMaker({(2, 1): send})
    summary = run(tmp_path, 1, 2, 3, maker=maker)
    assert maker.made == [(seed, unit) for seed, unit in maker.made if seed != 2 or unit == 0]
    assert summary.status == 128 + number
    assert summary.missing == 3 - len(summary.digests)
    assert during != [before]
    assert signal.getsignal(number) == before
    assert "stopped" in (tmp_path / "logs" / "process-0.log").read_text()
    rest = run(tmp_path, 1, 2, 3)
    assert rest.status == 0
    assert rest.digests.items() <= plain.items()


def test_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path, 1)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_full_disk_ends_the_batch_and_says_so(tmp_path, plain, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pyramid_seed.batch.worker.save_unit", full)
        with pytest.raises(OutputError, match="no space is left; what is finished is kept"):
            run(tmp_path, 1)
    assert run(tmp_path, 1).digests.items() <= plain.items()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # files that failed may be open yet


@pytest.mark.parametrize("free", [0, 8, 24, 48, 64, 96])
def test_whatever_a_full_disk_cuts_off_is_made_later(small_disk, plain, free):
    filler = small_disk / "filler"
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - free * 1024))
    with pytest.raises(OutputError, match=r"no space is left"):
        run(small_disk / "clips", 1, 2, 3, 4, 5)
    for path in (small_disk / "clips").glob("*.mp4"):
        assert frames_digest(read_video(path)[0]) == plain[path.name]
    filler.unlink()
    assert run(small_disk / "clips", 1, 2, 3, 4, 5).digests == plain


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        run(tmp_path / "file" / "clips", 1)


def test_two_batches_do_not_share_a_folder(tmp_path):
    errors = []

    def second():
        with pytest.raises(OutputError) as caught:
            run(tmp_path, 2)
        errors.append(str(caught.value))

    assert run(tmp_path, 1, maker=NoiseMaker({(1, 1): second})).status == 0
    assert "in use by another batch" in errors[0]


def test_a_plan_that_cannot_be_made_ends_the_batch(tmp_path):
    def refuse():
        raise ValueError("bad list")

    launch = join_launch(environment={})
    with pytest.raises(ValueError, match="bad list"):
        run_jobs(tmp_path, launch, refuse, NoiseMaker(), lossless=True, progress=False)
    follower = replace(launch, rank=1)
    assert run_jobs(tmp_path, follower, refuse, NoiseMaker(), lossless=True, progress=False).status == 0


def test_processes_share_the_plan(tmp_path, plain):
    launch = join_launch(environment={})
    plan = Plan(jobs_of(1, 2, 3))
    follower = replace(launch, rank=1)

    def second_process():
        summary = run_jobs(
            tmp_path, follower, raiser(AssertionError), NoiseMaker(), lossless=True, progress=False
        )
        assert (summary.status, summary.is_main) == (0, False)

    first = min(plan.jobs, key=lambda job: job.key).item.seed
    maker = NoiseMaker({(first, 1): second_process})
    summary = run_jobs(tmp_path, launch, lambda: plan, maker, lossless=True, progress=False)
    assert {seed for seed, _ in maker.made} == {first}
    assert len(summary.digests) == 3
    assert summary.digests.items() <= plain.items()
    assert sorted(entry["process"] for entry in index(tmp_path)) == [0, 1, 1]


def test_the_contact_sheet_is_complete_after_a_resume(tmp_path):
    run(tmp_path, 1, 2)
    whole = (tmp_path / "contact_sheet.png").read_bytes()
    for strip in (tmp_path / ".work" / "strips").iterdir():
        strip.unlink()
    (tmp_path / "contact_sheet.png").unlink()
    run(tmp_path, 1, 2)
    assert (tmp_path / "contact_sheet.png").read_bytes() == whole
