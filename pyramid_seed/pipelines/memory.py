"""Where tensors lie in memory.

Kernels give other bits for other addresses and strides: measured on the CPU with a text encoder whose weights
were mapped from a file, 24 bytes past a multiple of 64, against a copy. So everything from outside is first
brought to one layout.
"""

from __future__ import annotations

import ctypes
import gc
import platform

import torch
from torch import nn

ALIGNMENT = 64
"""Bytes; torch's CPU allocator aligns to a multiple of this."""


def contiguous_copy(values: torch.Tensor) -> torch.Tensor:
    """A contiguous copy at an address of torch's choosing."""
    return values.clone(memory_format=torch.contiguous_format)


def free_memory() -> None:
    """Free what nothing refers to any more, so that the next allocation can use it."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def trim_heap(device: torch.device) -> None:
    """Return the process's free memory to the system, as work on the CPU leaves it fragmented.

    A growing history asks for a little more each time, and glibc's allocator serves that with new memory.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def unmap_weights(module: nn.Module) -> None:
    """Copy the weights on the CPU: those mapped from a file would change with the file.

    Values, strides and the identity of parameters stay; tensor subclasses are left alone.
    """
    for weight in (*module.parameters(), *module.buffers()):
        if type(weight.data) is torch.Tensor and weight.device.type == "cpu":
            weight.data = weight.data.clone()


def align_weights(module: nn.Module) -> None:
    """Move weights on the CPU that do not lie where torch's allocator would have put them.

    Values, strides and the identity of parameters stay. Weights on other devices and tensor subclasses are
    left alone.
    """
    for weight in (*module.parameters(), *module.buffers()):
        data = weight.data
        if type(data) is torch.Tensor and data.device.type == "cpu" and data.data_ptr() % ALIGNMENT:
            weight.data = data.clone()
