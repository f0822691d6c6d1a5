"""The record of a batch."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed.batch.entries import read_entry
from pyramid_seed.batch.journal import Journal, file_state
from pyramid_seed.files import file_digest
from tests.cases import check_cases

A, B = "a" * 16, "b" * 16
FACTS = {"digest": "0" * 64, "file_sha256": "1" * 64, "num_frames": 3}


def entry(key, status="done", **more):
    facts = FACTS if status == "done" else {"reason": "bad"}
    return {"file": f"{key}.mp4", "status": status, "id": key, **facts, **more}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


def lines(journal):
    return [json.loads(line) for line in journal.index.read_text().splitlines()]


def merge(journal, others=(), without=()):
    """Puts what was recorded into the index, in order."""
    journal.gather(is_over=True)
    with closing(journal.entries()) as entries:
        entries.put_in_order(others, without=without)
    journal.forget_gathered()


def entries_of(journal):
    journal.gather(is_over=True)
    with closing(journal.entries()) as entries:
        return dict(entries)


def test_what_each_process_records_is_gathered_in_order_of_names(journal):
    journal.record(entry(B))
    journal.record(entry(A, "failed", reason="é"))
    assert set(entries_of(journal)) == {A, B}
    merge(journal)
    assert lines(journal) == [entry(A, "failed", reason="é"), entry(B)]
    journal.record(entry(A))
    assert entries_of(journal)[A]["status"] == "done"
    merge(journal)
    assert lines(journal) == [entry(A), entry(B)]


def test_rows_without_identity_belong_to_one_launch(journal):
    journal.record(entry(A))
    merge(journal, [{"status": "failed", "row": "x, line 1", "reason": "bad"}])
    assert len(lines(journal)) == 2
    merge(journal)
    assert lines(journal) == [entry(A)]


def test_entries_can_be_forgotten(journal):
    journal.record(entry(A))
    journal.record(entry(B))
    merge(journal, without={A})
    assert lines(journal) == [entry(B)]
    assert set(entries_of(journal)) == {B}


def test_a_damaged_line_is_told_and_left_out(journal, caplog):
    journal.record(entry(A))
    merge(journal)
    with journal.index.open("a") as file:
        file.write('{"id": "b", "fi\n[]\n')
    with caplog.at_level(logging.WARNING):
        assert set(entries_of(journal)) == {A}
    assert "line 2: it is not an entry" in caplog.text
    assert "line 3: it is not an entry" in caplog.text


def test_half_a_line_takes_no_other_with_it(journal, caplog):
    """Neither in the index nor in a log, whose other half may come yet."""
    journal.record(entry(A))
    (log,) = (journal.folder / ".work" / "records").iterdir()
    line = log.read_bytes()
    journal.gather()
    with journal.index.open("ab") as index, log.open("ab") as file:
        index.write(line[:50])
        other = line.replace(A.encode(), B.encode())
        file.write(other[:70])
        index.flush()
        file.flush()
        journal.gather()
        assert journal.index.read_bytes() == line + line[:50] + b"\n"
        file.write(other[70:] + line[:60])
    with caplog.at_level(logging.WARNING):
        assert set(entries_of(journal)) == {A, B}
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        f"{journal.index}, line {number}" for number in (2, 4)
    ]
    merge(journal)
    assert lines(journal) == [entry(A), entry(B)]
    assert not log.exists()


def test_the_latest_entry_of_an_item_counts(journal):
    other = Journal(journal.folder)
    journal.record(entry(A, "failed"))
    journal.gather()
    other.record(entry(A))
    other.record(entry(B, seconds=1.0))
    journal.gather()
    journal.record(entry(B, seconds=2.0))
    assert entries_of(journal) == {A: entry(A), B: entry(B, seconds=2.0)}
    assert len(lines(journal)) == 4
    merge(journal)
    assert lines(journal) == [entry(A), entry(B, seconds=2.0)]


def is_whole(journal, **options):
    with closing(journal.entries()) as entries:
        return journal.is_whole(entries, A, **options)


def test_whole_is_what_was_written(journal, monkeypatch):
    """By size and time of the last change; where they differ, or are not known, by every bit."""
    path = journal.folder / f"{A}.mp4"
    path.write_bytes(b"clip")
    done = entry(A, file_sha256=file_digest(path))
    assert not is_whole(journal)
    for recorded, whole in ((done | {"status": "failed", "reason": ""}, False), (done, True)):
        journal.record(recorded)
        merge(journal)
        assert is_whole(journal) is whole
    assert entries_of(journal)[A] == done | file_state(path.stat())

    read = []
    monkeypatch.setattr(
        "pyramid_seed.batch.journal.file_digest", lambda path: read.append(path) or file_digest(path)
    )
    assert is_whole(journal)
    assert read == []
    assert is_whole(journal, check_file=True)
    assert read == [path]
    os.utime(path, ns=(0, 5))
    for _ in range(2):  # what is whole is read once
        assert is_whole(journal)
        assert len(read) == 2

    path.write_bytes(b"clap")
    os.utime(path, ns=(0, 5))
    assert is_whole(journal)
    assert not is_whole(journal, check_file=True)
    os.utime(path, ns=(0, 6))
    assert not is_whole(journal)
    assert journal.is_done(done)
    path.unlink()
    assert not is_whole(journal)
    assert not journal.is_done(done)
    path.mkdir()
    assert not is_whole(journal)


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


DAMAGED = {
    "not UTF-8": json.dumps(entry(A)).encode().replace(b"done", b"d\xffne"),
    "cut off": json.dumps(entry(A)).encode()[:-9],
    "a list": b"[1]",
    "nested deep": b"[" * 100_000,
    "nested deep in a field": b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number in place of text": json.dumps(entry(A) | {"file": 3}).encode(),
    "no file": json.dumps({"id": A, "status": "done"}).encode(),
    "no digest": json.dumps({"id": A, "status": "done", "file": f"{A}.mp4"}).encode(),
    "an id that leads out": json.dumps(entry(A) | {"id": "../../../evil"}).encode(),
    "a file that leads out": json.dumps(entry(A) | {"file": f"../{A}.mp4"}).encode(),
    "a file elsewhere": json.dumps(entry(A) | {"file": f"/tmp/{A}.mp4"}).encode(),
    "the file of another": json.dumps(entry(A) | {"file": f"{B}.mp4"}).encode(),
    "a file with a long name": json.dumps(entry(A) | {"file": f"{'x' * 300}{A}.mp4"}).encode(),
    "a file with an escape": json.dumps(entry(A) | {"file": f"\x1b[2J{A}.mp4"}).encode(),
    "another ending": json.dumps(entry(A) | {"file": f"{A}.mp4.png"}).encode(),
    "no frames": json.dumps(entry(A, num_frames=0)).encode(),
    "not a number": json.dumps(entry(A, seconds=float("nan"))).encode(),
    "another status": json.dumps(entry(A, "gone")).encode(),
    "a number too large": json.dumps(entry(A)).encode().replace(b": 3", b": 1" + b"0" * 5000),
    "nothing": b"\0",
}


def test_damaged_entries_are_left_out_and_said(tmp_path, caplog):
    """In the index, in a log, and in a record of an earlier version; their neighbours stay."""

    def rule(name, data):
        folder = tmp_path / name
        journal = Journal(folder)
        journal.record(entry(B))
        merge(journal)
        records = folder / ".work" / "records"
        for place in (journal.index, records / f"{A}.json", records / "log.jsonl"):
            caplog.clear()
            journal = Journal(folder)
            with place.open("ab") as file:
                file.write(data + b"\n")
            assert set(entries_of(journal)) == {B}
            assert set(entries_of(journal)) == {B}
            assert len(caplog.records) == 1, "once"
            merge(journal)
            assert lines(journal) == [entry(B)]
            assert list(records.iterdir()) == []
        assert sorted(path.name for path in tmp_path.iterdir() if path != folder) == others

    for name, data in DAMAGED.items():
        others = sorted(path.name for path in tmp_path.iterdir())
        check_cases({name: (name, data)}, rule)


def test_what_is_no_file_of_ours_is_set_aside(tmp_path, caplog):
    makers = {
        "folder": lambda path: path.mkdir(),
        "loop": lambda path: path.symlink_to(path),
        "FIFO": os.mkfifo,
    }

    def rule(make, place):
        journal = Journal(tmp_path / place.replace("/", "-") / make)
        journal.record(entry(B))
        merge(journal)
        path = journal.folder / place
        if path.exists():
            path.unlink() if path.is_file() else path.rmdir()
        makers[make](path)
        caplog.clear()
        journal.clean()
        entries_of(journal)
        merge(journal)
        journal.record(entry(A))
        assert A in entries_of(journal)
        assert (make, place) == ("folder", ".work/records") or "was moved to" in caplog.text

    places = ("index.jsonl", ".work/records", f".work/records/{A}.json")
    check_cases([(make, place) for make in makers for place in places], rule)


def test_a_folder_of_work_that_leads_elsewhere_is_not_written_to(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    journal = Journal(tmp_path / "clips")
    (journal.folder / ".work").mkdir(parents=True)
    for name in ("records", A):
        (journal.folder / ".work" / name).symlink_to(outside)
    journal.clean()
    journal.record(entry(A))
    assert not journal.open_work_folder(A).exists()
    assert list(outside.iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from(sorted(entry(A))), JSON).map(
        lambda change: json.dumps(entry(A) | dict([change])).encode()
    )
)
def test_any_line_is_an_entry_or_refused(data):
    """An entry names nothing outside the folder."""
    try:
        found = read_entry(data)
    except ValueError:
        return
    if "id" in found:
        assert found["id"] == A
        assert found["file"] == os.path.basename(found["file"])  # noqa: PTH119
        assert found["file"].endswith(f"{A}.mp4")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
