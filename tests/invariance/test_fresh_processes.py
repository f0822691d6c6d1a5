"""Another process, another hash seed, another working folder, another number of threads.

Each process makes a clip with every model, because starting Python takes most of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
    """What two processes that differ in all but the code made, by the model's name."""
    folders = [tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONHASHSEED": str(hash_seed),
                "OMP_NUM_THREADS": str(threads),
                "LC_ALL": locale,
                "TZ": zone,
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for hash_seed, threads, folder, locale, zone in zip(
            (1, 2), (1, 3), folders, ("C", "C.UTF-8"), ("UTC", "Asia/Kathmandu"), strict=True
        )
    ]
    done = []
    for process in processes:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        done.append(json.loads(output))
    return done


def test_other_processes_make_the_same_clip(model, reference, identities):
    here = json.loads(json.dumps(clips.identity(reference)))
    assert [each[model] for each in identities] == [here, here]


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
