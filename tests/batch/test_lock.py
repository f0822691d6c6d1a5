"""One batch at a time in a folder: real processes, one of them killed, with the system's lock and without."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyramid_seed.batch.errors import OutputError
from pyramid_seed.batch.lock import folder_lock
from tests.batch.makers import NoiseMaker, run
from tests.forks import fork

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_FCNTL = "import sys; sys.modules['fcntl'] = None"
IMPATIENT = "\nimport pyramid_seed.batch.lock; pyramid_seed.batch.lock._MARKER_SECONDS = 0.5"
HOLD = """
import sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from pyramid_seed.batch.errors import OutputError
from pyramid_seed.batch.lock import folder_lock

try:
    with folder_lock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except OutputError as error:
    print(error, flush=True)
"""


@contextmanager
def other_process(folder: Path, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        yield process
        process.stdin.close()


def says(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def test_two_batches_do_not_share_a_folder(tmp_path):
    messages = []

    def second():
        with pytest.raises(OutputError) as caught:
            run(tmp_path, 2)
        messages.append(str(caught.value))

    assert run(tmp_path, 1, maker=NoiseMaker({(1, 1): second})).status == 0
    assert messages == [
        f"{tmp_path} is in use by another batch; wait for it, or choose another folder",
    ]


@pytest.mark.parametrize("before", ["", WITHOUT_FCNTL], ids=["locked", "marked"])
def test_the_lock_goes_with_its_process(tmp_path, before):
    with other_process(tmp_path, before) as first:
        assert says(first) == "held"
        with other_process(tmp_path, before + IMPATIENT) as second:
            assert f"{tmp_path} is in use by another batch" in says(second)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with other_process(tmp_path, before) as third:
            assert says(third) == "held"
    with other_process(tmp_path, before) as fourth:  # the third has ended as it should
        assert says(fourth) == "held"
    assert not (tmp_path / ".work" / "lock.owner").exists()


@pytest.fixture(
    params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF], ids=errno.errorcode.get
)
def no_locks(request, monkeypatch):
    """A file system whose files cannot be locked."""

    def refuse(file, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_files_that_cannot_be_locked_do_not_stop_a_batch(tmp_path, caplog):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "lock").touch()  # as versions before this one leave it
    marker = tmp_path / ".work" / "lock.owner"
    with folder_lock(tmp_path):
        assert str(os.getpid()) in marker.read_text()
    assert f"files cannot be locked in {tmp_path}: {marker} serves as the lock" in caplog.text
    assert not marker.exists()
    assert run(tmp_path, 1).status == 0


@pytest.mark.usefixtures("no_locks")
def test_the_marker_of_another_machine_is_named_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("pyramid_seed.batch.lock._MARKER_SECONDS", 0.1)
    marker = tmp_path / ".work" / "lock.owner"
    with folder_lock(tmp_path):
        lines = marker.read_text().splitlines()
    marker.write_text("\n".join([lines[0], "another-machine", *lines[2:]]) + "\n")
    with pytest.raises(OutputError, match=rf"{marker} serves as the lock: .*remove it .*another-machine"):
        run(tmp_path, 1)
    marker.unlink()
    assert run(tmp_path, 1).status == 0


def test_another_error_of_the_lock_names_the_folder(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=rf"{tmp_path}: cannot be written to: .*Input/output error"):
        run(tmp_path, 1)


def import_without_fcntl() -> int:
    """Import all that belongs to a batch anew; what others have of fcntl stays."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pyramid_seed", "filelock", "fcntl"):
            del sys.modules[name]
    sys.modules["fcntl"] = None
    warnings.simplefilter("ignore")
    importlib.import_module("pyramid_seed.batch.run")
    return 0 if sys.modules["filelock"].FileLock is sys.modules["filelock"].SoftFileLock else 3


@pytest.mark.slow
def test_a_batch_can_be_imported_where_there_is_no_fcntl():
    assert fork(import_without_fcntl).wait() == (0, "")
