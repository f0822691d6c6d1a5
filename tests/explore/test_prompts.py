"""The prompts of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_seed.batch.rows import BatchInputError
from pyramid_seed.explore.prompts import Prompt, is_list, read_prompts
from tests.refusals import not_refused


def test_prompts_from_text_and_lists(tmp_path):
    (tmp_path / "a.txt").write_text("# two boats\na boat\n\nanother boat\n")
    (tmp_path / "b.csv").write_text("prompt,image\nthe sea,images/sea.png\nthe sky,\n")
    assert read_prompts(["a #1\nprompt", tmp_path / "a.txt", tmp_path / "b.csv"]) == (
        Prompt("a #1\nprompt"),
        Prompt("a boat"),
        Prompt("another boat"),
        Prompt("the sea", str(tmp_path / "images" / "sea.png")),
        Prompt("the sky"),
    )


def test_what_ends_as_a_list_is_one():
    lists = ("prompts.txt", "a/b.JSONL", "c.csv", "d.yaml", "e.yml")
    prompts = ("a boat.", "a boat", "v1.5 of a boat", "txt")
    assert [text for text in lists + prompts if is_list(text)] == list(lists)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        read_prompts([tmp_path / "none.txt"])


def test_all_bad_rows_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a", "seed": 3}\n{"prompt": 5}\nnot json\n{"image": "a.png"}\n'
    )
    with pytest.raises(BatchInputError) as caught:
        read_prompts([tmp_path / "a.jsonl"])
    messages = sorted(map(str, caught.value.rows))
    assert len(messages) == 4
    for line, words in enumerate(
        ["'seed'; give --seeds", "must be text, got 5", "not a JSON", "no prompt"], 1
    ):
        assert f"line {line}: " in messages[line - 1]
        assert words in messages[line - 1]


def test_prompts_that_are_none():
    words = {("a", "b", "a"): "'a' is given twice", (" ",): "must not be empty", (): "no prompt"}
    assert not_refused(read_prompts, words) == {}
    odd = {(0,): "prompts must be a path", "a boat": "prompts must be a list of prompts", 5: "must be a list"}
    assert not_refused(read_prompts, odd, TypeError) == {}


def test_a_list_without_prompts(tmp_path):
    Path(tmp_path / "a.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="no prompt"):
        read_prompts([tmp_path / "a.txt"])
