"""Images given as files: what a viewer shows, as RGB, or a refusal."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from pyramid_seed.media.images import (
    open_image,
    pixels_digest,
    read_animation,
    read_image,
    read_image_folder,
    to_rgb8,
)
from pyramid_seed.media.video import write_video
from tests.cases import check_cases

UPRIGHT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))


def test_ordinary_images_have_the_digests_they_always_had(tmp_path):
    expected = "f00a6f72"
    UPRIGHT.save(tmp_path / "a.png")
    UPRIGHT.convert("RGBA").save(tmp_path / "b.png")
    UPRIGHT.save(tmp_path / "c.webp", lossless=True)
    for path in tmp_path.iterdir():
        assert pixels_digest(open_image(path))[:8] == expected
    for mode in ("1", "L", "P", "CMYK"):
        image = UPRIGHT.convert(mode)
        image.save(tmp_path / "d.tiff")
        assert pixels_digest(open_image(tmp_path / "d.tiff")) == pixels_digest(image.convert("RGB"))


TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What undoes the EXIF orientation."""


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    """Most cameras store a portrait lying."""

    def rule(ending, orientation):
        lying = UPRIGHT.transpose(TURNS[orientation])
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"lossless": True} if ending == "webp" else {}
        lying.save(tmp_path / f"a.{ending}", exif=exif, **options)
        image = open_image(tmp_path / f"a.{ending}")
        assert image.size == UPRIGHT.size
        assert pixels_digest(image) == pixels_digest(UPRIGHT)

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
            open_image(tmp_path / f"a.{ending}")

    check_cases(cases, rule)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_is_no_traceback(tmp_path):
    path = tmp_path / "a.webp"
    header = b"Exif\0\0"
    for exif in (b"x", header, header + b"MM\0*\0\0\0\x08\0\x05", header + b"\xff" * 40):
        UPRIGHT.save(path, lossless=True, exif=exif)
        try:
            image = open_image(path)
        except ValueError as error:
            assert "cannot be read as an image" in str(error)  # noqa: PT017 - either will do
        else:
            assert pixels_digest(image) == pixels_digest(UPRIGHT)


def test_what_is_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png does not exist"):
        open_image(tmp_path / "a.png")
    for data in (b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR broken"):
        (tmp_path / "a.png").write_bytes(data)
        for read in (open_image, lambda path: read_animation(path, None)):
            with pytest.raises(ValueError, match=r"a\.png cannot be read as an image .*; use PNG"):
                read(tmp_path / "a.png")


def adobe_rgb() -> bytes:
    """A colour profile of primaries and a gamma: Adobe RGB (1998), adapted to D50."""

    def fixed(*values):
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    primaries = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    tags |= {
        name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*xyz)
        for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)
    }
    curve = b"curv" + struct.pack(">IIHH", 0, 1, 563, 0)  # gamma 2.2 as 563 / 256
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4xI", start + len(body), 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    header = (header + bytes(28) + fixed(0.9642, 1.0, 0.8249)).ljust(128, b"\0")
    return header + struct.pack(">I", len(tags)) + table + body


def test_colours_are_those_of_the_profile(tmp_path):
    """(60, 200, 60) of Adobe RGB is (0, 201, 37) in sRGB; it stays that however often it is read."""
    Image.new("RGB", (4, 4), (60, 200, 60)).save(tmp_path / "a.png", icc_profile=adobe_rgb())
    for image in (open_image(tmp_path / "a.png"), to_rgb8(open_image(tmp_path / "a.png"))):
        assert image.getpixel((0, 0)) == pytest.approx((0, 201, 37), abs=1)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    UPRIGHT.save(tmp_path / "b.png", icc_profile=own)
    assert pixels_digest(open_image(tmp_path / "b.png")) == pixels_digest(UPRIGHT)
    UPRIGHT.save(tmp_path / "c.png", icc_profile=b"no profile")
    with pytest.raises(ValueError, match=r"c\.png has a colour profile that cannot be used"):
        open_image(tmp_path / "c.png")


def test_files_that_are_not_one_image_of_8_bits(tmp_path):
    UPRIGHT.save(tmp_path / "a.gif", save_all=True, append_images=[UPRIGHT.rotate(180)])
    with pytest.raises(ValueError, match=r"a\.gif cannot be read as an image \(it holds several images"):
        open_image(tmp_path / "a.gif")
    deep = av.VideoFrame.from_ndarray(np.full((4, 4, 3), 30000, np.uint16), format="rgb48le")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 4, 4, "rgb48be"
    encoder.time_base = Fraction(1)
    packets = encoder.encode(deep.reformat(format="rgb48be"))
    (tmp_path / "b.png").write_bytes(b"".join(map(bytes, packets)))
    with pytest.raises(ValueError, match=r"b\.png has pixels of more than 8 bits"):
        open_image(tmp_path / "b.png")
    Image.new("L", (8200, 8200)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png cannot .* 8200 x 8200 pixels, at most 8192 x 8192"):
        open_image(tmp_path / "c.png")


# ---- images as frames


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.png images"):
        read_image_folder(tmp_path)
    for name, grey in (("0001", 20), ("0000", 10)):
        Image.new("RGB", (6, 4), (grey, grey, grey)).save(tmp_path / f"{name}.png")
    frames = read_image_folder(tmp_path)
    assert frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [10, 20]
    assert np.array_equal(frames[0], read_image(tmp_path / "0000.png"))
    Image.new("RGB", (6, 5)).save(tmp_path / "0002.png")
    with pytest.raises(ValueError, match=r"0000\.png is 4x6, 0002\.png is 5x6"):
        read_image_folder(tmp_path)
    grey16().save(tmp_path / "0001.png")
    with pytest.raises(ValueError, match=r"0001\.png has pixels of more than 8 bits"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_images_of_an_animation_last_as_long_as_they_are_shown(tmp_path, ending):
    """Equal frames in a row are one image in such files; the rate of the clip tells them apart."""
    path = tmp_path / f"a{ending}"
    frames = np.array([0, 0, 0, 90, 200, 200], np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
    write_video(path, frames, 8, lossless=ending == ".webp")
    assert np.array_equal(read_animation(path, 8), frames)
    assert np.array_equal(read_animation(path, None), frames[[0, 3, 4]])


def test_an_animation_with_transparent_pixels_is_refused(tmp_path):
    images = [see_through(), UPRIGHT.convert("RGBA")]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], lossless=True)
    with pytest.raises(ValueError, match=r"^\S*a\.webp has transparent pixels"):
        read_animation(tmp_path / "a.webp", None)
