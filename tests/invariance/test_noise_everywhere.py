"""Noise is the same for every instruction set of the CPU: scheme v1 against one file that never changes.

Where this fails, the noise of every clip ever made has changed: the code is wrong, never the file. A new idea
is a scheme v2, with a file of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyramid_seed.noise import SCHEME
from tests.cases import check_cases

from .noise_draws import with_digests

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "noise.json").read_text())

SUPPORTED = {
    "default": True,
    "avx2": torch.cpu._is_avx2_supported(),
    "avx512": torch.cpu._is_avx512_supported(),
}

HERE = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "")


def test_scheme():
    assert GOLDEN["scheme"] == SCHEME


def test_draws_of_this_process():
    assert with_digests(GOLDEN["draws"]) == GOLDEN["draws"]


def test_threads():
    def rule(threads):
        torch.set_num_threads(threads)
        assert with_digests(GOLDEN["draws"]) == GOLDEN["draws"]

    before = torch.get_num_threads()
    try:
        check_cases([1, 2, 3], rule)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [name for name in SUPPORTED if name != HERE])
def test_other_instruction_sets(capability, tmp_path):
    """That of this process is tested above."""
    if not SUPPORTED[capability]:
        pytest.skip(f"this CPU has no {capability}")
    output = subprocess.run(
        [sys.executable, "-m", "tests.invariance.noise_draws"],
        input=json.dumps(GOLDEN["draws"]),
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    done = json.loads(output.stdout)
    assert done["capability"].lower().replace(" ", "") == capability
    assert done["draws"] == GOLDEN["draws"]
