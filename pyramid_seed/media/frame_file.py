"""Frames that are encoded as they come and never kept in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO, Self

from ..files import real_path, replacing
from .frames import Frames, check_frames, enlarge
from .labels import DrawnLabel, VisibleLabel
from .mp4 import Mp4Encoder, Mp4Settings, mux_mp4, store_packet, stored_packets
from .video import check_comment, check_fps, check_scale, check_smooth, labelled, mp4_tags


class FrameFile:
    """Where `generate(..., sink=file)` puts a clip's frames: encoded, in a file without a name.

    A context manager. The clip can be saved only inside the block; its frames are deleted when it ends, even
    if the process is killed.

    Args:
        path: where the clip will be written, an .mp4: the encoded frames wait on the same disk.
        smooth, lossless: see `video.write_video`.
        visible_label: a text to draw over the first frames.

    Raises:
        ValueError: the path has another ending, or the file cannot be both smooth and lossless.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        smooth: bool = False,
        lossless: bool = False,
        visible_label: VisibleLabel | None = None,
    ) -> None:
        path = real_path(path)
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"frames can be encoded as they come for .mp4 only, got {path.name!r}")
        check_smooth(smooth, ".mp4", lossless=lossless)
        self.path = path
        self.smooth = smooth
        self.lossless = lossless
        self.visible_label = visible_label
        self.drawn_label: DrawnLabel | None = None
        """What covers the first frames; known once the file is started."""
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

    def start(self, fps: float, scale: int, size: tuple[int, int] | None = None) -> None:
        """Set what is known before the first frame: the rate, and the size at which a pixel is shown.

        Args:
            fps: frames per second.
            scale: see `video.write_video`.
            size: height and width of the frames; a visible label needs it.

        Raises:
            ValueError: a value is wrong, the file is not open, it holds frames of another clip, or the label
                does not fit.
        """
        check_fps(fps, ".mp4")
        check_scale(scale)
        self._open_spool()
        if self._settings is not None:
            raise ValueError(f"{self.path.name} has the frames of another clip; use another FrameFile")
        self._fps = fps
        self.scale = scale
        if self.visible_label is not None:
            if size is None:
                raise ValueError("a visible label needs the size of the frames; give (height, width)")
            self.drawn_label = self.visible_label.draw(size[0] * scale, size[1] * scale, fps)

    def write(self, frames: Frames) -> None:
        """Encode the next frames, (t, H, W, 3) uint8."""
        check_frames(frames)
        spool = self._open_spool()
        if self._encoder is None:
            self._settings = Mp4Settings.of(frames[0], self._fps, scale=self.scale, lossless=self.lossless)
            self._encoder = Mp4Encoder(self._settings)
        for index, frame in enumerate(frames, self.num_frames):
            image = labelled(enlarge(frame, self.scale, smooth=self.smooth), index, self.drawn_label)
            for packet in self._encoder.encode(image):
                store_packet(spool, packet)
        spool.flush()
        self.num_frames += len(frames)

    def check(
        self, ending: str, scale: int | None, lossless: bool, visible_label: VisibleLabel | None = None
    ) -> None:
        """Refuse to save otherwise than the frames are encoded; None allows any scale or label.

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
        if visible_label not in (None, self.visible_label):
            raise ValueError(
                f"the frames were already encoded, with {self.visible_label or 'no visible label'}, got "
                f"{visible_label}; FrameFile takes the label"
            )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        comment: str | None,
        aigc: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
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
            packets = stored_packets(spool, self._settings)
            mux_mp4(temporary, self._settings, packets, mp4_tags(comment, aigc))

    def _open_spool(self) -> BinaryIO:
        if self._spool is None:
            raise ValueError(
                f"the frames for {self.path.name} are not there: save the clip inside `with FrameFile(...)`"
            )
        return self._spool
