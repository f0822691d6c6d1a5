"""The record of a batch."""

from __future__ import annotations

import json
import logging
import os
import time

import pytest

from pyramid_seed.batch.journal import Journal
from pyramid_seed.files import file_digest


def entry(key, status="done", **more):
    return {"id": key, "file": f"{key}.mp4", "status": status, **more}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


def lines(journal):
    return [json.loads(line) for line in journal.index.read_text().splitlines()]


def test_what_each_process_records_is_gathered_in_order_of_names(journal):
    journal.record(entry("b"))
    journal.record(entry("a", "failed", reason="é"))
    assert set(journal.entries()) == {"a", "b"}
    journal.merge()
    assert lines(journal) == [entry("a", "failed", reason="é"), entry("b")]
    journal.record(entry("a"))
    assert journal.entries()["a"]["status"] == "done"
    journal.merge()
    assert lines(journal) == [entry("a"), entry("b")]


def test_rows_without_identity_belong_to_one_launch(journal):
    journal.record(entry("a"))
    journal.merge([{"status": "failed", "row": "x, line 1", "reason": "bad"}])
    assert len(lines(journal)) == 2
    journal.merge()
    assert lines(journal) == [entry("a")]


def test_entries_can_be_forgotten(journal):
    journal.record(entry("a"))
    journal.record(entry("b"))
    journal.merge(without={"a"})
    assert lines(journal) == [entry("b")]
    assert set(journal.entries()) == {"b"}


def test_a_damaged_line_is_told_and_left_out(journal, caplog):
    journal.record(entry("a"))
    journal.merge()
    with journal.index.open("a") as file:
        file.write('{"id": "b", "fi\n[]\n')
    with caplog.at_level(logging.WARNING):
        assert set(journal.entries()) == {"a"}
    assert "line 2 is damaged" in caplog.text
    assert "line 3 is damaged" in caplog.text


def test_whole_is_bit_for_bit(journal):
    path = journal.folder / "a.mp4"
    path.write_bytes(b"clip")
    done = entry("a", file_sha256=file_digest(path))
    assert journal.is_whole(done)
    assert not journal.is_whole(done | {"status": "failed"})
    assert not journal.is_whole(None)
    path.write_bytes(b"clap")
    assert not journal.is_whole(done)
    assert journal.is_done(done)
    path.unlink()
    assert not journal.is_done(done)


def test_cleaning_removes_only_what_was_half_written(journal):
    temporary = [".0123456789abcdef.tmp.mp4", ".work/u/.0123456789abcdef.tmp.safetensors"]
    day_old = time.time() - 86400
    kept = ["a.mp4", ".hidden", "mine/.0123456789abcdef.tmp.mp4", ".work/u/unit-0000.safetensors"]
    for name in (*temporary, *kept):
        path = journal.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if not name.startswith(".work"):
            os.utime(path, (day_old, day_old))
    journal.clean()
    assert not any((journal.folder / name).exists() for name in temporary)
    assert all((journal.folder / name).exists() for name in kept)


def test_cleaning_leaves_what_others_write_in_the_folder_right_now(journal):
    """The page, or `generate`, saving a clip at this moment."""
    path = journal.folder / ".0123456789abcdef.tmp.mp4"
    path.touch()
    journal.clean()
    assert path.exists()
