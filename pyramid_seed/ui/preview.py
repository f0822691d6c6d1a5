"""Small images of a clip while it is made."""

from __future__ import annotations

import io

from PIL import Image

from ..media.frames import Frames
from ..pages import data_url

MAX_SIDE = 256


def image_url(frame: Frames) -> str:
    """A frame (H, W, 3) uint8 as a data URL, at most `MAX_SIDE` pixels wide and high."""
    image = Image.fromarray(frame)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=90)
    return data_url("image/webp", data.getvalue())
