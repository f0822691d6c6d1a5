"""Another process, another hash seed, another working folder, another number of threads.

One process makes a clip with every model, because starting Python takes most of the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.other_environment import other_environment

from . import clips
from .conftest import FAMILY_NEUTRAL

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
from tests.invariance.clips import MODELS, identity, load, make
print(json.dumps({name: identity(make(load(name))) for name in MODELS}))
"""


@pytest.fixture(scope="module")
def made_elsewhere(tmp_path_factory):
    """What a process that differs from this one in all but the code made, by the model's name."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=other_environment() | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
def test_another_process_makes_the_same_clip(model, reference, made_elsewhere):
    """By default: the wheel's process, as different, and that of pipelines/ which loads what was saved."""
    assert made_elsewhere[model] == json.loads(json.dumps(clips.identity(reference)))


@FAMILY_NEUTRAL
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
