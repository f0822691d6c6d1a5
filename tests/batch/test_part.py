"""Which items are in which part of a batch, and which part a process is to make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed.batch.part import Part, parse_part, part_ranges
from tests.batch.makers import jobs_of
from tests.cases import check_cases

COUNTS = st.integers(1, 40)
IDS = st.integers(0, 2**64 - 1).map("{:016x}".format)


@given(IDS, COUNTS)
def test_an_item_is_in_exactly_one_part(key, count):
    assert sum(Part(index, count).has(key) for index in range(count)) == 1


@given(COUNTS, COUNTS, st.data())
def test_parts_of_other_divisions_share_items_if_an_id_is_in_both(count, other, data):
    a = Part(data.draw(st.integers(0, count - 1)), count)
    b = Part(data.draw(st.integers(0, other - 1)), other)
    shared = any(a.has(key) and b.has(key) for key in map("{:x}".format, range(count * other)))
    assert a.may_share_items_with(b) == b.may_share_items_with(a) == shared
    assert a.may_share_items_of(b.log_name("0123456789abcdef")) == shared
    assert a.may_share_items_of("0123456789abcdef.jsonl")  # of a process that makes no part


def test_an_item_stays_in_its_part_when_the_list_grows_and_parts_are_about_equal():
    few, more = jobs_of(*range(500)), jobs_of(*range(1000))
    parts = [{job.id for job in more if Part(index, 4).has(job.id)} for index in range(4)]
    for index, part in enumerate(parts):
        assert {job.id for job in few if Part(index, 4).has(job.id)} <= part
        assert abs(len(part) - 250) < 5 * (1000 * 1 / 4 * 3 / 4) ** 0.5  # binomial, five deviations


SLURM = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in {"MIN": 0, "MAX": 7, "COUNT": 8}.items()}


def slurm(task, **more):
    return SLURM | {"SLURM_ARRAY_TASK_ID": str(task)} | {f"SLURM_{k}": str(v) for k, v in more.items()}


def test_a_part_is_told_by_numbers_or_by_the_variables_of_a_scheduler():
    ones = {"ARRAY_TASK_MIN": 1, "ARRAY_TASK_MAX": 8}
    evens = {"ARRAY_TASK_MIN": 2, "ARRAY_TASK_MAX": 16, "ARRAY_TASK_STEP": 2}
    some = {"ARRAY_TASK_MIN": 3, "ARRAY_TASK_COUNT": 2}
    pod = {"JOB_COMPLETION_INDEX": "7"}
    for text, environment, part in (
        ("0/1", {}, Part(0, 1)),
        ("7/1000", slurm(3), Part(7, 1000)),
        ("auto", slurm(3), Part(3, 8)),
        ("auto", slurm(3, **ones), Part(2, 8)),
        ("auto", slurm(8, **evens), Part(3, 8)),
        ("auto/100", slurm(7, **some), Part(7, 100)),
        ("auto/8", pod, Part(7, 8)),
        ("auto", pod | {"JOB_COMPLETIONS": "9"}, Part(7, 9)),
    ):
        assert parse_part(text, environment) == part, (text, environment)
    assert parse_part("auto", slurm(3)).restarts == 0
    assert parse_part("auto", slurm(3, RESTART_COUNT=2)).restarts == 2
    assert parse_part("auto/8", pod | {"JOB_INDEX_FAILURES": "4"}).restarts == 4
    assert (str(Part(3, 8)), Part(3, 8).name) == ("3/8", "part-3-of-8")


def test_what_is_no_part_is_refused_and_the_message_says_what_to_write():
    check_cases(
        {
            **{
                text: (text, {}, "part must be I/N .*; use 0/8")
                for text in ("", "3", "-1/3", "auto/", "1/2/3")
            },
            "too high": ("8/8", {}, "must be at most 7, got 8; use 7"),
            "no parts": ("0/0", {}, "number of parts must be at least 1"),
            "no parts of auto": ("auto/0", slurm(0), "number of parts must be at least 1, got 0; use 1"),
            "no pods": (
                "auto",
                {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "0"},
                "JOB_COMPLETIONS must be a whole number of at least 1",
            ),
            "no scheduler": (
                "auto",
                {},
                "SLURM_ARRAY_TASK_ID .* nor JOB_COMPLETION_INDEX .* is set; use I/N",
            ),
            "no number": ("auto", slurm("x"), "SLURM_ARRAY_TASK_ID must be a whole number .* got 'x'"),
            "no count": (
                "auto",
                {"SLURM_ARRAY_TASK_ID": "1"},
                "SLURM_ARRAY_TASK_COUNT must be a whole number",
            ),
            "gaps": (
                "auto",
                slurm(3, ARRAY_TASK_MIN=3, ARRAY_TASK_COUNT=2),
                "2 tasks with ids from 3 to 7 .* use auto/N",
            ),
            "outside": ("auto", slurm(9), "ids from 0 to 7 .* this one is 9"),
            "id too high": ("auto/8", slurm(8), "SLURM_ARRAY_TASK_ID is 8, .* submit with --array=0-7"),
            "pods uncounted": (
                "auto",
                {"JOB_COMPLETION_INDEX": "0"},
                "use auto/N, where N is the Job's completions",
            ),
            "pod too high": ("auto/4", {"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX is 4, .* 0 to 3"),
        },
        lambda text, environment, message: refused(text, environment, message),
    )


def refused(text, environment, message):
    with pytest.raises(ValueError, match=message):
        parse_part(text, environment)


def test_numbers_of_parts_are_told_as_sbatch_takes_them():
    assert part_ranges([]) == ""
    assert part_ranges([3]) == "3"
    assert part_ranges({12, 0, 3, 11, 10, 4}) == "0,3-4,10-12"


def test_a_part_is_text():
    with pytest.raises(TypeError, match="part must be a str, got bool"):
        parse_part(False)
