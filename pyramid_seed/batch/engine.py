"""What divides a batch: the processes of a launch, or Ray; what is impossible is refused before any work."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from ..checks import check_choice, check_finite, check_kinds
from ..choices import ENGINES, Engine
from ..devices import parse_device
from ..extras import check_extra
from ..pieces.launched import is_launched

_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class RayOptions:
    """Where the actors of a batch run, and which resources each takes.

    Attributes:
        address: of the Ray cluster, as `ray.init` takes it; None: a cluster on this machine for this batch
            only.
        device: where they compute; None: on GPUs if the cluster has any, else on CPUs.
        num_gpus: the fraction of a GPU that each takes; None: one, if they compute on GPUs.
        num_cpus: cores per actor.
    """

    address: str | None = None
    device: str | None = None
    num_gpus: float | None = None
    num_cpus: int = 1


def ray_options(
    engine: Engine,
    address: str | None,
    num_gpus_per_clip: float | None,
    *,
    device: str | None,
    workers: int | None,
    num_processes: int | None,
    processes_per_clip: int,
) -> RayOptions | None:
    """How Ray is to run the batch; None if the processes of a launch divide it.

    Raises:
        ValueError: options contradict each other, or Ray is not installed.
        ConnectionError: nothing answers at the address, or at the one in RAY_ADDRESS.
    """
    check_choice("engine", engine, ENGINES)
    check_kinds(address=(address, str))
    if num_gpus_per_clip is not None:
        check_finite("num_gpus_per_clip", num_gpus_per_clip)
    if engine != "ray":
        for name, value in (("address", address), ("num_gpus_per_clip", num_gpus_per_clip)):
            if value is not None:
                raise ValueError(f"{name} applies only to engine ray, got {value!r} with engine {engine!r}")
        return None
    check_extra("ray", "ray")
    if is_launched():
        raise ValueError("engine ray starts its processes itself; run the batch without a launcher")
    if num_processes is not None:
        raise ValueError(
            "num_processes applies only to launchers; with engine ray, the cluster determines the number"
        )
    if processes_per_clip != 1:
        raise ValueError(
            f"processes_per_clip must be 1 with engine ray, got {processes_per_clip}; for several processes "
            "per clip use a launcher (docs/parallel.md)"
        )
    if device is not None and parse_device(device).index is not None:
        raise ValueError(
            f"Ray assigns each actor its device, got device {device}; use {parse_device(device).type}"
        )
    if num_gpus_per_clip is not None:
        if device is not None and parse_device(device).type == "cpu":
            raise ValueError(
                f"num_gpus_per_clip applies only to GPUs, got {num_gpus_per_clip} with device cpu"
            )
        if not 0 < num_gpus_per_clip <= 1:
            raise ValueError(
                "num_gpus_per_clip must be above 0 and at most 1, as a clip is made on one GPU, got "
                f"{num_gpus_per_clip}; use 1, or 0.5 for two clips at a time on each"
            )
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        check_answers(address)
    return RayOptions(address, device, num_gpus_per_clip, workers or 1)


def check_answers(address: str) -> None:
    """Refuse an address, HOST:PORT, at which nothing listens; Ray would keep trying for minutes.

    Raises:
        ConnectionError: nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # "auto" and "local" are Ray's words
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`, or leave the "
            "address out for a cluster on this machine"
        ) from error
