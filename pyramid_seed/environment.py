"""The environment of a run: the fields that can explain why another run gave other bits.

A fingerprint is part of every clip's manifest, which people pass on, so it names no host, user or folder.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .choices import DeterminismLevel
from .determinism import STRICT_NUM_THREADS
from .private_apis import active_attention_backend

PACKAGES = (
    "diffusers",
    "transformers",
    "accelerate",
    "tokenizers",
    "sentencepiece",
    "safetensors",
    "numpy",
    "pillow",
    "imageio",
    "av",
)

VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DIFFUSERS_ATTN_BACKEND",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)
"""Environment variables that can change bits; those that begin with PYTORCH_ are also recorded.

Variables that only set the number of threads are left out: that number is itself recorded, and launchers set
it for their processes.
"""

_DECISIVE = (
    "packages.torch",
    "packages.diffusers",
    "packages.transformers",
    "libraries.cud",
    "platform.",
    "cpu.",
    "device.",
)
"""Beginnings of the names of fingerprint fields that can make other kernels run.

The others change no bit at level strict, or were changed on purpose, such as a variable that chooses kernels.
"""

CUDA_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables that only CUDA reads; the command line sets the first one before it knows the device."""


def environment_fingerprint(
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attention_backend: str | None = None,
    level: DeterminismLevel | None = None,
) -> dict[str, Any]:
    """Describe the packages, machine and settings of a run in JSON types.

    Args:
        device: where the models run; its name and capability are recorded.
        dtype: what the models compute in, None if there is no single answer.
        attention_backend: diffusers' name for it; None records the one in force for the process.
        level: the determinism level of the run, None if there is none.

    Packages that are not installed have version None. A variable whose value looks like a path is recorded as
    "(a path)"; unset variables are left out.
    """
    return deepcopy(_constant_fields()) | {
        "device": _describe_device(torch.device(device)),
        "threads": {
            "intraop": STRICT_NUM_THREADS if level == "strict" else torch.get_num_threads(),
            "interop": torch.get_num_interop_threads(),
        },
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "attention_backend": active_attention_backend() if attention_backend is None else attention_backend,
        "determinism": level,
        "variables": _variables(os.environ, torch.device(device)),
    }


@cache
def _constant_fields() -> dict[str, Any]:
    """The fields that stay the same for as long as this process runs."""
    return {
        "packages": {
            "pyramid-seed": _version("pyramid-seed") or "0+unknown",
            "torch": str(torch.__version__),
            **{name: _version(name) for name in PACKAGES},
        },
        "libraries": {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **_ffmpeg_libraries(),
        },
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
        },
        "cpu": {"name": _cpu_name(), "capability": torch.backends.cpu.get_cpu_capability()},
    }


@dataclass(frozen=True)
class Difference:
    """A field, such as "packages.torch", and its value on either side; None if a side lacks it."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.a!r} then, {self.b!r} now"


def fingerprint_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """The fields in which two fingerprints differ, in the order of `a`, followed by those only in `b`."""
    flat_a, flat_b = _flatten(a), _flatten(b)
    fields = [*flat_a, *(field for field in flat_b if field not in flat_a)]
    pairs = ((field, flat_a.get(field), flat_b.get(field)) for field in fields)
    return [Difference(field, left, right) for field, left, right in pairs if left != right]


def kernel_differences(differences: Iterable[Difference]) -> list[Difference]:
    """The differences of two environments that can make other kernels run: these alone may change bits."""
    return [each for each in differences if each.field.startswith(_DECISIVE)]


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _ffmpeg_libraries() -> dict[str, str]:
    import av  # here, as comparing two fingerprints does not need it

    return {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())}


@cache
def _cpu_name() -> str:
    # On Linux, only this names it; platform.processor() is empty or a mere architecture there.
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _describe_device(device: torch.device) -> dict[str, str | None]:
    name: str | None
    capability = None
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    elif device.type == "cpu":
        name, capability = _cpu_name(), torch.backends.cpu.get_cpu_capability()
    elif device.type == "xpu":
        name = torch.xpu.get_device_name(device)
    else:
        name = platform.processor() or None
    return {"type": device.type, "name": name, "capability": capability}


def _variables(environment: Mapping[str, str], device: torch.device) -> dict[str, str]:
    read = (*VARIABLES, *CUDA_VARIABLES) if device.type == "cuda" else VARIABLES
    return {
        name: "(a path)" if any(mark in value for mark in ("/", "\\", "~")) else value
        for name, value in sorted(environment.items())
        if name in read or name.startswith("PYTORCH_")
    }
