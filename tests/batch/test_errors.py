"""What is wrong with an output folder is said, with the folder's name."""

from __future__ import annotations

import errno
import os

import pytest

from pyramid_seed.batch.errors import OutputError, writing
from tests.batch.makers import run


def fail(folder, error):
    with writing(folder):
        raise error


def test_a_full_disk_and_others_are_told_apart(tmp_path):
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OutputError, match=rf"{tmp_path}: no space is left; finished work is kept"):
            fail(tmp_path, OSError(number, os.strerror(number)))
    with pytest.raises(OutputError, match=rf"{tmp_path}: cannot be written to: .*Permission denied"):
        fail(tmp_path, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(OutputError, match=r"^said already$"):
        fail(tmp_path, OutputError("said already"))
    with pytest.raises(ValueError, match="of another kind"):
        fail(tmp_path, ValueError("of another kind"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        run(tmp_path / "file" / "clips", 1)
