"""h264 in .mp4, as a pure function of frames, rate, comment and options.

It uses one encoder thread, bit-exact flags, no CPU-dependent choices in x264, and integers to convert RGB to
YCbCr. Encoding and writing the file are two steps, since the comment may be known only at the end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from .frames import Frames

# ITU-T H.273 code points: 1 = BT.709 (primaries, transfer, matrix), 0 = RGB; range 1 = limited, 2 = full.
_BT709, _RGB_MATRIX, _LIMITED, _FULL = 1, 0, 1, 2
# chromaloc 1: chroma lies in the middle of its 2x2 pixels, as a plain mean does.
_X264_PARAMS = "cpu-independent=1:chromaloc=1"
_CRF = "17"  # x264's constant rate factor for a lossy file, from 0 (best) to 51
_PACKET = struct.Struct("<qq?q")  # pts, dts, is_keyframe, bytes of data


@dataclass(frozen=True)
class Mp4Settings:
    """How a clip is encoded.

    Attributes:
        height, width: of the frames in the file; even, unless lossless.
        rate: frames per second.
        lossless: store the RGB values themselves.
    """

    height: int
    width: int
    rate: Fraction
    lossless: bool = False

    @classmethod
    def of(cls, frame: Frames, fps: float, *, scale: int = 1, lossless: bool = False) -> Mp4Settings:
        """Settings for frames like (height, width, 3), at a rate as people write it: 24000/1001 stays exact.

        Raises:
            ValueError: the file cannot have this size or factor.
        """
        height, width = (size * scale for size in frame.shape[:2])
        if not lossless and (height % 2 or width % 2):
            raise ValueError(
                f"height and width of an .mp4 must be even, got {height}x{width}; "
                f"use scale={2 * scale}, lossless=True or another ending"
            )
        return cls(height, width, Fraction(fps).limit_denominator(1001), lossless)

    @property
    def codec(self) -> str:
        """The encoder's name."""
        return "libx264rgb" if self.lossless else "libx264"

    def apply(self, context: VideoCodecContext) -> None:
        """Set up an encoder."""
        context.height, context.width = self.height, self.width
        context.pix_fmt = "rgb24" if self.lossless else "yuv420p"
        context.options = {"x264-params": _X264_PARAMS, "crf": "0" if self.lossless else _CRF}
        if not self.lossless:
            context.options |= {"profile": "high"}
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.bitexact | av.codec.context.Flags.global_header
        context.color_primaries = context.color_trc = _BT709
        context.colorspace = _RGB_MATRIX if self.lossless else _BT709
        context.color_range = _FULL if self.lossless else _LIMITED


class Mp4Encoder:
    """Turns frames into packets, in order."""

    def __init__(self, settings: Mp4Settings) -> None:
        self._settings = settings
        self._context = av.CodecContext.create(settings.codec, "w")
        settings.apply(self._context)
        self._context.framerate = settings.rate
        self._context.time_base = 1 / settings.rate
        self._num_encoded = 0

    def encode(self, image: Frames) -> list[av.Packet]:
        """The packets that are finished after the next frame, `image` (height, width, 3)."""
        if self._settings.lossless:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        else:
            frame = av.VideoFrame.from_ndarray(_rgb_to_yuv420(image), format="yuv420p")
        frame.pts = self._num_encoded
        frame.time_base = 1 / self._settings.rate
        self._num_encoded += 1
        return self._context.encode(frame)

    def finish(self) -> list[av.Packet]:
        """The remaining packets; the encoder takes no more frames."""
        return self._context.encode()


def encode_mp4(settings: Mp4Settings, images: Iterable[Frames]) -> Iterator[av.Packet]:
    """The packets of a clip whose frames (height, width, 3) arrive one by one."""
    encoder = Mp4Encoder(settings)
    for image in images:
        yield from encoder.encode(image)
    yield from encoder.finish()


def mux_mp4(
    path: str | os.PathLike[str], settings: Mp4Settings, packets: Iterable[av.Packet], tags: Mapping[str, str]
) -> None:
    """Write packets from an encoder with these settings as a file with these tags."""
    # Tags that the format does not know are left out without a word, unless they may be of any name.
    any_name = "" if tags.keys() <= {"comment"} else "+use_metadata_tags"
    options = {"movflags": f"+faststart{any_name}", "fflags": "+bitexact"}
    with av.open(os.fspath(path), "w", format="mp4", options=options) as container:
        container.metadata.update(tags)
        # An encoder that encodes nothing: it provides the header, the same as that of the packets' encoder.
        stream = container.add_stream(settings.codec, rate=settings.rate)
        settings.apply(stream.codec_context)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)


def store_packet(file: BinaryIO, packet: av.Packet) -> None:
    """Append a packet to a file, for `stored_packets`."""
    data = bytes(packet)
    file.write(_PACKET.pack(packet.pts, packet.dts, packet.is_keyframe, len(data)))
    file.write(data)


def stored_packets(file: BinaryIO, settings: Mp4Settings) -> Iterator[av.Packet]:
    """The packets stored in a file, one after another."""
    file.seek(0)
    while head := file.read(_PACKET.size):
        pts, dts, is_keyframe, size = _PACKET.unpack(head)
        packet = av.Packet(file.read(size))
        packet.pts, packet.dts, packet.duration = pts, dts, 1
        packet.time_base = 1 / settings.rate
        packet.is_keyframe = is_keyframe
        yield packet


def _bt709_limited() -> NDArray[np.int64]:
    """RGB 0..255 to Y 16..235 and Cb, Cr 16..240: a 3x3 matrix in units of 2**-16 (ITU-R BT.709, 3).

    Rows are rounded so that white is exactly 235 and greys have no colour.
    """
    red, blue = 0.2126, 0.0722
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    scale = np.array([[219], [224], [224]]) * 65536 / 255
    matrix = (np.stack([luma, cb, cr]) * scale).round().astype(np.int64)
    matrix[:, 1] += np.array([round(219 * 65536 / 255), 0, 0]) - matrix.sum(axis=1)
    return matrix


_RGB_TO_YCBCR = _bt709_limited()


def _rgb_to_yuv420(rgb: Frames) -> Frames:
    """(H, W, 3) to the planes Y (H, W), Cb and Cr (H/2, W/2), one after the other, as (3 H / 2, W).

    Chroma is the mean of 2x2 pixels. Integers only, so every CPU gives the same planes.
    """
    height, width, _ = rgb.shape
    rgb64 = rgb.astype(np.int64)
    luma = (rgb64 @ _RGB_TO_YCBCR[0] + (16 << 16) + (1 << 15)) >> 16
    sums = rgb64.reshape(height // 2, 2, width // 2, 2, 3).sum(axis=(1, 3))
    chroma = (sums @ _RGB_TO_YCBCR[1:].T + (128 << 18) + (1 << 17)) >> 18
    planes = [luma.ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()]
    return np.concatenate(planes).astype(np.uint8).reshape(height * 3 // 2, width)
