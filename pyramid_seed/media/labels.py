"""Labels that say that a clip was generated: a tag for programs, and a text drawn over the first frames."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files import check_readable
from .frames import Frames

AIGC_TAG = "AIGC"
"""The tag of an .mp4 that holds the implicit label of GB 45438-2025."""
_AIGC_FIELDS: tuple[str, ...] = ("Label", "ContentProducer", "ProduceID", "ReservedCode1")
_AIGC_FIELDS += ("ContentPropagator", "PropagateID", "ReservedCode2")
_GENERATED = "1"  # 2 is "may be generated", 3 "suspected"
_MAX_FIELD = 1000  # characters

_SECONDS = 3  # for which the text is shown
_SHARE = 0.06  # height of a capital letter, of the shorter side: 5 % after all rounding
_MOST_OF_HEIGHT = 2  # a label takes at most half of the picture: what it covers proves nothing of the clip
_MIN_SIZE = 12  # pixels; smaller letters cannot be read
_ABSENT = "\uffff"  # no font has a glyph for it


def aigc_fields(given: Mapping[str, str]) -> dict[str, str]:
    """All fields of the implicit label of GB 45438-2025, in its order; those that are not given are empty.

    Args:
        given: values by field. `Label` is "1" (generated) and need not be given.

    Raises:
        TypeError: a value is not a str.
        ValueError: an unknown field; no producer or no ID; another `Label`; or a value that is too long.
    """
    for name, value in given.items():
        if name not in _AIGC_FIELDS:
            raise ValueError(
                f"a field of the AIGC label must be one of {', '.join(_AIGC_FIELDS)}, got {name!r:.80}"
            )
        if not isinstance(value, str):
            raise TypeError(f"{name} of the AIGC label must be a str, got {type(value).__name__}")
        if len(value) > _MAX_FIELD or not value.isprintable():
            raise ValueError(
                f"{name} of an AIGC label must be at most {_MAX_FIELD:,} printable characters, "
                f"got {value!r:.80}"
            )
    for name in ("ContentProducer", "ProduceID"):
        if not given.get(name):
            raise ValueError(f"an AIGC label needs {name}; say {name}=...")
    if given.get("Label", _GENERATED) != _GENERATED:
        raise ValueError(f"Label must be {_GENERATED}: the clip is generated, got {given['Label']!r:.80}")
    return {"Label": _GENERATED} | {name: given.get(name, "") for name in _AIGC_FIELDS[1:]}


def aigc_text(fields: Mapping[str, str]) -> str:
    """The content of the tag: JSON on one line, fields in the standard's order, text not escaped."""
    ordered = {name: fields.get(name, "") for name in _AIGC_FIELDS}
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class VisibleLabel:
    """A text to draw over the first three seconds of an .mp4, in its upper left corner.

    Black on white, a capital letter at least 5 % as high as the shorter side of the picture.

    Attributes:
        text: one line.
        font: a TrueType or OpenType font that has all characters; default: Pillow's own, which has ASCII.

    Raises:
        ValueError: the text is empty, has no visible characters, or the font lacks some of them.
        OSError: the font cannot be read.
    """

    text: str
    font: str | Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"a label must be a str, got {type(self.text).__name__}")
        if not self.text.strip() or not self.text.isprintable():
            raise ValueError(f"a label must be one line of visible characters, got {self.text!r:.80}")
        font = self._font(20)
        absent = bytes(font.getmask(_ABSENT))
        lacking = sorted({char for char in self.text if bytes(font.getmask(char)) == absent} - {" "})
        if lacking:
            advice = "name one that has it, as --label-font FILE (font=)"
            whose = "Pillow's font" if self.font is None else f"the font {self.font}"
            raise ValueError(f"{whose} has no {lacking[0]!r} for the label {self.text!r:.80}; {advice}")

    def draw(self, height: int, width: int, fps: float) -> DrawnLabel:
        """The label for pictures of height x width pixels.

        Raises:
            ValueError: it is too large for them.
        """
        _, top, _, bottom = self._font(100).getbbox("A")
        size = max(_MIN_SIZE, math.ceil(100 * _SHARE * min(height, width) / (bottom - top)))
        font = self._font(size)
        left, top, right, bottom = (round(side) for side in font.getbbox(self.text))
        margin = size // 2
        image = Image.new("1", (right - left + 2 * margin, bottom - top + 2 * margin))
        ImageDraw.Draw(image).text((margin - left, margin - top), self.text, fill=1, font=font)
        room = height // _MOST_OF_HEIGHT
        if image.width > width or image.height > room:
            fitting = len(self.text) * width // image.width
            raise ValueError(
                f"the label {self.text!r:.80} takes {image.height}x{image.width} pixels, there is room for "
                f"{room}x{width}; use about {fitting} characters, or a larger scale"
            )
        return DrawnLabel(self.text, math.ceil(_SECONDS * fps), np.asarray(image))

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        if self.font is None:
            return ImageFont.load_default(size)  # type: ignore[return-value]  # with a size: a FreeType font
        check_readable(Path(self.font))
        try:
            return ImageFont.truetype(Path(self.font), size)
        except OSError as error:
            raise ValueError(f"{self.font} is not a font: {error}") from error


class LabelRow(msgspec.Struct):
    """A drawn label in a manifest; `ink` is base64 of one bit per pixel, row by row, filled up with 0."""

    text: str
    num_frames: Annotated[int, msgspec.Meta(ge=1)]
    height: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    width: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    ink: str


@dataclass(frozen=True)
class DrawnLabel:
    """A label as pixels, so that no font is needed to draw the same pixels again.

    Attributes:
        text: what it says.
        num_frames: it covers the first frames, this many.
        ink: (height, width), true where it is black.
    """

    text: str
    num_frames: int
    ink: NDArray[np.bool_]

    def on(self, image: Frames, index: int) -> Frames:
        """Frame `index` of the clip, (H, W, 3), with the label if it is one of the first."""
        if index >= self.num_frames:
            return image
        height, width = self.ink.shape
        labelled = image.copy()
        labelled[:height, :width] = np.where(self.ink, np.uint8(0), np.uint8(255))[..., None]
        return labelled

    def to_row(self) -> dict[str, Any]:
        """The label for a manifest."""
        height, width = self.ink.shape
        ink = base64.b64encode(np.packbits(self.ink).tobytes()).decode("ascii")
        return {
            "text": self.text, "num_frames": self.num_frames, "height": height, "width": width, "ink": ink
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, Any], height: int, width: int) -> DrawnLabel:
        """The label that a manifest describes, for pictures of height x width pixels.

        Raises:
            ValueError: it is wider than they are or higher than half of them, or its ink has another size.
        """
        size = row["height"] * row["width"]
        try:
            ink = np.frombuffer(base64.b64decode(row["ink"], validate=True), np.uint8)
        except ValueError as error:
            raise ValueError(
                f"the ink of the visible label must be base64, got {row['ink']!r:.60}"
            ) from error
        room = height // _MOST_OF_HEIGHT
        if row["height"] > room or row["width"] > width or len(ink) != -(-size // 8):
            raise ValueError(
                f"the visible label must fit into {room}x{width} pixels and have one bit for each of its "
                f"own, got {row['height']}x{row['width']} with {len(ink)} bytes"
            )
        bits = np.unpackbits(ink, count=size).astype(np.bool_)
        return cls(row["text"], row["num_frames"], bits.reshape(row["height"], row["width"]))
