"""A process at work: what is killed, fails or runs out of space loses no finished unit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from pyramid_seed.batch.errors import ModelError, OutputError
from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.units import save_unit
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.video import read_video
from tests.batch.makers import UNITS, Killed, NoiseMaker, index, jobs_of, log_of, raiser, run
from tests.cases import check_cases
from tests.disks import small_disk_at


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


def test_killed_between_the_record_and_the_removal_of_its_units(tmp_path, plain, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self, key: raiser(Killed)())
        with pytest.raises(Killed):
            run(tmp_path, 1)
    units = tmp_path / ".work" / jobs_of(1)[0].id
    assert units.exists()
    assert run(tmp_path, 1).digests.items() <= plain.items()
    assert not units.exists()


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
    assert "other versions" in log_of(tmp_path)


def test_units_that_are_not_the_clips_are_refused(tmp_path, plain):
    (job,) = jobs_of(1)
    folder, latents = tmp_path / ".work" / job.id, torch.zeros(1, 3, 1, 16, 16)
    save_unit(folder, 0, latents, ["0"], {"machine": "here", "key": "x"})
    assert run(tmp_path, 1).digests.items() <= plain.items()


def test_what_is_in_the_way_of_units_is_set_aside(tmp_path, plain):
    """Folders, loops and files in the place of units, of the clip and of their folder."""
    (job,) = jobs_of(1)
    work = Path(".work") / job.id
    makers = {
        "folder": lambda path: path.mkdir(),
        "loop": lambda path: path.symlink_to(path),
        "file": Path.touch,
    }
    places = [work, *(work / f"unit-{unit:04d}.safetensors" for unit in range(UNITS)), work / job.file]

    def rule(make, place):
        folder = tmp_path / f"{place.name}-{make}"
        (folder / place).parent.mkdir(parents=True)
        makers[make](folder / place)
        assert run(folder, 1).digests.items() <= plain.items()

    check_cases([(make, place) for make in makers for place in places], rule)


@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (1, 2, 1, 16, 16), (3, 1, 16, 16), (1, 3, 2, 16, 16)])
def test_forged_units_are_made_anew(tmp_path, plain, capsys, shape):
    """By somebody who knows the digest and the origin."""
    (job,) = jobs_of(1)
    origin = {"machine": "here", "key": job.key}
    save_unit(tmp_path / ".work" / job.id, 0, torch.zeros(shape), ["0"], origin)
    assert run(tmp_path, 1).digests.items() <= plain.items()
    assert "warning: " in capsys.readouterr().err
    assert index(tmp_path)[0]["resumed_units"] == 0


def test_too_many_open_files_are_no_items_fault(tmp_path, plain):
    """However deep the cause lies."""
    wrapped = ValueError("image.png cannot be read as an image")
    wrapped.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    for error in (wrapped, OSError(errno.ENFILE, os.strerror(errno.ENFILE))):
        with pytest.raises(OSError, match="too many files are open; finished work is kept"):
            run(tmp_path, 1, 2, maker=NoiseMaker({(2, 1): raiser(error), (1, 1): raiser(error)}))
    assert run(tmp_path, 1).digests.items() <= plain.items()


def test_a_models_fault_ends_the_batch(tmp_path, plain):
    error = ModelError("model.safetensors is damaged")
    maker = NoiseMaker({(seed, 0): raiser(error) for seed in (1, 2, 3)})
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        run(tmp_path, 1, 2, 3, maker=maker)
    assert log_of(tmp_path).count("begun") == 1
    assert run(tmp_path, 1).digests.items() <= plain.items()


def test_failing_items_do_not_stop_the_others(tmp_path, plain):
    errors = {
        1: ValueError("height must be a multiple of 64"),
        2: FileNotFoundError("image.png"),
        3: torch.OutOfMemoryError("out of memory"),
        4: MemoryError(),
    }
    maker = NoiseMaker({(seed, 1): raiser(error) for seed, error in errors.items()})
    summary = run(tmp_path, 1, 2, 3, 4, 5, maker=maker)
    files = {seed: job.file for seed, job in zip(range(1, 6), jobs_of(1, 2, 3, 4, 5), strict=True)}
    assert summary.status == 1
    assert summary.failed == {
        files[seed]: f"{type(error).__name__}: {error}" for seed, error in errors.items()
    }
    assert list(summary.digests) == [files[5]]
    assert {entry["file"]: entry["status"] for entry in index(tmp_path)} == {
        file: "done" if seed == 5 else "failed" for seed, file in files.items()
    }
    assert log_of(tmp_path).count("Traceback") == len(errors)
    second = run(tmp_path, 1, 2, 3, 4, 5)
    assert (second.status, second.made, second.digests) == (0, 4, plain)


def test_a_full_disk_ends_the_batch_and_says_so(tmp_path, plain, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pyramid_seed.batch.worker.save_unit", full)
        with pytest.raises(OutputError, match="no space is left; finished work is kept"):
            run(tmp_path, 1)
    assert run(tmp_path, 1).digests.items() <= plain.items()


@pytest.fixture
def small_disk(tmp_path):
    with small_disk_at(tmp_path / "disk", "1m") as folder:
        yield folder


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
