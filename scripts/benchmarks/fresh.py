"""Running a function in a fresh process and taking its peak memory.

A process's peak never falls, so what is compared must not share one.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

SCRIPTS = Path(__file__).resolve().parents[1]


def peak_memory() -> int:
    """Peak memory of this process in bytes: what torch allocated on a CUDA device, else resident memory.

    Linux tells the peak since the program was started in /proc; getrusage would tell the parent's if higher.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Let `peak_memory` begin anew, where the system allows it: on CUDA, and on Linux."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def run_fresh(module: str, function: str, arguments: list[Any]) -> dict[str, Any]:
    """Call `module.function(*arguments)` in a fresh process, with as many threads of torch as this one has.

    Returns:
        {"peak": bytes, "value": what the function returned, as JSON knows it}.

    Raises:
        RuntimeError: it failed; the end of what it said is told.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", module, function, json.dumps(arguments)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment() | threads)
    if done.returncode:
        raise RuntimeError(f"{module}.{function}{tuple(arguments)} failed: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """This process's variables, with the scripts and the package on the path."""
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


if __name__ == "__main__":
    _, module_name, function_name, given_arguments = sys.argv
    value = getattr(import_module(module_name), function_name)(*json.loads(given_arguments))
    print(json.dumps({"peak": peak_memory(), "value": value}))
