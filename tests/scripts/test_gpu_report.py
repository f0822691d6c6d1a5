"""`scripts/gpu_report.py`: the whole program at tiny size on the CPU, and what becomes of failures."""

from __future__ import annotations

import json
import subprocess
import sys

import gpu_report
import pytest
import torch
from gpu import clip, invariances, marked_tests, others, steps
from gpu.plan import plan_of
from gpu.report import Report, Section, flat, result_markdown

from pyramid_seed.choices import ATTENTION_PATHS

CPU = torch.device("cpu")
ABOUT = {"size": "tiny", "environment": {"device": {"name": "a device"}}}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the script into tmp_path; (status, report.json, report.md)."""

    def run_script(*arguments):
        command = ["gpu_report.py", "--out", str(tmp_path), "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        status = gpu_report.main()
        told = json.loads((tmp_path / "report.json").read_text())
        return status, told, (tmp_path / "report.md").read_text()

    return run_script


@pytest.mark.slow
def test_every_section_runs_at_tiny_size(run, tmp_path):
    status, told, text = run()
    sections = {section["name"]: section for section in told["sections"]}
    assert list(sections) == list(gpu_report.SECTIONS)
    assert [failure for section in sections.values() for failure in section["failures"]] == []
    assert status == 0
    assert told["about"]["environment"]["packages"]["torch"] == torch.__version__

    (header, outcomes) = sections["tests"]["tables"]["Outcomes"]
    assert dict(zip(header, outcomes, strict=True))["FAILED"] == 0
    assert (tmp_path / "pytest-all.log").is_file()

    header, *rows = sections["invariances"]["tables"][invariances.PROMISED]
    assert {row[header.index("all equal")] for row in rows} == {"yes"}
    assert len(rows) == 12 + 10  # what Helios does not have is left out

    header, *rows = sections["steps"]["tables"]["Steps by attention path"]
    assert len(rows) == 3 * 2  # stages and levels
    for path in ATTENTION_PATHS:
        assert all(row[header.index(f"{path}, ms")] > 0 for row in rows)
        if path != "reference":
            assert all(row[header.index(f"{path}: difference / largest")] < 1e-4 for row in rows)
    assert len(sections["steps"]["tables"]["Operators of a step (no GPU)"]) == 1 + 6 * len(ATTENTION_PATHS)
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")

    header, *rows = sections["clip"]["tables"]["Clips"]
    assert [row[0] for row in rows] == ["clip", "the same again", "one unit less", "short", "long"]
    facts = sections["clip"]["facts"] | sections["decoding"]["facts"]
    assert [value for value in facts.values() if isinstance(value, bool)] == [True] * 3
    assert [row[0] for row in sections["memory"]["tables"]["Peak memory by mode"][1:]] == [
        "none",
        "tiling",
        "text freed",
    ]
    commands = [result["command"] for section in told["sections"] for result in section["results"]]
    assert commands == ["clip", "vae", "decoding", "determinism", "attention", "noise"]
    for name in gpu_report.SECTIONS:
        assert f"## {name.capitalize()}\n" in text
    assert "| what | value |" in text
    assert "- sequential offload: needs a GPU" in text


def test_a_failure_is_recorded_and_the_rest_goes_on(run, monkeypatch):
    def fail(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(others, "measure_determinism", fail)
    status, told, text = run("--sections", "determinism", "others")
    assert status == 1
    assert [len(section["failures"]) for section in told["sections"]] == [1, 0]
    assert told["sections"][0]["failures"][0]["error"] == "RuntimeError: no kernel"
    assert 'raise RuntimeError("no kernel")' in text
    assert len(told["sections"][1]["results"]) == 2


def test_a_second_run_replaces_sections_of_the_same_machine_only(tmp_path):
    report = Report(tmp_path, ABOUT)
    for name in ("steps", "clip"):
        report.begin(name, 10).run("nothing", lambda: None)
    again = Report(tmp_path, ABOUT)
    again.begin("clip", 10).run("add", lambda: again.sections["clip"].facts.update(figure=1.0))
    told = json.loads((tmp_path / "report.json").read_text())
    assert [(each["name"], each["facts"]) for each in told["sections"]] == [
        ("steps", {}),
        ("clip", {"figure": 1.0}),
    ]
    with pytest.raises(
        ValueError, match="another machine, other packages or another size; use another --out"
    ):
        Report(tmp_path, ABOUT | {"size": "full"})


def test_a_section_keeps_to_its_time(tmp_path):
    section = Report(tmp_path, ABOUT).begin("steps", 50.0)
    assert section.run("long", lambda: 1, needs=100.0) is None
    assert section.run("short", lambda: 1, needs=10.0) == 1
    assert section.skipped == ["long: 50 s were left, it needs 100"]
    section.start(tmp_path, 0.0, lambda: None)
    assert section.run("short", lambda: 1) is None
    assert section.skipped[1] == "short: no time"


def test_a_lost_device_is_left_to_a_fresh_process(run, monkeypatch):
    became = []
    monkeypatch.setattr(gpu_report, "broken", lambda _: "an illegal memory access")
    monkeypatch.setattr(gpu_report.os, "execv", lambda _, command: became.append(command))
    monkeypatch.setattr(others, "measure_determinism", lambda *_: None)
    run("--sections", "determinism", "others", "--size", "tiny")
    assert len(became) == 1  # not after the last section
    assert became[0][became[0].index("--sections") :] == [
        "--sections",
        "others",
        "--size",
        "tiny",
        "--device",
        "cpu",
    ]


@pytest.mark.slow
def test_a_path_that_fails_leaves_the_others(tmp_path, monkeypatch):
    first = steps._Steps._first

    def fail(self, path, step):
        if path == "reference":
            raise RuntimeError("no such kernel")
        return first(self, path, step)

    monkeypatch.setattr(steps._Steps, "_first", fail)
    section = Report(tmp_path, ABOUT).begin("steps", 100)
    steps.measure(section, plan_of("tiny", CPU))
    assert len(section.failures) == 6
    header, *rows = section.tables["Steps by attention path"]
    assert {row[header.index("reference, ms")] for row in rows} == {"failed"}
    assert {row[header.index("reference / prefix")] for row in rows} == {""}


@pytest.mark.slow
def test_without_strict_a_clip_is_relaxed(tmp_path, monkeypatch):
    call = clip._Clips._call

    def without_strict(self, size):
        if self.level == "strict":
            raise RuntimeError("no repeatable kernel")
        return call(self, size)

    monkeypatch.setattr(clip._Clips, "_call", without_strict)
    section = Report(tmp_path, ABOUT).begin("clip", 100)
    clip._product(section, plan_of("tiny", CPU))
    header, *rows = section.tables["Clips"]
    assert {row[header.index("level")] for row in rows} == {"relaxed"}


@pytest.mark.slow
def test_a_broken_promise_is_a_failure(tmp_path):
    section = Report(tmp_path, ABOUT).begin("invariances", 100)
    plan = plan_of("tiny", CPU)
    checks = {what: work for _, what, work in invariances._checks(section, plan, "miniflux", torch.float32)}
    pair = checks["attention prefix and reference"]()
    row = {"what": "made again", "model": "miniflux", "dtype": torch.float32}
    invariances._tell(section, invariances.SEEN, row, *pair)
    assert not section.failures
    invariances._tell(section, invariances.PROMISED, row, *pair)
    assert [each["error"] for each in section.failures] == ["promised to be equal, and is not"]


def test_failed_and_unfinished_tests_are_told(tmp_path):
    section = Report(tmp_path, ABOUT).begin("tests", 100)
    log = "a.py::test_a[x y] PASSED [ 50%]\na.py::test_b FAILED [100%]\n= FAILURES =\nE assert 0\n"
    (tmp_path / "pytest-all.log").write_text(log)
    marked_tests._tell(section, "all", 1)
    assert section.tables["Outcomes"][1] == ["all", 1, 1, 0, 1]
    assert section.failures[0]["error"] == "a.py::test_b"
    assert "E assert 0" in section.failures[0]["traceback"]


def test_tests_that_take_too_long_are_interrupted(tmp_path):
    section = Report(tmp_path, ABOUT).begin("tests", 0.0)
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL
    )
    marked_tests._wait(section, "all", process)
    assert process.returncode != 0
    assert section.skipped == ["the rest of all: no time, interrupted"]


def test_values_as_markdown():
    assert flat({"a": {"b": 1, "c": None}, "d": "e"}) == {"a.b": 1, "d": "e"}
    section = Section("steps", facts={"speed": 1234.5678, "a|b": 1})
    assert "| speed | 1235 |\n| a\\|b | 1 |" in section.to_markdown()
    bar = {"name": "speed", "wanted": ">= 2", "got": 1.0, "passed": False}
    empty = dict.fromkeys(("rows", "facts", "table"), ())
    result = {"command": "clip", "what": "a clip", "baseline": None, "bars": [bar], **empty | {"facts": {}}}
    assert "FAIL: speed, wanted >= 2, got 1" in result_markdown(result)


def test_what_is_wrong_is_said(monkeypatch, capsys, tmp_path):
    for arguments, message in (
        (["--minutes", "0"], "--minutes must be above 0, got 0; use 8"),
        (["--sections", "speed"], "invalid choice: 'speed'"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu_report.py", *arguments])
        with pytest.raises(SystemExit):
            gpu_report.main()
        assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--size", "full", "--device", "cpu"])
    assert gpu_report.main() == 2
    assert "needs a GPU, got the CPU" in capsys.readouterr().err
