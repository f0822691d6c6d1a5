"""Grids of images and the contact sheet of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from pyramid_seed.media.contact_sheet import (
    SHEET_SIZE,
    Strip,
    image_grid,
    read_strip,
    write_sheet,
)
from pyramid_seed.media.images import read_image
from pyramid_seed.media.lettering import broken, font
from pyramid_seed.media.video import write_image
from tests.media.clips import noise_clip


def test_image_grid_places_images_row_by_row():
    images = noise_clip(5, 8, 6)
    grid = image_grid(images, columns=3)
    assert grid.shape == (8 * 2 + 2, 6 * 3 + 4, 3)
    assert np.array_equal(grid[:8, 8:14], images[1])
    assert np.array_equal(grid[10:, :6], images[3])
    assert (grid[8:10] == 64).all()
    assert (grid[10:, 16:] == 64).all()


def test_wrong_grids():
    cases = [
        (lambda: image_grid([], 2), "at least one image"),
        (lambda: image_grid(noise_clip(), 0), "columns must be at least 1"),
        (lambda: image_grid([noise_clip()[0], noise_clip()[0, :8]], 2), "of one size"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_strip_has_six_squares_from_first_to_last_frame(tmp_path):
    """96 pixels each, with the frame in the middle."""
    clip = np.zeros((11, 20, 40, 3), np.uint8)
    clip[:] = 20 * np.arange(11, dtype=np.uint8)[:, None, None, None]
    strip = Strip(len(clip))
    for frame in clip:
        strip.add(frame)
    strip.write(tmp_path / "strip.png")
    image = read_image(tmp_path / "strip.png")
    assert image.shape == (96, 6 * 96 + 5 * 2, 3)
    assert image[48, 48::98, 0].tolist() == [0, 40, 80, 120, 160, 200]
    assert set(image[:20, :96].flat) == {64}


def test_a_strip_of_few_frames_shows_some_of_them_twice(tmp_path):
    strip = Strip(2)
    for grey in (10, 200):
        strip.add(np.full((8, 8, 3), grey, np.uint8))
    strip.write(tmp_path / "strip.png")
    assert read_image(tmp_path / "strip.png")[48, 48::98, 0].tolist() == [10] * 3 + [200] * 3


def test_a_sheet_has_fifty_rows_and_as_few_columns_as_can_be(tmp_path):
    width, caption = 40, 56
    for count, columns in {1: 1, 50: 1, 51: 2, SHEET_SIZE: 4}.items():
        strips = [("", str(grey), np.full((4, width, 3), grey, np.uint8)) for grey in range(count)]
        write_sheet(tmp_path / "sheet.png", strips)
        sheet = read_image(tmp_path / "sheet.png")
        rows = -(-count // columns)
        assert sheet.shape == (rows * (caption + 8) - 4, columns * (width + 4) - 4, 3)
        assert sheet[caption :: caption + 8, :: width + 4, 0].flatten()[:count].tolist() == list(range(count))


def test_a_strip_stands_under_its_prompt_and_seed(tmp_path):
    """Each line has ink, a long prompt takes two of them and keeps within the strip."""
    inks = []
    for prompt in ("a star", "a star that grows " * 20):
        write_sheet(tmp_path / "sheet.png", [(prompt, "7", np.zeros((96, 586, 3), np.uint8))])
        caption = read_image(tmp_path / "sheet.png")[:56, :, 0]
        inks.append([(caption[top : top + 18] > 200).sum() for top in (0, 18, 36)])
        assert (caption[:, -1] == 64).all()
    short, long = inks
    assert short[0] > 20 < short[1]  # prompt, seed
    assert short[2] == 0
    assert min(long) > 20
    assert long[0] > 2 * short[0]


def test_a_text_is_broken_at_spaces_and_loses_nothing_but_its_end():
    text = "a red circle moves to the right and then up"
    width = font(14).getlength("a red circle moves to")
    assert broken(text, 14, width, 9) == ["a red circle moves to", "the right and then", "up"]
    first, last = broken(f"{text}, slowly", 14, width, 2)
    assert first == "a red circle moves to"
    assert last.startswith("the right")
    assert last.endswith("…")
    assert "".join(broken("\u4e00" * 40, 14, 100, 99)) == "\u4e00" * 40  # a script without spaces
    assert broken("a\ud800\x1b", 14, 500, 1) == ["a\\ud800\\x1b"]
    assert broken("", 14, 100, 2) == []
    assert all(font(14).getlength(line) <= width for line in broken("x" * 500, 14, width, 3))


def test_what_is_no_strip_is_refused(tmp_path):
    path = tmp_path / "strip.png"
    write_image(path, np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match=r"strip\.png is not a strip of a clip: 96x96 pixels"):
        read_strip(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"strip\.png cannot be read"):
        read_strip(path)
