"""Seeding a script's global generators, and the levels of determinism of a run.

A generation itself neither reads nor changes a global generator; `seed_everything` is for the code around it.
What each level sets is in `SETTINGS`: the context manager and docs/determinism-levels.md both follow it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from .choices import DETERMINISM_LEVELS, DeterminismLevel
from .private_apis import (
    active_attention_backend,
    fp32_precision,
    is_attention_dispatcher_loaded,
    set_active_attention_backend,
    set_fp32_precision,
)
from .seeds import check_root, hashed_seed

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_VALUES = (":4096:8", ":16:8")
"""The two workspaces with which cuBLAS always gives the same bits; the first is the faster."""

_WORD = 2**32


# Seeding ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedReport:
    """What `seed_everything` seeded.

    Args:
        seed: the seed requested, in [0, 2**64).
        python: the argument of `random.seed`.
        numpy: the argument of `np.random.seed`, as 32-bit words, lowest first.
        torch: the argument of `torch.manual_seed`.
        devices: the devices whose generators torch seeded, "cpu" first.
        not_set: what a process's seed usually covers but this one does not, and why.
    """

    seed: int
    python: int
    numpy: tuple[int, ...]
    torch: int
    devices: tuple[str, ...]
    not_set: tuple[str, ...]


def seed_everything(seed: int) -> SeedReport:
    """Seed every global generator of this process: Python's, NumPy's, torch's on the CPU and on all devices.

    Below 2**32, each takes the seed unchanged. From there on, no bit is dropped either: Python takes it all;
    NumPy takes its two 32-bit words; torch, whose CPU generator uses only the low 32 bits, takes the first 8
    bytes, little-endian, of BLAKE2b over `pyramid-seed/global/<seed>`. All torch devices get the same seed
    (CUDA, MPS, XPU and others that torch knows); this does not start an accelerator.

    Raises:
        TypeError: if seed is not an int. ValueError: if it is outside [0, 2**64).
    """
    check_root(seed)
    numpy_words, torch_seed = _numpy_words(seed), _torch_seed(seed)
    random.seed(seed)
    _seed_numpy(numpy_words)
    torch.manual_seed(torch_seed)
    hash_seed = os.environ.get("PYTHONHASHSEED", "unset: random")
    not_set = f"PYTHONHASHSEED ({hash_seed}): Python reads it once, when the process starts"
    return SeedReport(seed, seed, numpy_words, torch_seed, ("cpu", *_accelerators()), (not_set,))


def seed_worker(worker_id: int) -> None:  # noqa: ARG001 - DataLoader passes it; torch's seed contains it
    """Seed Python and NumPy in a DataLoader's worker; pass it as `worker_init_fn`.

    torch gives each worker its own seed, drawn from the loader's `generator` anew in each epoch. Python's and
    NumPy's generators get the same seed, all 64 bits of it, so they follow from it as well.
    """
    seed = torch.initial_seed()
    random.seed(seed)
    _seed_numpy(_numpy_words(seed))


def _numpy_words(seed: int) -> tuple[int, ...]:
    return (seed,) if seed < _WORD else (seed % _WORD, seed // _WORD)


def _seed_numpy(words: tuple[int, ...]) -> None:
    # One word as an int, as is usual: a sequence of one would give another state.
    np.random.seed(words[0] if len(words) == 1 else words)


def _torch_seed(seed: int) -> int:
    if seed < _WORD:
        return seed
    return hashed_seed(f"pyramid-seed/global/{seed}")


def _accelerators() -> tuple[str, ...]:
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return ()
    return tuple(f"{kind.type}:{index}" for index in range(torch.accelerator.device_count()))


# Levels ----------------------------------------------------------------------------------------------------


STRICT_ATTENTION_BACKEND = "native"
STRICT_NUM_THREADS = 1
"""PyTorch's threads per kernel on the CPU at level strict: workers compute side by side instead."""


@dataclass(frozen=True)
class Setting:
    """One process-wide setting that a level governs.

    Args:
        name: its public name.
        strict, relaxed: its value at each level; None leaves it as found.
        why: one sentence for people.
        get, set: read and write it. Writing back the value read restores it exactly.
        applies: whether there is anything to set in this process.
    """

    name: str
    strict: Any
    relaxed: Any
    why: str
    get: Callable[[], Any]
    set: Callable[[Any], object]
    applies: Callable[[], bool] = lambda: True

    def at(self, level: DeterminismLevel) -> Any:
        """The value at `level`; None if the level leaves it as found."""
        return self.strict if level == "strict" else self.relaxed


