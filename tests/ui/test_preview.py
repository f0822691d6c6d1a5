"""Pictures of units are small, and look like the frame."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pyramid_seed.ui.preview import picture_url


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (64, 64)), ((384, 640), (154, 256)), ((1024, 512), (256, 128))]
)
def test_pictures_are_small_and_keep_their_shape(size, shown):
    frame = np.zeros((*size, 3), np.uint8)
    frame[:, : size[1] // 2] = (200, 30, 30)
    kind, data = picture_url(frame).split(",")
    assert kind == "data:image/webp;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)
    assert picture.shape[:2] == shown
    assert abs(picture[:, : shown[1] // 2 - 8].mean((0, 1)) - (200, 30, 30)).max() < 4
    assert picture[:, shown[1] // 2 + 8 :].max() < 8
