"""Pictures that people give: what a viewer shows, as RGB, or a refusal."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import ExifTags, Image

from pyramid_seed.media.images import open_picture, picture_digest
from tests.cases import check_cases

UPRIGHT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))


def test_ordinary_pictures_have_the_digests_they_always_had(tmp_path):
    expected = "f00a6f72"
    UPRIGHT.save(tmp_path / "a.png")
    UPRIGHT.convert("RGBA").save(tmp_path / "b.png")
    UPRIGHT.save(tmp_path / "c.webp", lossless=True)
    for path in tmp_path.iterdir():
        assert picture_digest(open_picture(path))[:8] == expected
    for mode in ("1", "L", "P", "CMYK"):
        image = UPRIGHT.convert(mode)
        image.save(tmp_path / "d.tiff")
        assert picture_digest(open_picture(tmp_path / "d.tiff")) == picture_digest(image.convert("RGB"))


TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What undoes the EXIF orientation."""


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    """Most cameras store a portrait lying."""

    def rule(ending, orientation):
        lying = UPRIGHT.transpose(TURNS[orientation])
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"lossless": True} if ending == "webp" else {}
        lying.save(tmp_path / f"a.{ending}", exif=exif, **options)
        found = open_picture(tmp_path / f"a.{ending}")
        assert found.size == UPRIGHT.size
        assert picture_digest(found) == picture_digest(UPRIGHT)

    check_cases(product(["png", "webp", "tiff"], TURNS), rule)


def grey16():
    return Image.fromarray(np.full((4, 4), 30000, np.uint16))


def see_through():
    image = UPRIGHT.convert("RGBA")
    image.putpixel((1, 1), (255, 0, 0, 0))
    return image


def palette():
    image = UPRIGHT.convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def test_what_rgb_would_show_in_another_way_is_refused(tmp_path):
    cases = [
        (grey16, "png", "a.png has pixels of more than 8 bits .*; save it as 8-bit RGB first"),
        (lambda: grey16().convert("F"), "tiff", "a.tiff has pixels of more than 8 bits .*mode F"),
        (
            see_through,
            "png",
            "a.png has transparent pixels .*lowest alpha is 0.*; put it on a background first",
        ),
        (see_through, "webp", "a.webp has transparent pixels"),
        (palette, "png", "a.png has transparent pixels"),
    ]

    def rule(image, ending, message):
        options = {"lossless": True} if ending == "webp" else {}
        image().save(tmp_path / f"a.{ending}", **options)
        with pytest.raises(ValueError, match=message):
            open_picture(tmp_path / f"a.{ending}")

    check_cases(cases, rule)


def test_a_damaged_exif_is_no_traceback(tmp_path):
    def rule(exif):
        UPRIGHT.save(tmp_path / "a.webp", lossless=True, exif=exif)
        try:
            found = open_picture(tmp_path / "a.webp")
        except ValueError as error:
            assert "cannot be read as a picture" in str(error)  # noqa: PT017 - either will do
        else:
            assert picture_digest(found) == picture_digest(UPRIGHT)

    check_cases([b"x", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x05", b"Exif\0\0" + b"\xff" * 40], rule)