def _flag(name: str, strict: bool, relaxed: bool | None, why: str) -> Setting:
    """A bool attribute at the dotted path `name` below torch."""
    owner_path, _, attribute = name.rpartition(".")
    owner = attrgetter(owner_path)(torch)
    return Setting(
        f"torch.{name}",
        strict,
        relaxed,
        why,
        lambda: getattr(owner, attribute),
        lambda value: setattr(owner, attribute, value),
    )


def _precision(backend: str, op: str, name: str, why: str) -> Setting:
    """How float32 is computed by `op` of `backend`, see `private_apis.fp32_precision`."""
    return Setting(
        f"torch.backends.{name}",
        "ieee",
        None,
        why,
        lambda: fp32_precision(backend, op),
        lambda value: set_fp32_precision(backend, op, value),
    )


def _reduction(dtype: str) -> Setting:
    """For sums in cuBLAS, the pair (reduced precision allowed, split-K allowed)."""
    matmul, attribute = torch.backends.cuda.matmul, f"allow_{dtype}_reduced_precision_reduction"
    return Setting(
        f"torch.backends.cuda.matmul.{attribute} (and its split-K)",
        (False, True),
        None,
        f"Sums of {dtype} products are kept in float32.",
        lambda: (getattr(matmul, attribute), getattr(matmul, f"{attribute}_split_k")),
        lambda value: setattr(matmul, attribute, value),
    )


def _attention_kernel(kernel: str, strict: bool, why: str) -> Setting:
    return Setting(
        f"torch.backends.cuda.enable_{kernel}_sdp",
        strict,
        None,
        why,
        getattr(torch.backends.cuda, f"{kernel}_sdp_enabled"),
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp"),
    )


