"""Global seeding; determinism levels: what they set, that all of it goes back, that the docs say the same.

There is no accelerator where these tests run: what concerns CUDA replaces torch's answers about it.
"""

from __future__ import annotations

import os
import random
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import diffusers.models.attention_dispatch  # noqa: F401 - so that its setting applies
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pyramid_seed.choices import DETERMINISM_LEVELS
from pyramid_seed.determinism import (
    CUBLAS_VARIABLE,
    SETTINGS,
    Setting,
    ask_for_cublas_workspace,
    determinism_level,
    seed_everything,
    seed_worker,
)
from pyramid_seed.private_apis import active_attention_backend
from tests.cases import check_cases

ROOT = Path(__file__).parents[1]

OTHER_VALUES = {
    "torch.set_num_threads": 3,
    "torch.use_deterministic_algorithms (mode, warn_only)": (True, True),
    "diffusers' attention backend": "_native_math",
}


def _other_value(setting: Setting) -> object:
    """A value that strict does not set, so that strict must change it."""
    if setting.name in OTHER_VALUES:
        return OTHER_VALUES[setting.name]
    if setting.strict == "ieee":
        return "bf16" if "mkldnn" in setting.name else "tf32"
    if isinstance(setting.strict, tuple):
        return (True, True)
    return not setting.strict


def _state() -> dict[str, object]:
    return {setting.name: setting.get() for setting in SETTINGS}


@contextmanager
def _settings_put_back() -> Iterator[None]:
    """Put back what is set outside of a level. Precision goes to "none", torch's own initial state."""
    before = _state()
    try:
        yield
    finally:
        for setting in reversed(SETTINGS):
            setting.set(
                "none" if setting.strict == "ieee" and "cudnn." not in setting.name else before[setting.name]
            )


@pytest.fixture
def clean_settings():
    with _settings_put_back():
        yield


# Seeding


def _draws() -> tuple[float, float, list[float]]:
    return random.random(), float(np.random.rand()), torch.rand(2).tolist()


def test_a_seed_fixes_every_global_generator():
    seed_everything(7)
    first = _draws()
    assert _draws() != first
    seed_everything(7)
    assert _draws() == first


def test_small_seeds_mean_what_they_mean_everywhere():
    seed_everything(7)
    python, numpy, torch_values = _draws()
    assert python == random.Random(7).random()
    assert numpy == np.random.RandomState(7).rand()
    assert torch_values == torch.rand(2, generator=torch.Generator().manual_seed(7)).tolist()


def test_no_bit_of_a_large_seed_is_dropped():
    def rule(high):
        seed_everything(5)
        small = _draws()
        seed_everything(5 + high)
        assert all(a != b for a, b in zip(small, _draws(), strict=True))

    check_cases([2**32, 2**40, 2**63], rule)


def test_the_report_says_what_was_given_to_whom(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    report = seed_everything(5 + 2**40)
    assert (report.seed, report.python, report.numpy) == (5 + 2**40, 5 + 2**40, (5, 2**8))
    assert report.torch == torch.initial_seed() == 446881352085307413  # by b2sum
    assert report.devices[0] == "cpu"
    assert report.not_set == ("PYTHONHASHSEED (0): Python reads it once, when the process starts",)
    report = seed_everything(2**32 - 1)
    assert report.numpy == (2**32 - 1,)
    assert report.torch == 2**32 - 1


def test_the_report_names_all_accelerators(monkeypatch):
    # Pretended: there is none here. torch.manual_seed itself seeds whatever torch knows.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert seed_everything(1).devices == ("cpu", "xpu:0", "xpu:1")


def test_seeds_out_of_range_are_refused_and_nothing_is_seeded():
    def rule(seed, fix):
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match=fix):
            seed_everything(seed)
        assert torch.equal(torch.get_rng_state(), before)

    check_cases([(-1, "use 0"), (2**64, f"use {2**64 - 1}")], rule)


def test_seeds_that_are_no_ints_are_refused():
    def rule(seed):
        with pytest.raises(TypeError, match="seed must be an int"):
            seed_everything(seed)

    check_cases([1.0, "1", None, True], rule)


