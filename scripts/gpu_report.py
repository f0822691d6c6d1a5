"""A report on a GPU in one command: tests, invariances, times and peak memory, in one folder.

    python scripts/gpu_report.py --out gpu-report --minutes 8

From a bare checkout; the package need not be installed. Sections run in the order of their value, and the
folder is written after every step, so that a run that is cut off leaves what it had. What fails is in the
report with its traceback. Sections run again into the same folder replace what is there. Without a GPU all
of it is tiny, to show that it works.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from gpu.plan import Plan
    from gpu.report import Section

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "tests": ("marked_tests:measure", 0.3),
    "invariances": ("invariances:measure", 0.25),
    "steps": ("steps:measure", 0.3),
    "clip": ("clip:measure", 0.3),
    "decoding": ("decoding:measure", 0.2),
    "memory": ("memory:measure", 0.2),
    "shards": ("shards:measure", 0.2),
    "determinism": ("others:measure_determinism", 0.15),
    "others": ("others:measure_others", 0.15),
}
"""By value: the function of `scripts/gpu`, and the part of all the time that it may take."""


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), help="folder (default: gpu-report)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sections (default: 8)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--size", choices=("tiny", "full"), help="(default: full on a GPU, else tiny)")
    parser.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    return parser


def main() -> int:
    """Run the sections; the exit status: 0 all went well, 1 something failed, 2 nothing was run."""
    # Read by cuBLAS when it starts; strict determinism needs it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = build_parser()
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error(f"--minutes must be above 0, got {options.minutes:g}; use 8")
    started = time.monotonic()
    sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

    # Here, so that help and mistakes cost nothing.
    from benchmarks.sizes import SIZES, device_for
    from gpu.plan import plan_of
    from gpu.report import Report

    try:
        device = device_for(SIZES[options.size or "tiny"], options.device)
        size = options.size or ("tiny" if device.type == "cpu" else "full")
        report = Report(options.out, about(size, device))
    except ValueError as error:
        print(f"gpu_report.py: {error}", file=sys.stderr)
        return 2
    plan, seconds = plan_of(size, device), options.minutes * 60
    names = [name for name in SECTIONS if name in options.sections]
    with (options.out / "hang.log").open("w", encoding="utf-8") as hang:
        # A kernel that never ends cannot be interrupted: tell where it hangs, and leave.
        faulthandler.dump_traceback_later(seconds + 60, exit=True, file=hang)
        try:
            for index, name in enumerate(names):
                left = seconds - (time.monotonic() - started)
                function, share = SECTIONS[name]
                section = report.begin(name, min(left, share * seconds))
                section.run(name, partial(measure, function, section, plan))
                if (rest := names[index + 1 :]) and (why := broken(device)):
                    section.say(f"a fresh process goes on, as this one has lost the device: {why}")
                    go_on(options, rest, (seconds - (time.monotonic() - started)) / 60)
        finally:
            faulthandler.cancel_dump_traceback_later()
    report.save()
    failures = {name: len(section.failures) for name, section in report.sections.items() if section.failures}
    took = time.monotonic() - started
    print(f"{options.out}/report.md written in {took:.0f} s; failures: {failures or 'none'}")
    return 1 if failures else 0


def measure(function: str, section: Section, plan: Plan) -> None:
    """Run "module:function" of `scripts/gpu`; if it cannot be imported, that costs its section only."""
    module, name = function.split(":")
    getattr(import_module(f"gpu.{module}"), name)(section, plan)


def about(size: str, device: torch.device) -> dict[str, Any]:
    """What the report is of: size, machine, driver and packages."""
    from pyramid_seed.environment import environment_fingerprint

    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm,compute_mode"
    try:
        query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        driver = f"not known: {error}"
    return {"size": size, f"nvidia-smi ({fields})": driver, "environment": environment_fingerprint(device)}


def broken(device: torch.device) -> str | None:
    """What the device says if it fails whatever is asked of it, as after an illegal access; else None."""
    from benchmarks.measure import synchronize

    try:
        synchronize(device)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def go_on(options: argparse.Namespace, sections: list[str], minutes: float) -> None:
    """Become a fresh process that runs the other sections into the same folder; does not return."""
    command = [sys.executable, __file__, "--out", str(options.out), "--minutes", str(max(minutes, 0.1))]
    command += ["--sections", *sections]
    for name in ("size", "device"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name}", value]
    sys.stdout.flush()
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
