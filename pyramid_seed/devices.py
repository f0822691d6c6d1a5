"""Devices that people name, checked before any work is done on them."""

from __future__ import annotations

import torch


def parse_device(device: str | torch.device, name: str = "device") -> torch.device:
    """The device of a text such as "cuda:1".

    Raises:
        ValueError, with `name`: torch knows no such device. TypeError: it is not a text.
    """
    if not isinstance(device, str | torch.device):
        raise TypeError(f"{name} must be a str such as cpu or cuda, got {device!r:.60}")
    try:
        return torch.device(device)
    except (RuntimeError, UnicodeError) as error:
        raise ValueError(
            f"{name} must be one that torch knows, such as cpu, cuda or mps, got {device!r}"
        ) from error


def usable_device(device: str | torch.device, name: str = "device") -> torch.device:
    """The device, if it can be used here.

    Raises:
        ValueError: it does not exist, or this machine, or this build of torch, cannot use it.
    """
    parsed = parse_device(device, name)
    try:
        torch.empty(0, device=parsed)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} {str(parsed)!r} cannot be used here: {reason}") from error
    return parsed
