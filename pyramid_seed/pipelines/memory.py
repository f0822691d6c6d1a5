"""Where tensors lie in memory.

Kernels give other bits for other addresses and strides: measured on the CPU, a text encoder whose weights
were mapped from a file, 24 bytes past a multiple of 64, against its copy. So what comes from outside is
brought to one layout first.
"""

from __future__ import annotations

import ctypes
import gc
import platform

import torch
from torch import nn

ALIGNMENT = 64
"""Bytes, to which torch's allocator for the CPU aligns."""


def contiguous_copy(values: torch.Tensor) -> torch.Tensor:
    """A contiguous copy at an address of torch's choosing."""
    return values.clone(memory_format=torch.contiguous_format)


def free_memory() -> None:
    """Give back what nothing refers to any more, so that what comes next has it."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def trim_heap(device: torch.device) -> None:
    """Give free memory of the process back to the system, where work on the CPU has left it scattered.

    A history that grows asks for a little more each time, which glibc's allocator meets with new memory.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def unmap_weights(module: nn.Module) -> None:
    """Copy the weights on the CPU: those that are mapped from a file would change with it.

    Values, strides and the identity of parameters stay; subclasses of tensors are left alone.
    """
    for weight in (*module.parameters(), *module.buffers()):
        if type(weight.data) is torch.Tensor and weight.device.type == "cpu":
            weight.data = weight.data.clone()


def align_weights(module: nn.Module) -> None:
    """Move the weights on the CPU that torch's allocator would not have put where they are.

    Values, strides and the identity of parameters stay. Other devices and subclasses of tensors are left
    alone.
    """
    for weight in (*module.parameters(), *module.buffers()):
        data = weight.data
        if type(data) is torch.Tensor and data.device.type == "cpu" and data.data_ptr() % ALIGNMENT:
            weight.data = data.clone()
