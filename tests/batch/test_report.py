"""Index, progress line and contact sheet."""

from __future__ import annotations

from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.launch import join_launch
from pyramid_seed.batch.report import Report
from pyramid_seed.batch.rows import BadRow
from pyramid_seed.media.images import read_image
from tests.batch.makers import index, jobs_of, run


def test_the_index_grows_now_and_then_while_a_batch_runs(tmp_path, monkeypatch):
    launch, journal, (job,) = join_launch(environment={}), Journal(tmp_path), jobs_of(1)
    report = Report(launch, journal, 1, 3, progress=False)
    journal.record({"id": job.id, "file": job.file, "status": "failed", "reason": "too dark"})
    launch.count("done")
    report.update()
    assert not journal.index.exists()
    monkeypatch.setattr("pyramid_seed.batch.report._GATHER_SECONDS", 0)
    report.update()
    assert [entry["id"] for entry in index(tmp_path)] == [job.id]
    journal.index.unlink()
    report.update()
    assert not journal.index.exists()  # nothing was finished meanwhile


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


def test_the_sheet_of_many_clips_shows_some_evenly_and_is_written_only_if_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("pyramid_seed.batch.report.SHEET_SIZE", 3)
    files = [job.file for job in jobs_of(1, 2, 3, 4, 5)]
    journal, sheet = Journal(tmp_path), tmp_path / "contact_sheet.png"
    for number in (2, 3):  # of an earlier version
        journal.strips_path(number).parent.mkdir(parents=True, exist_ok=True)
        journal.strips_path(number).touch()
        (tmp_path / f"contact_sheet-{number}.png").touch()
    (tmp_path / "contact_sheet-9.png").touch()  # not ours
    run(tmp_path, 1, 2, 3, 4, 5)
    shown = [tmp_path / files[place] for place in (0, 2, 4)]
    assert read_image(sheet).shape[0] == 3 * (56 + 100) - 4
    assert {path.stem for path in journal.strip_path("").parent.glob("*.png")} == {
        path.stem[-16:] for path in shown
    }
    assert sorted(path.name for path in tmp_path.glob("contact_sheet*")) == [
        "contact_sheet-9.png",
        "contact_sheet.png",
    ]
    before = sheet.stat().st_mtime_ns
    run(tmp_path, 1, 2, 3, 4, 5)
    assert sheet.stat().st_mtime_ns == before
    run(tmp_path, 2, 3)  # a list that leaves room: of the others, one
    assert read_image(sheet).shape[0] == 3 * (56 + 100) - 4
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    run(tmp_path)
    assert not sheet.exists()


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
    assert caplog.text.count("was moved to") == 2


def test_the_contact_sheet_is_complete_after_a_resume(tmp_path):
    run(tmp_path, 1, 2)
    whole = (tmp_path / "contact_sheet.png").read_bytes()
    for strip in (tmp_path / ".work" / "strips").iterdir():
        strip.unlink()
    (tmp_path / "contact_sheet.png").unlink()
    run(tmp_path, 1, 2)
    assert (tmp_path / "contact_sheet.png").read_bytes() == whole
