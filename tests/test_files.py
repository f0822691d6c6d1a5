"""Files that appear whole or not at all: what cannot be written is left as it was, and said."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed import files
from pyramid_seed.files import (
    _swap_folder,
    check_reachable,
    check_readable,
    clear_leftovers,
    file_digest,
    replacing,
    slug,
    write_file,
)
from tests.refusals import not_refused


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_comes_back_if_the_new_one_cannot_come(tmp_path):
    old = tmp_path / "clips"
    old.mkdir()
    (old / "a.png").write_text("old")
    with pytest.raises(FileNotFoundError):
        _swap_folder(tmp_path / "gone", old)
    assert names(tmp_path) == ["clips"]
    assert (old / "a.png").read_text() == "old"


def test_a_folder_is_replaced_by_a_new_one(tmp_path):
    old = tmp_path / "clips"
    old.mkdir()
    (old / "a.png").write_text("old")
    with replacing(old, overwrite=True) as folder:
        folder.mkdir()
        (folder / "b.png").write_text("new")
    assert names(tmp_path) == ["clips"]
    assert names(old) == ["b.png"]


def test_text_that_has_no_utf_8_form_is_escaped(tmp_path):
    path = tmp_path / "a.txt"
    write_file(path, "é\udce9\n")
    assert path.read_bytes() == "é\\udce9\n".encode()
    with pytest.raises(FileExistsError):
        write_file(path, b"")
    write_file(path, b"\0", overwrite=True)
    assert path.read_bytes() == b"\0"


def test_what_somebody_else_wrote_meanwhile_stays(tmp_path):
    path = tmp_path / "a.mp4"

    def write():
        with replacing(path) as temporary:
            temporary.write_text("ours")
            path.write_text("theirs")

    with pytest.raises(FileExistsError, match="already exists"):
        write()
    assert names(tmp_path) == ["a.mp4"]
    assert path.read_text() == "theirs"


def test_the_temporary_path_has_the_ending_of_the_path_and_is_known_again(tmp_path):
    for name in ("clip", "clip.mp4", "clip.latents.safetensors", ".hidden", "a.b-c"):
        with replacing(tmp_path / name) as temporary:
            assert temporary.suffix == Path(name).suffix
            assert files._TEMPORARY.fullmatch(temporary.name)
            temporary.touch()
    assert names(tmp_path) == [".hidden", "a.b-c", "clip", "clip.latents.safetensors", "clip.mp4"]


@pytest.fixture
def somebody():
    """Root may write everywhere, so the test is somebody else; `os.access` asks for the real user."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, -1, -1)
    yield
    os.setresuid(0, -1, -1)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs users as Linux has them")
def test_a_folder_without_permission_is_found_before_there_is_anything_to_write(somebody):
    # Not in tmp_path, which is in a folder of the first user alone.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "clips"
        folder.mkdir()
        folder.chmod(0o777)
        check_reachable(folder / "new" / "a.mp4")
        folder.chmod(0o555)
        with pytest.raises(
            PermissionError, match=r"a\.mp4 cannot be written: no permission to write into .*clips"
        ):
            check_reachable(folder / "new" / "a.mp4")


