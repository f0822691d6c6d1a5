"""Another process, another hash seed, another working folder, another number of threads.

One process makes a clip with every model, because starting Python takes most of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch

from . import clips

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
import sys
from tests.invariance.clips import identity, load, make
print(json.dumps({name: identity(make(load(name))) for name in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def made_elsewhere(tmp_path_factory):
    """What a process that differs from this one in all but the code makes of models, by their names."""
    return cache(lambda *models: make_elsewhere(models, tmp_path_factory.mktemp("elsewhere")))


def make_elsewhere(models, folder):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, *models],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads() + 2),
            "LC_ALL": "C",
            "TZ": "UTC" if time.timezone else "Asia/Kathmandu",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_another_process_makes_the_same_clip(model, reference, made_elsewhere):
    together = ["miniflux", "sd3"] if model != "tiny" else ["tiny"]
    assert made_elsewhere(*together)[model] == json.loads(json.dumps(clips.identity(reference)))


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
