"""Size and digests of a clip's frames, computed as they pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from ..texts import counted
from .frames import Frames, frames_digest


@dataclass(frozen=True)
class FrameFacts:
    """What a manifest records about a clip's frames, wherever they are.

    Attributes:
        num_frames, height, width: their size.
        digest: SHA-256 of all frames, see `frames.frames_digest`.
        chunk_digests: the same for each decoded chunk: frame 0 alone, then the frames of one latent frame.
    """

    num_frames: int
    height: int
    width: int
    digest: str
    chunk_digests: tuple[str, ...]

    @property
    def size(self) -> str:
        """Number and size of the frames, as text."""
        return f"{counted(self.num_frames, 'frame')} of {self.height}x{self.width}"

    def to_json(self) -> str:
        """The facts as text, for other processes."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> FrameFacts:
        """The facts that `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)


class FrameCounter:
    """Counts and digests the chunks of one clip as they pass."""

    def __init__(self) -> None:
        self._all = hashlib.sha256()
        self._num_frames = 0
        self._size = (0, 0)
        self._chunks: list[str] = []

    def add(self, frames: Frames) -> None:
        """Take the next chunk, (t, H, W, 3) uint8."""
        self._chunks.append(frames_digest(frames))
        self._all.update(frames.data if frames.flags.c_contiguous else frames.tobytes())
        self._num_frames += len(frames)
        self._size = frames.shape[1:3]

    def facts(self) -> FrameFacts:
        """The facts about the frames so far."""
        return FrameFacts(self._num_frames, *self._size, self._all.hexdigest(), tuple(self._chunks))
