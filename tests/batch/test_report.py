"""Index, progress line and contact sheet."""

from __future__ import annotations

from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.launch import join_launch
from pyramid_seed.batch.report import Report
from pyramid_seed.batch.rows import BadRow
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


def test_the_contact_sheet_is_complete_after_a_resume(tmp_path):
    run(tmp_path, 1, 2)
    whole = (tmp_path / "contact_sheet.png").read_bytes()
    for strip in (tmp_path / ".work" / "strips").iterdir():
        strip.unlink()
    (tmp_path / "contact_sheet.png").unlink()
    run(tmp_path, 1, 2)
    assert (tmp_path / "contact_sheet.png").read_bytes() == whole
