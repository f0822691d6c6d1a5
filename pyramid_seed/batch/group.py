"""Processes of a batch that make each clip together: one takes the jobs, the others follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed

from ..checks import check_int
from ..pieces.processes import Processes, ProcessLostError
from .errors import Stopped
from .launch import Launch, LaunchError
from .maker import Order

_LONGEST_WAIT = timedelta(minutes=30)


@dataclass
class Group:
    """Neighbouring processes of a launch that work together.

    If a clip fails they part, so that none waits for another, and meet again for the next clip.

    Attributes:
        launch: this process among all.
        size: how many processes make a clip together.
        device: where this process computes.
        is_stopped: whether the batch was asked to stop.
    """

    launch: Launch
    size: int
    device: torch.device
    is_stopped: Callable[[], bool] = lambda: False
    _processes: Processes | None = None
    _meetings: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process takes the jobs and gets the clips."""
        return self.launch.rank % self.size == 0

    def processes(self) -> Processes:
        """All processes of the group, once all have arrived.

        Raises:
            Stopped: the batch was asked to stop, or the leading process has stopped.
            LaunchError: a process cannot be reached.
        """
        if self._processes is None:
            number, index = divmod(self.launch.rank, self.size)
            meeting = f"clips/{number}/{self._meetings}"
            self._meetings += 1
            self.launch.count(f"{meeting}/here")
            if not self.launch.wait_for(f"{meeting}/here", self.size, self._is_over):
                raise Stopped
            store = torch.distributed.PrefixStore(meeting, self.launch.store)  # type: ignore[attr-defined]
            if self.device.type != "cpu":
                torch.accelerator.set_device_index(self.device)
            try:
                torch.distributed.init_process_group(
                    store=store, rank=index, world_size=self.size, timeout=_LONGEST_WAIT
                )
            except (torch.distributed.DistError, RuntimeError) as error:
                raise LaunchError(
                    f"process {self.launch.rank} lost contact with its group: {error}"
                ) from error
            first = number * self.size
            self._processes = Processes(tuple(range(first, first + self.size)), index, self.device)
        return self._processes

    @classmethod
    def of_launch(cls, launch: Launch, size: int, device: torch.device) -> Group | None:
        """The group of this process; None if each process makes its own clips.

        Raises:
            ValueError, TypeError: the size does not divide the number of processes; good sizes are named.
        """
        check_int("processes_per_clip", size, minimum=1)
        if launch.world_size % size:
            good = [count for count in range(1, launch.world_size + 1) if launch.world_size % count == 0]
            raise ValueError(
                f"processes_per_clip must divide the {launch.world_size} processes of the launch, got "
                f"{size}; use {' or '.join(map(str, good))}"
            )
        return None if size == 1 else cls(launch, size, device)

    @contextmanager
    def making(self) -> Iterator[Processes]:
        """The group's processes while a clip is made; on an error this one leaves."""
        processes = self.processes()
        try:
            yield processes
        except BaseException:
            self.part()
            raise

    def part(self) -> None:
        """Leave the group; the others notice."""
        self._processes = None
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def tell(self, order: Order | None) -> None:
        """Announce the next order, or None for the end; called by the leading process.

        Raises:
            Stopped, LaunchError: see `processes`.
        """
        if order is None and self._processes is None:
            self.launch.count(self._over)
            return
        try:
            processes = self.processes()
            processes.text_of_first("" if order is None else order.to_json())
            if order is not None and order.known is not None:
                processes.tensor_of_first(order.known.latents, order.known.latents.shape)
        except ProcessLostError as error:
            raise LaunchError(str(error)) from error

    def orders(self) -> Iterator[Order]:
        """The orders of the leading process, until it announces the end.

        Raises:
            LaunchError: the leading process is gone.
        """
        while True:
            try:
                text = self.processes().text_of_first("")
                if not text:
                    return
                order = Order.from_json(text, self.processes().tensor_of_first)
            except Stopped:
                return
            except ProcessLostError as error:
                raise LaunchError(str(error)) from error
            yield order

    def _is_over(self) -> bool:
        return self.is_stopped() or self.launch.count(self._over, 0) > 0

    @property
    def _over(self) -> str:
        """The counter that announces the end to processes that have left."""
        return f"clips/{self.launch.rank // self.size}/over"
