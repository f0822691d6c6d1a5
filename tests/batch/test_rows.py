"""Reading lists in four formats."""

from __future__ import annotations

import io
import re
import sys

import pytest

from pyramid_seed.batch.rows import BadRow, BatchInputError, Row, read_rows
from tests.cases import check_cases


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_txt_is_a_prompt_a_line(tmp_path):
    path = write(tmp_path, "a.txt", '\ufeffa boat\r\n\n  # a remark\n  a sea  \na, b: "c"\n')
    rows, bad = read_rows(path)
    assert rows == [
        Row(1, {"prompt": "a boat"}),
        Row(4, {"prompt": "a sea"}),
        Row(5, {"prompt": 'a, b: "c"'}),
    ]
    assert bad == []


def test_jsonl_reports_every_bad_line(tmp_path):
    lines = [
        '{"prompt": "a\\nboat", "seed": [1, 2]}',
        "",
        '{"prompt": "a"',
        '["a"]',
        '{"prompt": "a", "prompt": "b"}',
        '{"prompt": "a", "fps": NaN}',
    ]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    rows, bad = read_rows(path)
    assert rows == [Row(1, {"prompt": "a\nboat", "seed": [1, 2]})]
    assert [row.where for row in bad] == [f"{path}, line {line}" for line in (3, 4, 5, 6)]
    for row, word in zip(bad, ("not a JSON object", "must be a JSON object", "twice", "NaN"), strict=True):
        assert word in row.reason


def test_csv_counts_lines_of_cells_with_newlines(tmp_path):
    text = 'prompt,seed\n"a\nboat",1\na sea,\n\na,1,2\nlast,3\n'
    path = write(tmp_path, "a.csv", text)
    rows, bad = read_rows(path)
    assert rows == [
        Row(2, {"prompt": "a\nboat", "seed": "1"}),
        Row(4, {"prompt": "a sea"}),
        Row(7, {"prompt": "last", "seed": "3"}),
    ]
    assert bad == [BadRow(f"{path}, line 6", "has 3 cells for 2 columns; quote cells with commas")]


def test_yaml_is_a_list_with_line_numbers(tmp_path):
    text = "- a boat\n- prompt: |\n    a\n    sea\n  seed: [1, 2]\n- 7\n- prompt: a\n  prompt: b\n"
    path = write(tmp_path, "a.yml", text)
    rows, bad = read_rows(path)
    assert rows == [Row(1, {"prompt": "a boat"}), Row(2, {"prompt": "a\nsea\n", "seed": [1, 2]})]
    assert [row.where for row in bad] == [f"{path}, line 6", f"{path}, line 7"]
    assert "given twice" in bad[1].reason


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a boat\n")))
    assert read_rows("-") == ([Row(1, {"prompt": "a boat"})], [])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "b"}')))
    assert read_rows("-", "jsonl") == ([Row(1, {"prompt": "b"})], [])


def test_lists_that_are_broken_as_a_whole(tmp_path):
    def is_refused(name, content, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            read_rows(write(tmp_path, name, content))

    cases = [
        ("a.docx", "x", "must be one of txt, jsonl, csv, yaml, got 'docx'"),
        ("a.txt", b"fine\n\xff\n", "line 2: the text must be UTF-8"),
        ("a.csv", "text,seed\na,1\n", "`prompt` among them"),
        ("a.csv", "prompt,prompt\na,b\n", "each column once"),
        ("a.csv", "prompt,sed\na,\n", "line 1: unknown name 'sed'; did you mean 'seed'?"),
        ("a.csv", 'prompt\n"a', "line 2: unexpected end"),
        ("a.yaml", "prompt: a\n", "must be a list"),
        ("a.yaml", "- [\n", "not valid YAML"),
        ("a.yaml", "", "must be a list"),
    ]
    check_cases(cases, is_refused)


def test_the_error_names_every_row():
    error = BatchInputError([BadRow("a.txt, line 3", "too long"), BadRow("a.txt, line 5", "too short")])
    assert str(error).splitlines() == [
        "2 bad rows, nothing was made:",
        "  a.txt, line 3: too long",
        "  a.txt, line 5: too short",
    ]
