"""What came of a batch."""

from __future__ import annotations

import signal

from pyramid_seed.batch.rows import BadRow
from pyramid_seed.batch.summary import BatchSummary, Plan, summarize
from tests.batch.makers import jobs_of


def test_the_outcome_of_every_job_and_row():
    first, second, third, fourth = jobs_of(1, 2, 3, 4)
    plan = Plan((first, second, third, fourth), (BadRow("list, line 9", "too wide"),), duplicates=2)
    entries = {
        first.id: {"file": first.file, "status": "done", "digest": "a"},
        second.id: {"file": second.file, "status": "done", "digest": "b"},
        third.id: {"file": third.file, "status": "failed", "reason": "too dark"},
        "of another list": {"file": "x.mp4", "status": "done", "digest": "c"},
    }
    assert summarize(plan, entries, num_there_before=1, signal=None) == BatchSummary(
        digests={first.file: "a", second.file: "b"},
        made=1,
        found=1,
        failed={third.file: "too dark", "list, line 9": "too wide"},
        missing=1,
        duplicates=2,
    )


def test_exit_status():
    assert BatchSummary(made=3).status == 0
    assert BatchSummary(failed={"a": "b"}).status == 1
    assert BatchSummary(missing=1).status == 1
    assert BatchSummary(missing=1, failed={"a": "b"}, signal=signal.SIGTERM).status == 143
