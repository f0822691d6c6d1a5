"""Index, progress line and contact sheet."""

from __future__ import annotations

from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.launch import join_launch
from pyramid_seed.batch.report import Report
from pyramid_seed.batch.rows import BadRow
from pyramid_seed.media.images import read_image
from tests.batch.makers import index, jobs_of, run


def test_the_index_is_written_now_and_then_while_a_batch_runs(tmp_path, monkeypatch):
    launch, journal, (job,) = join_launch(environment={}), Journal(tmp_path), jobs_of(1)
    report = Report(launch, journal, [], [job], progress=False)
    journal.record({"id": job.id, "file": job.file, "status": "failed", "reason": "too dark"})
    launch.count("done")
    report.update()
    assert not journal.index.exists()
    monkeypatch.setattr("pyramid_seed.batch.report._MERGE_SECONDS", 0)
    report.update()
    assert [entry["id"] for entry in index(tmp_path)] == [job.id]
    journal.index.unlink()
    report.update()
    assert not journal.index.exists()  # nothing was finished meanwhile
    report.close()
    assert journal.index.exists()


def test_rows_of_which_nothing_can_be_made_are_recorded(tmp_path):
    summary = run(tmp_path, 1, bad=[BadRow("list, line 2", "too wide")])
    assert (summary.status, summary.failed) == (1, {"list, line 2": "too wide"})
    assert index(tmp_path)[-1] == {"status": "failed", "row": "list, line 2", "reason": "too wide"}
    assert run(tmp_path, 1).status == 0
    assert len(index(tmp_path)) == 1


def test_the_line_is_shown_only_if_there_is_something_to_make(tmp_path, capsys):
    run(tmp_path, 1, 2, progress=True)
    assert capsys.readouterr().err.splitlines()[-1].startswith("2/2 clips, 6/6 steps, 00:00 left, ")
    run(tmp_path, 1, 2, progress=True)
    assert capsys.readouterr().err == ""


def sheets(folder):
    return {path.name: read_image(path).shape[0] for path in folder.glob("contact_sheet*.png")}


def test_many_clips_have_several_sheets_and_only_those_that_changed_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pyramid_seed.batch.report.SHEET_SIZE", 2)
    run(tmp_path, 1, 2, 3, 4)
    assert sheets(tmp_path) == {"contact_sheet.png": 196, "contact_sheet-2.png": 196}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("contact_sheet*.png")}
    run(tmp_path, 1, 2, 3, 4)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    run(tmp_path, 1, 2, 3, 4, 5)  # a name behind the others: nothing of their sheets changes
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sheets(tmp_path) == {
        "contact_sheet.png": 196,
        "contact_sheet-2.png": 196,
        "contact_sheet-3.png": 96,
    }
    for job in jobs_of(4, 5):
        (tmp_path / job.file).unlink()
    (tmp_path / "contact_sheet-9.png").touch()  # not ours
    run(tmp_path, 1)
    assert (tmp_path / "contact_sheet-9.png").exists()
    (tmp_path / "contact_sheet-9.png").unlink()
    assert sheets(tmp_path) == {"contact_sheet.png": 196, "contact_sheet-2.png": 96}


def test_damaged_strips_are_made_anew(tmp_path, caplog):
    run(tmp_path, 1, 2)
    whole = (tmp_path / "contact_sheet.png").read_bytes()
    first, second = sorted((tmp_path / ".work" / "strips").glob("*.png"))
    first.write_bytes(b"damaged")
    second.unlink()
    second.mkdir()
    (tmp_path / ".work" / "strips" / "sheet-1.txt").write_bytes(b"\xff")
    (tmp_path / "contact_sheet.png").unlink()
    assert run(tmp_path, 1, 2).status == 0
    assert (tmp_path / "contact_sheet.png").read_bytes() == whole
    assert caplog.text.count("set aside") == 2


def test_the_contact_sheet_is_complete_after_a_resume(tmp_path):
    run(tmp_path, 1, 2)
    whole = (tmp_path / "contact_sheet.png").read_bytes()
    for strip in (tmp_path / ".work" / "strips").iterdir():
        strip.unlink()
    (tmp_path / "contact_sheet.png").unlink()
    run(tmp_path, 1, 2)
    assert (tmp_path / "contact_sheet.png").read_bytes() == whole
