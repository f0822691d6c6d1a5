"""A history's files: read as they were written, and refused by line and column where they were not."""

from __future__ import annotations

import json

import pytest

from pyramid_seed.explore.history import (
    COLUMNS,
    CSV_NAME,
    JSON_NAME,
    Checkpoint,
    check_sweep,
    read_history,
    with_checkpoint,
    write_history,
)
from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.variance import VarianceShares
from tests.cases import check_cases

SWEEP = {"prompts": [{"prompt": "a boat"}], "seeds": ["0", "1"], "settings": {"num_frames": 9, "scale": 1}}


def checkpoint(number: int, motion: float | None = 0.1, label: str = "") -> Checkpoint:
    values = {measure.name: 1 / 3 + number for measure in MEASURES} | {"motion": motion}
    shares = {measure.name: VarianceShares(0.5, 0.3, 0.2) for measure in MEASURES} | {"motion": None}
    return Checkpoint(label or f"step-{number}", f"{number:064x}", values, shares)


def test_it_is_read_as_it_was_written(tmp_path):
    history = (checkpoint(1), checkpoint(2, None, 'a "b",\nc'), checkpoint(3, 1e-300))
    assert read_history(tmp_path) == ()
    write_history(tmp_path, SWEEP, history)
    assert read_history(tmp_path) == history
    assert sorted(path.name for path in tmp_path.iterdir()) == [CSV_NAME, JSON_NAME]
    write_history(tmp_path, SWEEP, [checkpoint(1, label="=1+1")])
    assert read_history(tmp_path)[0].label == "'=1+1"


def test_the_same_weights_are_one_checkpoint():
    history = (checkpoint(1), checkpoint(2))
    assert with_checkpoint(history, checkpoint(3)) == (*history, checkpoint(3))
    assert with_checkpoint(history, checkpoint(1, 5.0)) == (checkpoint(1, 5.0), checkpoint(2))


def test_lines_that_are_not_ours_are_refused(tmp_path):
    write_history(tmp_path, SWEEP, [checkpoint(1), checkpoint(2)])
    path = tmp_path / CSV_NAME
    text = path.read_text()
    head, first, _ = lines = text.splitlines()
    second_number = COLUMNS.index("si")

    def with_cell(place: int, cell: str) -> str:
        cells = first.split(",")
        cells[place] = cell
        return "\n".join([head, ",".join(cells)])

    cases = {
        "another head": ("a,b\n1,2\n", "its columns must be checkpoint, weights_sha256, sharpness"),
        "nothing": ("", "its columns must be"),
        "half a line": (text[: len(head) + 40], r"line 2 must have \d+ cells, got"),
        "no number": (
            with_cell(second_number, "1 000"),
            "line 2: si must be a finite number or empty, got '1",
        ),
        "infinite": (with_cell(second_number, "1e999"), "line 2: si must be a finite number"),
        "no digest": (with_cell(1, "F" * 64), "line 2: weights_sha256 must be 64 digits"),
        "twice": ("\n".join([*lines, first]), "line 4: weights_sha256 0+1 is there twice"),
        "half the shares": (with_cell(len(COLUMNS) - 1, ""), "the shares of frozen_frames must be"),
        "shares of more": (with_cell(len(COLUMNS) - 1, "0.9"), "must be at least 0 and sum to 1"),
        "an open quote": (f'{head}\n"', "unexpected end of data"),
    }

    def rule(changed: str, message: str) -> None:
        path.write_text(changed)
        with pytest.raises(ValueError, match=message) as error:
            read_history(tmp_path)
        assert str(error.value).startswith(f"{path} is no history of this version: ")

    check_cases(cases, rule)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is no history"):
        read_history(tmp_path)


def test_another_sweep_is_refused_by_its_first_difference(tmp_path):
    check_sweep(tmp_path, SWEEP)
    write_history(tmp_path, SWEEP, [checkpoint(1)])
    check_sweep(tmp_path, SWEEP)
    others = {
        "prompts": (
            {**SWEEP, "prompts": [{"prompt": "a cat"}]},
            r"prompts was \[.*boat.* and is now \[.*cat",
        ),
        "seeds": ({**SWEEP, "seeds": ["0"]}, "seeds was"),
        "settings": (
            {**SWEEP, "settings": {"num_frames": 17, "scale": 1}},
            "settings.num_frames was 9 and is now 17",
        ),
    }

    def rule(sweep: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_sweep(tmp_path, sweep)

    check_cases(others, rule)


def test_a_damaged_description_is_refused(tmp_path):
    write_history(tmp_path, SWEEP, [checkpoint(1)])
    path = tmp_path / JSON_NAME
    tree = json.loads(path.read_text())

    def rule(text: str, message: str) -> None:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            check_sweep(tmp_path, SWEEP)

    cases = {
        "no JSON": ("{", "belongs to no history of this version"),
        "a list": ("[]", "it has no sweep"),
        "no sweep": (json.dumps({**tree, "sweep": 5}), "it has no sweep"),
        "a later version": (json.dumps({**tree, "schema_version": 2}), "its schema is .* 2"),
    }
    check_cases(cases, rule)
    path.unlink()
    with pytest.raises(ValueError, match=r"has no history\.json beside it"):
        check_sweep(tmp_path, SWEEP)
