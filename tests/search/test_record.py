"""The record of a search: what it says follows from its scores, and any change to it is found."""

from __future__ import annotations

import json
import re
from hashlib import sha256

import pytest

from pyramid_seed.search.record import (
    Made,
    ScorerRow,
    SearchSettings,
    Tried,
    branch_rows,
    check_record,
    read_record,
    sealed,
    write_record,
)
from pyramid_seed.search.tree import SCHEME, decisions, path_text
from tests.cases import check_cases


def digest(text):
    return sha256(str(text).encode()).hexdigest()


def units_of(node, number):
    """A digest for each unit, from all seeds in force by then."""
    begun = [(0, node.seed), *((each.from_unit, each.seed) for each in node.branches)]
    return tuple(digest((unit, [each for each in begun if each[0] <= unit])) for unit in range(number))


def made_of(node, kind=Made, **more):
    noise = {"seed": str(node.seed), "branches": branch_rows(node.branches)}
    return kind(**noise, units=units_of(node, node.num_units), frames=digest(node), **more)


@pytest.fixture
def record():
    settings = SearchSettings(
        scheme=SCHEME,
        prompt="a boat",
        seed="42",
        width=3,
        keep=2,
        branching=2,
        at=(1, 2),
        num_units=3,
        start=None,
        clip={"determinism": "strict"},
    )
    tried = {}

    def scores_of(nodes):
        for node in nodes:
            score = None if node.path == (0,) else float(int(digest(node.path)[:4], 16))
            error = "ValueError: no" if score is None else None
            tried[node.path] = made_of(node, Tried, score=score, error=error)
        return {node.path: tried[node.path].score for node in nodes}

    tree = settings.tree()
    rounds = decisions(tree, scores_of)
    won = made_of(tree.finished(rounds[-1].kept[0]))
    scorer = ScorerRow(name="sharpness", version="1", digest=None)
    return sealed(settings, scorer, rounds, tried, won, "winner.mp4")


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    write_record(tmp_path / "search.json", record)
    again = read_record(tmp_path / "search.json")
    assert again == record
    rounds = check_record(again)
    assert [len(each.nodes) for each in rounds] == [3, 4]
    assert path_text(rounds[-1].kept[0].path) == record.winner.path
    values = json.loads((tmp_path / "search.json").read_text())
    assert sorted(values) == ["candidates", "merkle_root", "scorer", "settings", "winner"]


def test_every_change_is_refused(record, tmp_path):
    write_record(tmp_path / "search.json", record)
    text = (tmp_path / "search.json").read_text()
    path = tmp_path / "changed.json"

    def rule(change, message):
        values = json.loads(text)
        change(values)
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            check_record(read_record(path))

    def set_in(*keys, value):
        def change(values):
            for key in keys[:-1]:
                values = values[key]
            values[keys[-1]] = value

        return change

    other = digest("other")
    check_cases(
        {
            "a score": (set_in("candidates", 1, "score", value=1e9), "margins|kept|candidate|must"),
            "a small change of a score": (
                lambda values: values["candidates"][-1].update(score=-1e-9),
                "merkle_root|margins",
            ),
            "no score and no error": (set_in("candidates", 0, "error", value=None), "finite score, or an"),
            "not finite": (set_in("candidates", 1, "score", value=float("nan")), "finite score"),
            "kept": (set_in("candidates", 0, "kept", value=True), "candidate 0 must be here, dropped"),
            "a seed": (set_in("candidates", 1, "seed", value="7"), "the seeds of its path"),
            "a unit": (set_in("candidates", 3, "units", 0, value=other), "does not begin with its parent"),
            "a last unit": (set_in("candidates", 3, "units", 1, value=other), "merkle_root|winner"),
            "a missing one": (lambda values: values["candidates"].pop(), "is missing"),
            "one too many": (
                lambda values: values["candidates"].append({**values["candidates"][0], "path": "99"}),
                "there must be 7 candidates, got 8",
            ),
            "order": (lambda values: values["candidates"].reverse(), "must be here"),
            "another winner": (set_in("winner", "path", value="2/1/0"), "the winner must be"),
            "the winner's frames": (set_in("winner", "frames", value=other), "merkle_root must be"),
            "a margin": (set_in("winner", "margins", 0, value=3.5), "the margins must be"),
            "the scorer": (set_in("scorer", "name", value="motion"), "merkle_root must be"),
            "width": (set_in("settings", "width", value=4), "candidate 3 is missing"),
            "scheme": (set_in("settings", "scheme", value="v2"), "scheme must be"),
            "a clip's setting": (set_in("settings", "clip", "determinism", value="relaxed"), "merkle_root"),
            "the root": (set_in("merkle_root", value=other), "merkle_root must be"),
            "an unknown field": (set_in("candidates", 0, "note", value="x"), "note"),
            "no number": (set_in("candidates", 1, "score", value="high"), "score must be"),
            "no digest": (set_in("winner", "frames", value="../x"), "frames"),
        },
        rule,
    )


def test_what_is_no_record_is_refused(tmp_path):
    path = tmp_path / "search.json"
    for text in ("[]", "{", '{"settings": {}}', "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(f"{path} holds no record")):
            read_record(path)
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none.json")
