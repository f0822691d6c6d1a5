"""Reading lists in four formats."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from pyramid_seed.batch.rows import (
    MAX_LINE,
    MAX_YAML_BYTES,
    BadRow,
    BatchInputError,
    Row,
    read_rows,
    stream_rows,
)
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


@pytest.mark.parametrize("file_format", ["txt", "jsonl", "csv"])
def test_rows_come_as_they_are_read(monkeypatch, file_format):
    """Of a list that never ends, such as a pipe."""

    class Endless(io.RawIOBase):
        num_read = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            rows = {"txt": b"a boat\n", "jsonl": b'{"prompt": "a boat"}\n', "csv": b"a boat\n"}
            part = b"prompt\n" if (file_format, self.num_read) == ("csv", 0) else rows[file_format]
            self.num_read += 1
            buffer[: len(part)] = part
            return len(part)

    source = Endless()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(source)))
    rows = stream_rows("-", file_format)
    for _ in range(100):
        assert next(rows).values == {"prompt": "a boat"}
    rows.close()
    assert not sys.stdin.buffer.closed
    assert source.num_read < 10_000


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
        ("a.txt", b"one\rtwo\rfin\xe9\r", "line 3: the text must be UTF-8"),
        ("a.txt", "a boat\n".encode("utf-16"), "line 1: the text must be UTF-8"),
        ("a.txt", "a boat\nsea".encode("utf-32-le"), "line 1: the text must be UTF-8, got a NUL"),
        ("a.csv", "prompt;seed\na boat;1\n", "line 1: columns must be separated by commas, got semicolons"),
        ("a.csv", "prompt\tseed\na boat\t1\n", "line 1: columns must be separated by commas, got tabs"),
        ("a.yaml", "- a: &x [1]\n- *x", "the alias *x is not accepted; write its value out"),
        ("a.yaml", "[" * 50_000, "nested more than 20 deep"),
        ("a.yaml", "- !!int ''", "the tag tag:yaml.org,2002:int is not accepted"),
        ("a.yaml", '- "\\U00110000"', "not valid YAML"),
        ("a.yaml", "- a\x01", "not valid YAML"),
        ("a.yaml", "- a\n" * 2**16 + "-", "must be at most 256 KiB in YAML, but is larger; use .jsonl"),
        ("a.txt", "a\n" + "b" * (MAX_LINE + 1), "line 2: must be at most 1,048,576 characters"),
    ]
    check_cases(cases, is_refused)


@pytest.mark.parametrize("kinds", [("rows", "nested"), pytest.param(None, marks=pytest.mark.slow)])
def test_yaml_is_read_or_refused_within_about_a_second(tmp_path, kinds):
    """Up to the limit in bytes; the worst of these took 10 seconds without a limit in values."""
    row = "- prompt: a red circle moves to the right, for as long as it can, on a white sheet\n  seed: 1\n"
    many, few = "holds more than 15,000 values; use .jsonl for long lists", ""
    cases = {
        "rows": ("", row, few),
        "prompts": ("", "- a red circle moves to the right on a white background\n", few),
        "empty rows": ("", "-\n", many),
        "keys": ("", "- {a:,b:,c:}\n", many),
        "nested": ("", "- [[[[[[]]]]]]\n", many),
        "numbers": ("", "- [1,2,3,4,5,6,7,8,9]\n", many),
        "one prompt": ("- |\n", "  a\n", few),
        "directives": ("", "%A\n", "expected '<document start>'"),
    }

    def rule(head, unit, refusal):
        path = write(tmp_path, "a.yaml", head + unit * (MAX_YAML_BYTES // len(unit) - 1))
        started = time.process_time()
        if refusal:
            with pytest.raises(ValueError, match=re.escape(refusal)):
                read_rows(path)
        else:
            rows, bad = read_rows(path)
            assert len(rows) + len(bad) == path.read_text().count("- ")
        assert time.process_time() - started < 3  # some 1 s, of this process alone

    check_cases({kind: cases[kind] for kind in kinds or cases}, rule)


def test_every_line_end_and_the_index_of_pandas_are_understood(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        rows, _ = read_rows(write(tmp_path, "a.txt", f"one{end}two{end}{end}three{end}"))
        assert rows == [Row(line, {"prompt": text}) for line, text in ((1, "one"), (2, "two"), (4, "three"))]
        rows, _ = read_rows(write(tmp_path, "a.csv", f",prompt,seed{end}0,one,1{end} , ,{end}2,two,{end}"))
        assert rows == [Row(2, {"prompt": "one", "seed": "1"}), Row(4, {"prompt": "two"})]


def test_lines_that_are_remarks_are_counted(tmp_path, caplog):
    rows, _ = read_rows(write(tmp_path, "a.txt", "#1 fan of boats\na sea\n# a remark\n"))
    assert [row.values["prompt"] for row in rows] == ["a sea"]
    assert "a.txt: lines that begin with # are no prompts: 2, the first is line 1" in caplog.text


def test_yaml_holds_what_is_written(tmp_path):
    """YAML 1.1 makes booleans, octal numbers, minutes and dates of these."""
    texts = ["yes", "no", "1_000", "010", "0o7", "0x1f", "1:30", "2025-07-02", "off"]
    rows, bad = read_rows(write(tmp_path, "a.yaml", "".join(f"- {text}\n" for text in texts)))
    assert ([row.values["prompt"] for row in rows], bad) == (texts, [])
    numbers = "- {prompt: a, fps: 1e1, scale: 2, guidance_scale: 1.5, image: null, seed: [0, -1]}"
    assert read_rows(write(tmp_path, "a.yaml", numbers))[0][0].values == {
        "prompt": "a", "fps": 10.0, "scale": 2, "guidance_scale": 1.5, "image": None, "seed": [0, -1],
    }  # fmt: skip


def test_bad_entries_of_yaml_and_jsonl_name_their_line(tmp_path):
    def is_refused(name, text, message):
        path = write(tmp_path, name, text)
        (bad,) = read_rows(path)[1]
        assert bad.where == f"{path}, line 2"
        assert message in bad.reason

    cases = [
        ("a.yaml", "- a\n- {<<: {prompt: b}}", "the merge key << is not accepted"),
        ("a.yaml", "- a\n- ? [x]\n  : b", "a key must be text"),
        ("a.jsonl", '{"prompt": "a"}\nnull', "must be a JSON object, got null"),
        ("a.jsonl", '{"prompt": "a"}\n' + "[" * 50_000, "nested more than 64 deep"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "\\udc80"}', "got the character U+DC80 at 1"),
        ("a.txt", "a\na\x1b[2Jb", "got the character U+001B at 2"),
        ("a.txt", "a\na \u202eb", "got the character U+202E at 3"),
        ("a.txt", "a\n\ufeffb", "got the character U+FEFF at 1"),
        ("a.txt", "a\n" + "x" * 10_001, "prompt must be at most 10,000 characters, got 10,001"),
    ]
    check_cases(cases, is_refused)


def test_the_error_names_every_row():
    error = BatchInputError([BadRow("a.txt, line 3", "too long"), BadRow("a.txt, line 5", "too short")])
    assert str(error).splitlines() == [
        "2 bad rows, nothing was made:",
        "  a.txt, line 3: too long",
        "  a.txt, line 5: too short",
    ]
