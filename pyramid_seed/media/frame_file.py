"""Frames that are encoded as they come and never kept in memory."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import BinaryIO, Self

from ..files import real_path, replacing
from .frames import Frames, check_frames, enlarge
from .mp4 import Mp4Encoder, Mp4Settings, mux_mp4, store_packet, stored_packets
from .video import check_comment, check_fps, check_scale


class FrameFile:
    """Where `generate(..., sink=file)` puts a clip's frames: encoded, in a file without a name.

    A context manager. The clip can be saved only inside the block; its frames are deleted when it ends, even
    if the process is killed.

    Args:
        path: where the clip will be written, an .mp4: the encoded frames wait on the same disk.
        lossless: see `video.write_video`.

    Raises:
        ValueError: the path has another ending.
    """

    def __init__(self, path: str | os.PathLike[str], *, lossless: bool = False) -> None:
        path = real_path(path)
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"frames can be encoded as they come for .mp4 only, got {path.name!r}")
        self.path = path
        self.lossless = lossless
        self.num_frames = 0
        self.scale = 1
        """Pixels of the file per pixel of the clip, in height and in width."""
        self._fps = 0.0
        self._settings: Mp4Settings | None = None
        self._encoder: Mp4Encoder | None = None
        self._spool: BinaryIO | None = None

    def __enter__(self) -> Self:
        folder = next(folder for folder in self.path.parents if folder.is_dir())
        self._spool = tempfile.TemporaryFile(dir=folder)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # on a full disk, `write` has raised already
            self._open_spool().close()
        self._spool = self._encoder = None

    def start(self, fps: float, scale: int) -> None:
        """Set what is known before the first frame: the rate, and the size at which a pixel is shown.

        Raises:
            ValueError: a value is wrong, the file is not open, or it holds frames of another clip.
        """
        check_fps(fps, ".mp4")
        check_scale(scale)
        self._open_spool()
        if self._settings is not None:
            raise ValueError(f"{self.path.name} has the frames of another clip; use another FrameFile")
        self._fps = fps
        self.scale = scale

    def write(self, frames: Frames) -> None:
        """Encode the next frames, (t, H, W, 3) uint8."""
        check_frames(frames)
        spool = self._open_spool()
        if self._encoder is None:
            self._settings = Mp4Settings.of(frames[0], self._fps, scale=self.scale, lossless=self.lossless)
            self._encoder = Mp4Encoder(self._settings)
        for frame in frames:
            for packet in self._encoder.encode(enlarge(frame, self.scale)):
                store_packet(spool, packet)
        spool.flush()
        self.num_frames += len(frames)

    def check(self, ending: str, scale: int | None, lossless: bool) -> None:
        """Refuse to save otherwise than the frames are encoded; None allows any scale.

        Raises:
            ValueError: see above, or the file is not open.
        """
        self._open_spool()
        if (ending, scale or self.scale, lossless) != (".mp4", self.scale, self.lossless):
            raise ValueError(
                f"the frames were already encoded, as .mp4 with scale={self.scale}, "
                f"lossless={self.lossless}; "
                f"got {ending or 'a folder'} with scale={scale or self.scale}, lossless={lossless}"
            )

    def save(self, path: str | os.PathLike[str], *, comment: str | None, overwrite: bool = False) -> None:
        """Write the .mp4 of all frames: bytes and errors as for `video.write_video`; no more may come.

        Raises:
            ValueError: the file is not open, or has no frames.
        """
        spool = self._open_spool()
        if self._settings is None:
            raise ValueError(f"no frames have come for {self.path.name}")
        if comment is not None:
            check_comment(comment, ".mp4")
        if self._encoder is not None:
            for packet in self._encoder.finish():
                store_packet(spool, packet)
            self._encoder = None
        with replacing(path, overwrite=overwrite) as temporary:
            mux_mp4(temporary, self._settings, stored_packets(spool, self._settings), comment)

    def _open_spool(self) -> BinaryIO:
        if self._spool is None:
            raise ValueError(
                f"the frames for {self.path.name} are not there: save the clip inside `with FrameFile(...)`"
            )
        return self._spool
