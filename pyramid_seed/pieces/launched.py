"""The processes that a launcher has started: accelerate, torchrun, Slurm or MPI."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .processes import Processes


def is_launched() -> bool:
    """Whether this process is one of several in a launch; costs nothing, not even to import torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def processes_of_launch(device: str | torch.device | None = None) -> Processes | None:
    """All processes of this launch, to make a clip together; None if this is the only one.

    Rank, device and backend come from `accelerate.PartialState`, which joins the processes unless they are
    joined already. All of them must call this, in the same order.

    Args:
        device: where the models run; default: the accelerators, one per process, or else the CPU.

    Raises:
        ValueError: the launch has several processes, but accelerate was set up otherwise before.
    """
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    from ..determinism import ask_for_cublas_workspace
    from .processes import Processes

    ask_for_cublas_workspace()
    default = "cuda" if torch.accelerator.is_available() else "cpu"
    state = PartialState(cpu=torch.device(device or default).type == "cpu")
    if state.num_processes == 1:
        if is_launched():
            raise ValueError(
                f"this launch has {os.environ['WORLD_SIZE']} processes, but accelerate.PartialState was made "
                "for one: it joins them only if its first use says cpu=True where they compute on CPUs; call "
                "processes_of_launch() before all else that uses it"
            )
        return None
    group = dist.new_group()
    passes_on_cpu = dist.get_backend(group) == "gloo"
    ranks = tuple(range(state.num_processes))
    return Processes(
        ranks, state.process_index, torch.device("cpu") if passes_on_cpu else state.device, group
    )


def leave_launch() -> None:
    """Do what must be done before a process of a launch ends."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