def test_what_is_read_is_a_file_and_named(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    cases = {
        tmp_path / "gone.mp4": "does not exist",
        tmp_path / "fifo.mp4": "is not a file but a FIFO",
        tmp_path / "loop.mp4": "cannot be read: Too many levels of symbolic links",
        tmp_path: "is a folder",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
    }
    assert not not_refused(check_readable, cases, OSError)


def test_names_that_no_file_can_have_are_refused_by_name(tmp_path):
    def write(name):
        with replacing(tmp_path / name):
            pass

    for call in (write, lambda name: check_readable(tmp_path / name)):
        assert not not_refused(call, dict.fromkeys(["a\0b", "\ud800"], "no file can be named"))
    assert names(tmp_path) == []


def test_what_fails_takes_the_folders_that_were_made_for_it_with_it(tmp_path):
    (tmp_path / "old").mkdir()

    def fail(path):
        with replacing(path):
            raise KeyboardInterrupt

    for path in (tmp_path / "new" / "er" / "a.mp4", tmp_path / "old" / "new" / "a.mp4"):
        with pytest.raises(KeyboardInterrupt):
            fail(path)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_file_takes_the_place_of_a_loop(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with replacing(tmp_path / "loop") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "loop").read_text() == "whole"


def test_a_full_disk_is_named(tmp_path):
    def write():
        with replacing(tmp_path / "a.mp4") as temporary:
            temporary.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left, nothing was written: .*a\.mp4"):
        write()
    assert names(tmp_path) == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(NotADirectoryError, match=r"b\.mp4 cannot be written: .*a\.mp4 is not a folder"):
        check_reachable(tmp_path / "a.mp4" / "b.mp4")


def test_the_digest_is_sha256_of_the_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert file_digest(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_slugs_of_other_scripts_keep_their_letters():
    for text, name in {
        "日本の船、赤い": "日本の船-赤い",
        "Ein Fuß im Café": "ein-fuss-im-café",
        "Cafe\u0301": "café",
        "ΠΛΟΊΟ И КОРАБЛЬ": "πλοίο-и-корабль",
        "हिन्दी में": "हिन्दी-में",
        "قارب 7": "قارب-7",
        "❤\ufe0f 🚢": "clip",
        "a❤\ufe0fb": "a-b",
        "日" * 40: "日" * 16,
        "xx" + "日" * 40: "xx" + "日" * 15,
        "\ud800 half": "half",
        "a\u202eb\u200d": "a-b",
    }.items():
        assert slug(text, 48) == name


@given(st.text(), st.integers(4, 80))
def test_any_text_gives_a_safe_name(text, length):
    name = slug(text, length)
    assert len(name.encode()) <= length
    assert name == unicodedata.normalize("NFC", name)
    assert not re.search(r'[\s\x00-\x1f<>:"/\\|?*.]', name)
    assert not name.startswith("-")
    assert not name.endswith("-")
    if text.isascii():
        assert name == (re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-") or "clip")


def test_slugs_are_the_names_of_earlier_versions():
    for text, name in {
        "../../etc/passwd": "etc-passwd",
        "A  Boat!": "a-boat",
        "con": "con",
        "?!": "clip",
        "": "clip",
        "x" * 99: "x" * 48,
        f"{'x' * 47} y": "x" * 47,
    }.items():
        assert slug(text, 48) == name
    assert slug("x" * 99, 60) == "x" * 60


def killed_while_writing(path: Path) -> None:
    """A real process that is killed inside `replacing`."""
    script = (
        "import os, signal, sys; from pyramid_seed.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", script, path], cwd=root, check=False).returncode == -9


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path):
    killed_while_writing(tmp_path / "a.mp4")
    (left,) = names(tmp_path)
    assert left.startswith(".")
    assert left.endswith(".tmp.mp4")
    with replacing(tmp_path / "b.mp4") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["b.mp4"]


def test_what_a_living_process_or_another_machine_writes_is_left_alone(tmp_path):
    with replacing(tmp_path / "a.mp4") as ours:
        ours.write_text("half")
        clear_leftovers(tmp_path)
        assert ours.exists()
    machine = "0" * 6 if files._machine() != "0" * 6 else "1" * 6
    young, old = (tmp_path / f".{machine}0000010{digit}00.tmp.png" for digit in "12")
    old.mkdir()
    (old / "0000.png").touch()
    young.touch()
    os.utime(old, (0, 0))
    (tmp_path / ".mine.tmp.mp4").touch()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == sorted([young.name, ".mine.tmp.mp4", "a.mp4"])


def test_a_folder_is_replaced_in_one_step_or_as_well_without_it(tmp_path, monkeypatch):
    for step in ("in one", "in two"):
        if step == "in two":
            monkeypatch.setattr(files, "_exchange", lambda *_: False)
        for name, text in (("old", "old"), ("new", "new")):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "a.png").write_text(text)
        _swap_folder(tmp_path / "new", tmp_path / "old")
        assert names(tmp_path) == ["old"], step
        assert (tmp_path / "old" / "a.png").read_text() == "new"
