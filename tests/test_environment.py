"""The environment's fingerprint: complete, JSON, nobody's name in it, and compared field by field."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyramid_seed.environment import Difference, environment_fingerprint, fingerprint_differences
from tests.cases import check_cases

ROOT = Path(__file__).parents[1]


def test_a_fingerprint_survives_json():
    fingerprint = environment_fingerprint("cpu", torch.bfloat16, "native", "strict")
    assert json.loads(json.dumps(fingerprint)) == fingerprint


def test_it_says_what_explains_a_difference():
    fingerprint = environment_fingerprint(torch.device("cpu"), torch.bfloat16, "flash", "relaxed")
    assert fingerprint["packages"]["torch"] == torch.__version__
    assert {"pyramid-seed", "diffusers", "transformers", "accelerate", "imageio", "av"} <= set(
        fingerprint["packages"]
    )
    assert fingerprint["libraries"]["libavcodec"].count(".") == 2
    assert fingerprint["python"].endswith(platform.python_version())
    assert fingerprint["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert fingerprint["device"] == {"type": "cpu", **fingerprint["cpu"]}
    assert fingerprint["threads"]["intraop"] == torch.get_num_threads()
    assert fingerprint["dtype"] == "bfloat16"
    assert (fingerprint["attention_backend"], fingerprint["determinism"]) == ("flash", "relaxed")


@pytest.mark.slow
def test_the_instruction_set_and_threads_of_another_process_are_told_apart():
    script = (
        "import json, sys; from pyramid_seed.environment import environment_fingerprint;"
        "sys.stdout.write(json.dumps(environment_fingerprint()));"
        "assert not {'diffusers', 'transformers', 'accelerate'} & set(sys.modules)"
    )

    here = environment_fingerprint()
    variables = {"OMP_NUM_THREADS": str(torch.get_num_threads() + 1), "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=variables, check=True, capture_output=True, text=True
    )
    there = json.loads(done.stdout)
    assert there["cpu"]["capability"] == "DEFAULT"
    fields = {difference.field for difference in fingerprint_differences(here, there)}
    assert {"threads.intraop", "variables.ATEN_CPU_CAPABILITY"} <= fields
    assert all(field.split(".")[0] in {"threads", "variables", "cpu", "device"} for field in fields)


def test_no_host_user_or_path_is_in_it(monkeypatch):
    monkeypatch.setenv("PYTORCH_KERNEL_CACHE_PATH", "/home/somebody/cache")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    fingerprint = environment_fingerprint()
    assert fingerprint["variables"]["PYTORCH_KERNEL_CACHE_PATH"] == "(a path)"
    assert fingerprint["variables"]["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    # A host or user may be called like a field ("torch", "root"): only values count.
    values = [str(difference.a) for difference in fingerprint_differences(fingerprint, {})]
    assert not any(mark in value for value in values for mark in ("\\", "~", "/home"))
    assert {platform.node(), getpass.getuser(), str(Path.home())}.isdisjoint(values)


def test_only_variables_that_matter_are_recorded(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the number itself is recorded
    monkeypatch.setenv("SECRET_TOKEN", "x")
    variables = environment_fingerprint()["variables"]
    assert variables["MKL_CBWR"] == "AVX2"
    assert not {"SECRET_TOKEN", "OMP_NUM_THREADS"} & set(variables)


def test_variables_of_cuda_are_not_recorded_of_the_cpu(monkeypatch):
    """The command line sets one of them: a clip of the CPU is the same file from Python."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.setenv(name, "1")
    assert not any("CU" in name or "NVIDIA" in name for name in environment_fingerprint("cpu")["variables"])


def test_a_cuda_device_is_named_with_its_capability(monkeypatch):
    # Pretended: there is none here.
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    device = environment_fingerprint("cuda:0")["device"]
    assert device == {"type": "cuda", "name": "NVIDIA Test", "capability": "9.0"}


def test_differences_are_told_field_by_field():
    cases = [
        ({}, {}, []),
        ({"x": {"y": 1}}, {"x": {"y": 1}}, []),
        ({"x": {"y": 1}, "z": 2}, {"x": {"y": 3}, "z": 4}, [("x.y", 1, 3), ("z", 2, 4)]),
        ({"x": {"y": 1}}, {"w": 0, "x": {}}, [("x.y", 1, None), ("w", None, 0)]),
    ]

    def rule(a, b, expected):
        assert fingerprint_differences(a, b) == [Difference(*fields) for fields in expected]

    check_cases(cases, rule)


def test_what_a_caller_changes_stays_with_it():
    """Versions are read once per process."""
    environment_fingerprint()["packages"]["torch"] = "9"
    assert environment_fingerprint()["packages"]["torch"] == torch.__version__