# The rows about precision go from the root to the leaves. Setting the root changes everything that inherits
# from it, so only pinned values are written further down, and everything is restored exactly: torch cannot
# tell a pinned value from an inherited one, nor unpin cuDNN's convolutions once they were written. Always
# `fp32_precision`, never `allow_tf32`: torch (2.9 and later) raises where the two are mixed.
SETTINGS: tuple[Setting, ...] = (
    Setting(
        "torch.use_deterministic_algorithms (mode, warn_only)",
        (True, False),
        (False, False),
        "Operations without a repeatable kernel raise instead of differing.",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    _flag(
        "utils.deterministic.fill_uninitialized_memory",
        False,
        None,
        "No time spent on filling memory that is written anyway.",
    ),
    _flag(
        "backends.cudnn.benchmark",
        False,
        True,
        "Kernels chosen by timing may be others in the next run, with other bits.",
    ),
    _flag("backends.cudnn.deterministic", True, False, "Only repeatable convolutions of cuDNN."),
    Setting(
        "torch.set_num_threads",
        STRICT_NUM_THREADS,
        None,
        "Another number of threads splits the work elsewhere, and kernels round differently there (CPU).",
        torch.get_num_threads,
        torch.set_num_threads,
    ),
    _flag("backends.mkldnn.deterministic", True, False, "Only repeatable kernels of oneDNN (CPU)."),
    _precision("generic", "all", "fp32_precision", "float32 is computed as float32."),
    _precision("cuda", "all", "cudnn.fp32_precision", "As above, where CUDA was set apart."),
    _precision("mkldnn", "all", "mkldnn.fp32_precision", "As above, where oneDNN was set apart."),
    _precision("cuda", "matmul", "cuda.matmul.fp32_precision", "No TF32 in matrix products."),
    _precision("cuda", "conv", "cudnn.conv.fp32_precision", "No TF32 in convolutions; torch allows it."),
    _precision("cuda", "rnn", "cudnn.rnn.fp32_precision", "As above, for recurrent layers."),
    _precision("mkldnn", "matmul", "mkldnn.matmul.fp32_precision", "No bf16 in float32 products on a CPU."),
    _precision("mkldnn", "conv", "mkldnn.conv.fp32_precision", "As above, for convolutions."),
    _precision("mkldnn", "rnn", "mkldnn.rnn.fp32_precision", "As above, for recurrent layers."),
    _reduction("fp16"),
    _reduction("bf16"),
    _flag("backends.cuda.matmul.allow_fp16_accumulation", False, None, "No sums in fp16."),
    Setting(
        "torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp",
        False,
        None,
        "Attention written out in steps keeps its sums in float32.",
        torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed,
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp,
    ),
    _attention_kernel("flash", True, "Kernel of CPU and CUDA; refuses masks."),
    _attention_kernel("mem_efficient", True, "Takes masks."),
    _attention_kernel("math", True, "Takes what the others refuse."),
    _attention_kernel("cudnn", False, "cuDNN plans attention anew for each version and device."),
    Setting(
        "diffusers' attention backend",
        STRICT_ATTENTION_BACKEND,
        None,
        "torch's own attention, whatever the process had chosen for all models.",
        active_attention_backend,
        set_active_attention_backend,
        is_attention_dispatcher_loaded,
    ),
)


def settings_in_force() -> tuple[object, ...]:
    """The current value of every setting in `SETTINGS` in this process; None if it does not apply."""
    return tuple(setting.get() if setting.applies() else None for setting in SETTINGS)


@contextmanager
def determinism_level(level: DeterminismLevel = "strict") -> Iterator[None]:
    """Run the body at a level of determinism and restore every setting afterwards, even after an exception.

    "strict" asks for the same bits from run to run on one machine; "relaxed" lets kernels be chosen for speed
    and leaves number formats and attention as found. Both use keyed noise. Levels nest. The settings belong
    to the process, so concurrent threads share them.

    With CUDA, strict needs CUBLAS_WORKSPACE_CONFIG before CUDA starts, and sets it if it can. On leaving it
    is restored, unless CUDA has started and so uses it until the process ends.

    Raises:
        ValueError: if the level does not exist.
        RuntimeError: if CUDA has started with a CUBLAS_WORKSPACE_CONFIG that strict cannot use.
    """
    if level not in DETERMINISM_LEVELS:
        raise ValueError(f"determinism must be {' or '.join(DETERMINISM_LEVELS)}, got {level!r}; use strict")
    with ExitStack() as restore:
        if level == "strict":
            restore.enter_context(_cublas_workspace())
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            for device_type in ["cpu"] if accelerator is None else ["cpu", accelerator.type]:
                restore.enter_context(torch.autocast(device_type, enabled=False))
        for setting in SETTINGS:
            wanted = setting.at(level)
            if wanted is None or not setting.applies():
                continue
            before = setting.get()
            if before != wanted:
                restore.callback(setting.set, before)
                setting.set(wanted)
        yield


def attention_backend_at(level: DeterminismLevel) -> str:
    """The name of the diffusers attention backend that a run at this level uses."""
    return STRICT_ATTENTION_BACKEND if level == "strict" else active_attention_backend()


def ask_for_cublas_workspace() -> None:
    """Set CUBLAS_WORKSPACE_CONFIG for the rest of this process, unless it is set or CUDA has started.

    Call this before anything goes to a GPU, so that strict is possible later.
    """
    if torch.version.cuda is not None and torch.cuda.is_available() and not torch.cuda.is_initialized():
        os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_VALUES[0])


@contextmanager
def _cublas_workspace() -> Iterator[None]:
    before = os.environ.get(CUBLAS_VARIABLE)
    # torch.version.cuda is None on ROCm, whose BLAS does not know the variable.
    if before in CUBLAS_VALUES or torch.version.cuda is None or not torch.cuda.is_available():
        yield
        return
    if torch.cuda.is_initialized():
        raise RuntimeError(
            f"determinism 'strict' needs {CUBLAS_VARIABLE} to be {' or '.join(CUBLAS_VALUES)} before CUDA "
            f"starts, and CUDA has started with {'nothing' if before is None else repr(before)}; set "
            f"{CUBLAS_VARIABLE}={CUBLAS_VALUES[0]} before the program starts, or use determinism 'relaxed'"
        )
    os.environ[CUBLAS_VARIABLE] = CUBLAS_VALUES[0]
    try:
        yield
    finally:
        if not torch.cuda.is_initialized():
            if before is None:
                os.environ.pop(CUBLAS_VARIABLE, None)
            else:
                os.environ[CUBLAS_VARIABLE] = before
