"""`tests`: the suite marked gpu, by pytest, in processes side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.invariance import clips

from .plan import Plan
from .report import Section

ROOT = Path(__file__).resolve().parents[2]
OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
GRACE = 20
"""Seconds that pytest has to tell its tracebacks once it is interrupted."""


def measure(section: Section, plan: Plan) -> None:
    """Each dtype and model has a process of its own, as a tiny model does not fill a GPU."""
    section.how = (
        "`pytest -m gpu` of the files that have such tests; on a GPU in several processes at once, "
        "one a model and dtype. The logs lie beside this report."
    )
    wanted = {"all": ""}
    if plan.device.type != "cpu":
        wanted = {}
        for model in clips.MODELS:
            others = "".join(f" and not {each}" for each in clips.MODELS if model in each and model != each)
            wanted |= {f"{kind}-{model}": f"{kind} and {model}{others}" for kind in ("bf16", "fp32")}
        wanted["rest"] = "not bf16 and not fp32"
    section.run("pytest", lambda: _run(section, wanted))


def marked_files() -> list[str]:
    """The test files that have tests marked gpu."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(path.relative_to(ROOT)) for path in files if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    ]


def _run(section: Section, wanted: dict[str, str]) -> None:
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", *marked_files()]
    processes = {}
    for name, expression in wanted.items():
        log = (section.folder / f"pytest-{name}.log").open("w", encoding="utf-8")
        with log:
            processes[name] = subprocess.Popen(
                [*command, "-k", expression] if expression else command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    for name, process in processes.items():
        _wait(section, name, process)
    for name in processes:
        _tell(section, name, processes[name].returncode)


def _wait(section: Section, name: str, process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=max(section.left(), 1))
    except subprocess.TimeoutExpired:
        section.skip(f"the rest of {name}", "no time, interrupted")
        process.send_signal(signal.SIGINT)  # pytest then tells what has failed by now
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tell(section: Section, name: str, status: int) -> None:
    text = (section.folder / f"pytest-{name}.log").read_text(encoding="utf-8", errors="replace")
    outcomes = OUTCOME.findall(text)
    counts = Counter(outcome for _, outcome in outcomes)
    row = {"tests": name, "exit status": status, **{each: counts[each] for each in ("PASSED", "SKIPPED")}}
    section.add_row("Outcomes", row | {"FAILED": counts["FAILED"] + counts["ERROR"]})
    section.say(f"{name}: status {status}, {dict(counts)}")
    if status not in (0, 5, 2) or counts["FAILED"] + counts["ERROR"]:
        failed = ", ".join(test for test, outcome in outcomes if outcome in ("FAILED", "ERROR"))
        begin = max(text.find("= FAILURES ="), text.find("= ERRORS ="), 0)
        trace = text[begin : begin + 6000] if begin else text[-6000:]
        section.fail(f"pytest {name}", failed or "see the log", trace)
