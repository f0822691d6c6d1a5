"""What each process did, as a file."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from pyramid_seed.batch.errors import OutputError
from pyramid_seed.batch.log import log_file
from tests.batch.makers import log_of

logger = logging.getLogger("pyramid_seed.somewhere")


def test_the_packages_messages_are_appended(tmp_path):
    package = logging.getLogger("pyramid_seed")
    before = package.level, list(package.handlers)
    for word in ("first", "second"):
        with log_file(tmp_path, "process-3"):
            logger.info("%s message", word)
            logger.debug("detail")
    lines = log_of(tmp_path, 3).splitlines()
    assert [line.rpartition(" INFO ")[2] for line in lines] == ["first message", "second message"]
    assert (package.level, list(package.handlers)) == before
    logger.info("afterwards")
    assert len(log_of(tmp_path, 3).splitlines()) == 2


def test_an_error_is_written_with_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), log_file(tmp_path, "process-0"):
        _ = 1 / 0
    assert "ended by an error\nTraceback" in log_of(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_in_the_end_not_in_the_middle_of_the_work(tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "process-0.log").symlink_to("/dev/full")
    worked = []

    def work():
        with log_file(tmp_path, "process-0"):
            logger.info("lost")
            worked.append(True)

    with pytest.raises(OutputError, match="no space is left"):
        work()
    assert worked
    assert capsys.readouterr().err == ""


def test_a_log_that_would_wait_for_a_reader(tmp_path):
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "logs" / "process-0.log")
    with pytest.raises(OutputError, match=r"process-0\.log is a FIFO"), log_file(tmp_path, "process-0"):
        pass


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "logs").touch()
    with pytest.raises(OutputError, match="cannot be written to"), log_file(tmp_path, "process-0"):
        pass
