"""Another process, another hash seed, another working folder, another number of threads.

Each process makes a clip with every model, because starting Python takes most of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from . import clips

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
from tests.invariance.clips import MODELS, identity, load, make
print(json.dumps({name: identity(make(load(name))) for name in MODELS}))
"""


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """What a process that differs from this one in all but the code made, by the model's name."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads() + 2),
            "LC_ALL": "C",
            "TZ": "UTC" if time.timezone else "Asia/Kathmandu",
        },
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("model", list(clips.MODELS), indirect=True)
def test_another_process_makes_the_same_clip(model, reference, identities):
    assert identities[model] == json.loads(json.dumps(clips.identity(reference)))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_nothing(make, reference, threads):
    """Strict has one thread of its own; with 3, GELU, SiLU and matrix products of MKL round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = make()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert clips.identity(again) == clips.identity(reference)
