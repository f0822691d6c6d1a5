"""Previews of units are small, and look like the frame."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from pyramid_seed.ui.work import image_url


def test_images_are_small_and_keep_their_shape():
    for size, small in {(64, 64): (64, 64), (384, 640): (154, 256), (1024, 512): (256, 128)}.items():
        frame = np.zeros((*size, 3), np.uint8)
        frame[:, : size[1] // 2] = (200, 30, 30)
        kind, data = image_url(frame).split(",")
        assert kind == "data:image/webp;base64"
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)
        assert image.shape[:2] == small
        assert abs(image[:, : small[1] // 2 - 8].mean((0, 1)) - (200, 30, 30)).max() < 4
        assert image[:, small[1] // 2 + 8 :].max() < 8
