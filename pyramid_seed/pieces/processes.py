"""Several processes that make one clip together: who makes which pieces, and how data is passed on.

Data is moved, never added up: the order in which a reduction sums is up to its backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from .board import Parts, Route, Shapes


class ProcessLostError(ConnectionError):
    """Another process that makes the same clip has died."""


@dataclass(frozen=True)
class Processes:
    """The processes of one clip, and this process's index among them.

    Attributes:
        ranks: ranks in their launch, for messages; the first process has the clip in the end.
        index: this process's index among them.
        device: where data is passed on: the CPU, or an accelerator with its own backend.
        group: torch.distributed's group, in which a process has its index; None: the default one.
    """

    ranks: tuple[int, ...]
    index: int
    device: torch.device
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process decodes the clip."""
        return self.index == 0

    @property
    def others(self) -> list[int]:
        """The indices of all other processes."""
        return [index for index in range(len(self.ranks)) if index != self.index]

    def own_pieces(self, num_pieces: int) -> range:
        """The pieces of a step that this process makes: none if there are fewer pieces than processes."""
        count = len(self.ranks)
        start, stop = (-(-index * num_pieces // count) for index in (self.index, self.index + 1))
        return range(start, stop)

    def maker_of(self, piece: int, num_pieces: int) -> int:
        """The index of the process that makes a piece."""
        return piece * len(self.ranks) // num_pieces

    def post(self, first: int, num_pieces: int) -> ProcessPost:
        """The connection between the pieces of a sequence whose first one is piece `first` of the step."""
        return ProcessPost(self, first, num_pieces)

    def gather(
        self, own: Mapping[int, torch.Tensor], shapes: Sequence[tuple[int, ...]], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """The results of all pieces of a step, by piece number, on every process.

        Args:
            own: the results of this process.
            shapes: those of every piece.
            like: gives their dtype and device.
        """
        makers = [self.maker_of(piece, len(shapes)) for piece in range(len(shapes))]
        received = self.swap(
            {other: [own[piece] for piece in sorted(own)] for other in self.others},
            {
                other: [shapes[piece] for piece, maker in enumerate(makers) if maker == other]
                for other in self.others
            },
            like.dtype,
        )
        gathered = dict(own)
        for other, tensors in received.items():
            pieces = (piece for piece, maker in enumerate(makers) if maker == other)
            gathered |= {piece: tensor.to(like.device) for piece, tensor in zip(pieces, tensors, strict=True)}
        return gathered

    def swap(
        self,
        sends: Mapping[int, Sequence[torch.Tensor]],
        expected: Mapping[int, Sequence[tuple[int, ...]]],
        dtype: torch.dtype,
        tag: int = 0,
    ) -> dict[int, list[torch.Tensor]]:
        """Send tensors to each process, and receive tensors of the expected shapes from each."""
        operations, buffers = [], {}
        for other, tensors in sends.items():
            if tensors:
                flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(self.device)
                operations.append(self._operation(dist.isend, flat, other, tag))
        for other, shapes in expected.items():
            sizes = [torch.Size(shape).numel() for shape in shapes]
            buffers[other] = torch.empty(sum(sizes), dtype=dtype, device=self.device), sizes
            if sum(sizes):
                operations.append(self._operation(dist.irecv, buffers[other][0], other, tag))
        with self._lost_told():
            for work in dist.batch_isend_irecv(operations) if operations else ():
                work.wait()
        return {
            other: [
                part.view(shape) for part, shape in zip(buffer.split(sizes), expected[other], strict=True)
            ]
            for other, (buffer, sizes) in buffers.items()
        }

    def check_same(self, what: str, value: object) -> None:
        """Compare the digests of a value that must be the same on all processes.

        Raises:
            RuntimeError: on all of them, if it differs on any; the message names that one's rank.
        """
        digests = self._bytes_of_all(hashlib.sha256(repr(value).encode()).digest())
        for index in range(1, len(self.ranks)):
            if digests[index] != digests[0]:
                raise RuntimeError(
                    f"the processes of one clip must have the same {what}: rank {self.ranks[index]} has "
                    f"another one than rank {self.ranks[0]}; call them with the same arguments, on machines "
                    "of the same kind"
                )

    def any_of(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return any(value != b"\0" for value in self._bytes_of_all(bytes([flag])))

    def _bytes_of_all(self, own: bytes) -> list[bytes]:
        """The bytes of each process, equally many, by its index."""
        tensor = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        received = self.swap(
            {other: [tensor] for other in self.others},
            {other: [(len(own),)] for other in self.others},
            torch.uint8,
        )
        values = {other: bytes(tensors[0].tolist()) for other, tensors in received.items()} | {
            self.index: own
        }
        return [values[index] for index in range(len(self.ranks))]

    def from_first(self, value: int) -> int:
        """The first process's number in [0, 2**64)."""
        words = torch.tensor([value >> 32, value % 2**32], dtype=torch.int64)
        high, low = self.tensor_of_first(words, words.shape, words.dtype).tolist()
        return high << 32 | low

    def text_of_first(self, text: str) -> str:
        """The first process's text."""
        own = torch.tensor([*text.encode()], dtype=torch.uint8)
        shape = torch.Size([self.from_first(len(own))])
        return bytes(self.tensor_of_first(own, shape, own.dtype).tolist()).decode()

    def tensor_of_first(
        self, tensor: torch.Tensor | None, shape: torch.Size, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """The first process's tensor, of this shape and dtype, on the CPU."""
        if self.is_first:
            assert tensor is not None  # the first process has it
            values = tensor.to(self.device, dtype).contiguous()
        else:
            values = torch.empty(shape, dtype=dtype, device=self.device)
        if shape.numel():
            with self._lost_told():
                dist.broadcast(values, 0, group=self.group)
        return values.cpu()

    @contextmanager
    def _lost_told(self) -> Iterator[None]:
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            raise ProcessLostError(
                f"rank {self.ranks[self.index]} has lost another process of its clip, which has failed or "
                f"was stopped: {error}"
            ) from error

    def _operation(self, kind: Any, flat: torch.Tensor, other: int, tag: int) -> dist.P2POp:
        flat = flat.view(torch.uint8)  # backends do not support every dtype
        return dist.P2POp(kind, flat, other, group=self.group, tag=tag)


@dataclass(frozen=True)
class ProcessPost:
    """The `board.Post` of one sequence of a step."""

    processes: Processes
    first: int
    num_pieces: int

    def exchange(
        self, sends: Mapping[Route, Parts], expected: Mapping[Route, Shapes], like: torch.Tensor
    ) -> dict[Route, Parts]:
        """See `board.Post`; both sides sort the routes in the same way."""
        outgoing: dict[int, list[torch.Tensor]] = {}
        for (_, to), parts in sorted(sends.items(), key=lambda item: item[0]):
            outgoing.setdefault(self._maker_of(to), []).extend(parts)
        incoming: dict[int, list[tuple[int, ...]]] = {}
        routes: dict[int, list[Route]] = {}
        for route, shapes in sorted(expected.items()):
            maker = self._maker_of(route[0])
            incoming.setdefault(maker, []).extend(shapes)
            routes.setdefault(maker, []).append(route)
        received = self.processes.swap(outgoing, incoming, like.dtype, tag=1 + self.first)
        parts_of: dict[Route, Parts] = {}
        for maker, tensors in received.items():
            waiting = iter(tensors)
            for route in routes[maker]:
                parts_of[route] = tuple(next(waiting).to(like.device) for _ in expected[route])
        return parts_of

    def _maker_of(self, piece: int) -> int:
        return self.processes.maker_of(self.first + piece, self.num_pieces)


def has_frames(processes: Processes | None) -> bool:
    """Whether this process decodes the clip: it is the only one, or the first of those that make it."""
    return processes is None or processes.is_first


@contextmanager
def processes_left_on_error(processes: Processes | None) -> Iterator[None]:
    """Leave the processes of a clip if something fails in this one, so that none of them waits for it."""
    try:
        yield
    except BaseException:
        if processes is not None and dist.is_initialized():
            dist.destroy_process_group(processes.group)
        raise