class _Drawn(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[str, float, float]:
        # The seed as text, because a batch would make a signed 64-bit tensor of it.
        return str(torch.initial_seed()), random.random(), float(np.random.rand())


def _epoch(seed: int) -> list[tuple[str, float, float]]:
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        _Drawn(), batch_size=None, num_workers=2, worker_init_fn=seed_worker, generator=generator
    )
    return list(loader)


def test_workers_draw_what_the_loaders_generator_says():
    items = _epoch(3)
    assert _epoch(3) == items
    assert _epoch(4) != items
    assert len({seed for seed, _, _ in items}) == 2
    for seed, python, numpy in items[:2]:  # the first item of either worker
        words = [int(seed) % 2**32, int(seed) // 2**32]
        assert python == random.Random(int(seed)).random()
        assert numpy == np.random.RandomState(words).rand()


# Levels


def test_strict_sets_all_that_it_says_and_relaxed_likewise():
    for level in DETERMINISM_LEVELS:
        before = _state()
        with determinism_level(level):
            for setting in SETTINGS:
                wanted = setting.at(level)
                assert setting.get() == (before[setting.name] if wanted is None else wanted), setting.name
        assert _state() == before


def test_a_setting_goes_back_to_what_it_was():
    def rule(setting, level):
        other = _other_value(setting)
        with _settings_put_back():
            setting.set(other)
            before = _state()
            assert before[setting.name] == other != setting.strict
            with determinism_level(level):
                assert setting.get() == (other if setting.at(level) is None else setting.at(level))
            assert _state() == before
            with pytest.raises(KeyError), determinism_level(level):
                raise KeyError
            assert _state() == before

    pairs = product(SETTINGS, DETERMINISM_LEVELS)
    check_cases({f"{setting.name}, {level}": (setting, level) for setting, level in pairs}, rule)


@pytest.mark.usefixtures("clean_settings")
def test_levels_nest():
    torch.backends.cudnn.benchmark = True
    outside = _state()
    with determinism_level("strict"):
        strict = _state()
        with determinism_level("relaxed"):
            relaxed = _state()
            assert not torch.are_deterministic_algorithms_enabled()
            with determinism_level("strict"):
                assert _state() == strict
            assert _state() == relaxed
        assert _state() == strict
        with determinism_level():
            assert _state() == strict
        assert _state() == strict
    assert _state() == outside


def test_what_could_not_be_set_leaves_nothing_behind(monkeypatch):
    def refuse(value: object) -> None:
        raise OSError("refused")

    before = _state()
    last = SETTINGS[-1]
    unsettable = Setting("unsettable", True, None, "", lambda: False, refuse)
    monkeypatch.setattr("pyramid_seed.determinism.SETTINGS", (*SETTINGS[:-1], unsettable, last))
    with pytest.raises(OSError, match="refused"), determinism_level("strict"):
        pytest.fail("the body must not run")
    assert _state() == before


def test_an_unknown_level_is_refused():
    with (
        pytest.raises(ValueError, match="must be strict or relaxed, got 'fast'; use strict"),
        determinism_level("fast"),
    ):
        pass


def test_strict_refuses_an_operation_that_has_no_repeatable_kernel():
    twice, values = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
    with determinism_level("strict"), pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
        torch.zeros(3).put_(twice, values)
    torch.zeros(3).put_(twice, values)


def test_the_attention_backend_of_a_process_is_put_aside():
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend("_native_math"):
        with determinism_level("strict"):
            assert active_attention_backend() == "native"
        assert active_attention_backend() == "_native_math"
        with determinism_level("relaxed"):
            assert active_attention_backend() == "_native_math"


# In copies of a fresh process, for torch cannot go back to its initial state once a convolution's precision
# was written: cuDNN's default of TF32 then no longer follows its parents.
IN_COPIES = """
import os, sys, warnings
import torch
from pyramid_seed.determinism import determinism_level
assert "diffusers" not in sys.modules
torch.use_deterministic_algorithms(False)  # as it is; what torch imports for it takes seconds in each copy
statuses = []
for script in sys.argv[1:]:
    if (copy := os.fork()) == 0:
        exec(script)
        sys.exit(0)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
sys.exit(repr(statuses) if any(statuses) else 0)
"""
INHERITED = """
with determinism_level("strict"):
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "tf32"
assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
torch.backends.cudnn.fp32_precision = "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "ieee"
assert torch.backends.mkldnn.matmul.fp32_precision == "none"
torch.backends.fp32_precision = "bf16"
assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
"""
OLDER_WAY = """
warnings.simplefilter("error")
for legacy in ("highest", "high", "medium"):
    torch.set_float32_matmul_precision(legacy)
    before = torch.backends.cuda.matmul.allow_tf32
    with determinism_level("strict"):
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == legacy
    assert torch.backends.cuda.matmul.allow_tf32 == before
"""


@pytest.mark.slow
def test_precision_that_was_inherited_or_asked_for_in_the_older_way_is_so_afterwards():
    command = [sys.executable, "-c", IN_COPIES, INHERITED, OLDER_WAY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# cuBLAS's workspace. There is no CUDA here, so torch's answers about it are replaced.


@pytest.fixture
def pretend_cuda(monkeypatch):
    started = {"yet": False}
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started["yet"])
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    yield started
    os.environ.pop(CUBLAS_VARIABLE, None)


def test_without_cuda_the_workspace_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    with determinism_level("strict"):
        assert CUBLAS_VARIABLE not in os.environ


@pytest.mark.parametrize("before", [None, ":0:0"])
def test_before_cuda_starts_the_workspace_is_set_and_put_back(pretend_cuda, monkeypatch, before):
    if before is not None:
        monkeypatch.setenv(CUBLAS_VARIABLE, before)
    with determinism_level("strict"):
        assert os.environ[CUBLAS_VARIABLE] == ":4096:8"
    assert os.environ.get(CUBLAS_VARIABLE) == before


def test_a_workspace_that_was_asked_for_serves_once_cuda_has_started(pretend_cuda):
    ask_for_cublas_workspace()
    pretend_cuda["yet"] = True
    with determinism_level("strict"):
        assert os.environ[CUBLAS_VARIABLE] == ":4096:8"


@pytest.mark.parametrize("before", [":16:8", ":0:0"])
def test_asking_changes_no_workspace_that_was_chosen(pretend_cuda, monkeypatch, before):
    monkeypatch.setenv(CUBLAS_VARIABLE, before)
    ask_for_cublas_workspace()
    assert os.environ[CUBLAS_VARIABLE] == before


def test_strict_computes_in_the_dtype_of_the_tensors_also_under_autocast():
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with determinism_level("strict"):
            assert (ones @ ones).dtype == torch.float32
        with determinism_level("relaxed"):
            assert (ones @ ones).dtype == torch.bfloat16
        assert (ones @ ones).dtype == torch.bfloat16


def test_a_workspace_that_cuda_has_read_stays(pretend_cuda):
    with determinism_level("strict"):
        pretend_cuda["yet"] = True
    assert os.environ[CUBLAS_VARIABLE] == ":4096:8"
    with determinism_level("strict"):  # and so strict works again
        pass


@pytest.mark.parametrize("before", [":4096:8", ":16:8"])
def test_a_workspace_that_serves_is_kept(pretend_cuda, monkeypatch, before):
    pretend_cuda["yet"] = True
    monkeypatch.setenv(CUBLAS_VARIABLE, before)
    with determinism_level("strict"):
        assert os.environ[CUBLAS_VARIABLE] == before
    assert os.environ[CUBLAS_VARIABLE] == before


@pytest.mark.parametrize("workspace", [None, ":4096:2:16:8"])
def test_too_late_for_the_workspace_is_said(pretend_cuda, monkeypatch, workspace):
    if workspace is not None:
        monkeypatch.setenv(CUBLAS_VARIABLE, workspace)
    pretend_cuda["yet"] = True
    before = _state()
    message = "CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8 before CUDA starts"
    with pytest.raises(RuntimeError, match=message), determinism_level("strict"):
        pytest.fail("the body must not run")
    assert _state() == before
    with determinism_level("relaxed"):
        assert os.environ.get(CUBLAS_VARIABLE) == workspace


# Docs


def test_the_page_holds_the_table_that_the_code_gives():
    script = runpy.run_path(str(ROOT / "scripts" / "determinism_table.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert page == script["with_current_table"](page), "run PYTHONPATH=. python scripts/determinism_table.py"
    assert script["levels_table"]() in page


def test_a_page_without_a_place_for_the_table_is_refused():
    script = runpy.run_path(str(ROOT / "scripts" / "determinism_table.py"))
    with pytest.raises(ValueError, match="must have one line"):
        script["with_current_table"]("# No table\n")
