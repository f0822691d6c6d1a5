"""The processes that a launcher has started: accelerate, torchrun, Slurm or MPI."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from .processes import Processes


def is_launched() -> bool:
    """Whether this process is one of several of a launch; costs nothing."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def processes_of_launch(device: str | torch.device | None = None) -> Processes | None:
    """All processes of this launch, to make a clip together; None where this is the only one.

    Rank, device and backend are those of `accelerate.PartialState`, which joins the processes unless that was
    done. To be called by all of them, in the same order.

    Args:
        device: where the models run; default: the accelerators, one for each process, or else the CPU.

    Raises:
        ValueError: the launch has several processes, but accelerate was told otherwise before.
    """
    from accelerate import PartialState

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
    return processes_among(range(state.num_processes), state.process_index, state.device)


def processes_among(ranks: range, rank: int, device: torch.device) -> Processes:
    """Some processes of a launch, of which this one is one; called by all of the launch for the same ranks.

    Args:
        ranks: theirs.
        rank: of this one.
        device: where it computes.
    """
    group = dist.new_group([*ranks])
    passes_on_cpu = dist.get_backend(group) == "gloo"
    return Processes(tuple(ranks), ranks.index(rank), torch.device("cpu") if passes_on_cpu else device, group)


def leave_launch() -> None:
    """What has to be done before a process of a launch ends."""
    if dist.is_initialized():
        dist.destroy_process_group()
