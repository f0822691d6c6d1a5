"""Another process, another hash seed, another working folder; and what a number of threads does.

Each process makes a clip with every model, because starting Python takes most of the time. Frames are
promised for one number of threads only: the noise does not depend on it, kernels may. Seen on two CPU cores
with torch 2.13: 1 and 2 threads give the same frames; with 3, GELU and SiLU round differently, because a
vectorised kernel ends its share of the values with scalar code, and so do matrix products of MKL.
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
    """What two processes that differ in all but the number of threads made, by the model's name."""
    folders = [tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")]
    threads = str(torch.get_num_threads())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONHASHSEED": str(hash_seed),
                "OMP_NUM_THREADS": threads,
                "LC_ALL": locale,
                "TZ": zone,
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for hash_seed, folder, locale, zone in zip(
            (1, 2), folders, ("C", "C.UTF-8"), ("UTC", "Asia/Kathmandu"), strict=True
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


def test_threads_do_not_change_the_noise(make, reference):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        first_unit = make(units=1, num_inference_steps=1)
    finally:
        torch.set_num_threads(before)
    assert list(first_unit.ledgers[0]) == [entry for entry in reference.ledgers[0] if entry.key.unit == 0]
