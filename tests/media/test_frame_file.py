"""Frames that are encoded as they come: the file is that of `write_video`, and nothing else is ever seen."""

from __future__ import annotations

import errno
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed.media import frame_file
from pyramid_seed.media.frame_file import FrameFile
from pyramid_seed.media.video import read_comment, read_video, video_frames, write_video
from tests.cases import check_cases
from tests.media.clips import chunks, moving


def fill(file, frames, fps=8, scale=1):
    file.start(fps, scale)
    for chunk in chunks(frames):
        file.write(chunk)


def test_the_bytes_are_those_of_all_frames_written_at_once(tmp_path):
    frames, comment = moving(), "é" * 5000

    def rule(fps, scale, lossless):
        options = {"comment": comment, "overwrite": True}
        write_video(tmp_path / "a.mp4", frames, fps, scale=scale, lossless=lossless, **options)
        with FrameFile(tmp_path / "b.mp4", lossless=lossless) as file:
            fill(file, frames, fps, scale)
            file.save(tmp_path / "b.mp4", **options)
        assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
        assert read_comment(tmp_path / "b.mp4") == comment

    check_cases(product([8, 24000 / 1001, 0.1], [1, 2], [False, True]), rule)


def test_it_can_be_saved_more_than_once(tmp_path):
    frames = moving()
    with FrameFile(tmp_path / "a.mp4", lossless=True) as file:
        fill(file, frames)
        for name in ("a.mp4", "b.mp4"):
            file.save(tmp_path / name, comment=name)
        with pytest.raises(FileExistsError):
            file.save(tmp_path / "a.mp4", comment=None)
        file.save(tmp_path / "a.mp4", comment=None, overwrite=True)
    assert read_comment(tmp_path / "a.mp4") is None
    assert np.array_equal(np.stack(list(video_frames(tmp_path / "b.mp4"))), frames)


def test_nothing_is_seen_until_it_is_saved(tmp_path):
    def interrupted():
        with FrameFile(tmp_path / "new" / "a.mp4") as file:
            fill(file, moving())
            assert list(tmp_path.iterdir()) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_saving_leaves_everything_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"before")
    stored = frame_file.stored_packets

    def full(*arguments):
        packets = stored(*arguments)
        yield next(packets)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with FrameFile(tmp_path / "a.mp4") as file:
        fill(file, moving())
        with monkeypatch.context() as patch:
            patch.setattr(frame_file, "stored_packets", full)
            with pytest.raises(OSError, match="No space left"):
                file.save(tmp_path / "a.mp4", comment=None, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
        assert (tmp_path / "a.mp4").read_bytes() == b"before"
        file.save(tmp_path / "a.mp4", comment=None, overwrite=True)
    assert len(read_video(tmp_path / "a.mp4")[0]) == 17


def test_a_full_disk_is_told_by_write(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (99, 64, 64, 3), np.uint8)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(frame_file.tempfile, "TemporaryFile", lambda dir: full.open("r+b", buffering=0))
    with FrameFile(tmp_path / "a.mp4", lossless=True) as file:
        file.start(8, 1)
        with pytest.raises(OSError, match="No space left"):
            file.write(frames)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"for \.mp4 only, got 'a.gif'"):
        FrameFile(tmp_path / "a.gif")
    file = FrameFile(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="save the clip inside `with FrameFile"):
        file.start(8, 1)
    with file:
        with pytest.raises(ValueError, match="no frames have come"):
            file.save(tmp_path / "a.mp4", comment=None)
        with pytest.raises(ValueError, match="fps must be between"):
            file.start(0, 1)
        with pytest.raises(ValueError, match="scale must be a whole number"):
            file.start(8, 0)
        file.start(8, 2)
        with pytest.raises(ValueError, match="must be a numpy array of uint8"):
            file.write(moving().astype(float))
        file.write(moving(1))
        with pytest.raises(ValueError, match="has the frames of another clip"):
            file.start(8, 1)
        with pytest.raises(ValueError, match="NUL"):
            file.save(tmp_path / "a.mp4", comment="a\0b")
        for ending, scale, lossless in ((".gif", None, False), (".mp4", 3, False), (".mp4", None, True)):
            with pytest.raises(ValueError, match=r"already encoded, as \.mp4 with scale=2, lossless=False"):
                file.check(ending, scale, lossless)
        file.check(".mp4", 2, False)
    with pytest.raises(ValueError, match="save the clip inside"):
        file.save(tmp_path / "a.mp4", comment=None)
    with FrameFile(file.path) as odd:
        odd.start(8, 1)
        with pytest.raises(ValueError, match="must be even, got 31x32; use scale=2"):
            odd.write(moving(1, 31, 32))
    assert list(tmp_path.iterdir()) == []
