"""h264 in .mp4: the same bytes everywhere, right colours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from pyramid_seed.media import mp4
from pyramid_seed.media.video import read_video, write_video
from tests.media.clips import noise_clip, sha256, smooth_clip

COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [128, 0, 128], [255, 165, 0], [255, 255, 255]],
    dtype=np.uint8,
)


@pytest.mark.parametrize("lossless", [False, True])
def test_same_frames_give_the_same_bytes_in_another_process_with_other_threads(tmp_path, lossless):
    frames = smooth_clip()
    np.save(tmp_path / "frames.npy", frames)
    write_video(tmp_path / "here.mp4", frames, 8, comment="a note", lossless=lossless)
    code = (
        "import numpy as np; from pyramid_seed.media.video import write_video;"
        f"write_video('there.mp4', np.load('frames.npy'), 8, comment='a note', lossless={lossless})"
    )
    for threads in ("1", "7"):
        env = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        env["PYTHONPATH"] = str(Path(mp4.__file__).parents[2])
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
        assert sha256(tmp_path / "there.mp4") == sha256(tmp_path / "here.mp4")
        (tmp_path / "there.mp4").unlink()


@pytest.mark.skipif(av.__version__ != "18.1.0", reason="another PyAV may carry another x264")
def test_the_bytes_are_those_that_version_0_1_0_wrote(tmp_path):
    write_video(tmp_path / "lossy.mp4", smooth_clip(9), 8, scale=2)
    write_video(tmp_path / "lossless.mp4", smooth_clip(9), 24, comment="é", lossless=True)
    assert sha256(tmp_path / "lossy.mp4")[:16] == "cc349e5f6aa8e5d7"
    assert sha256(tmp_path / "lossless.mp4")[:16] == "b461028e23a220a9"


def test_bytes_do_not_depend_on_the_instruction_set(tmp_path, monkeypatch):
    write_video(tmp_path / "simd.mp4", smooth_clip(), 8)
    monkeypatch.setattr(mp4, "_X264_PARAMS", mp4._X264_PARAMS + ":asm=0")
    write_video(tmp_path / "scalar.mp4", smooth_clip(), 8)
    assert sha256(tmp_path / "simd.mp4") == sha256(tmp_path / "scalar.mp4")


def test_flat_colours_come_back_within_three_grey_levels(tmp_path):
    patches = COLOURS.repeat(32, axis=0)[None].repeat(32, axis=0)
    write_video(tmp_path / "a.mp4", np.stack([patches] * 3), 8)
    decoded, _ = read_video(tmp_path / "a.mp4")
    inner = decoded.reshape(3, 32, len(COLOURS), 32, 3)[:, 8:-8, :, 8:-8]
    assert np.abs(inner.mean(axis=(0, 1, 3)) - COLOURS).max() < 3


def test_conversion_follows_bt709():
    """Y = 16 + 219 Y', C = 128 + 224 C', from the real numbers of the recommendation."""
    for colour in COLOURS:
        planes = mp4._rgb_to_yuv420(np.broadcast_to(colour, (2, 2, 3)).copy()).ravel()
        red, green, blue = colour / 255
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        expected = [
            16 + 219 * luma,
            128 + 224 * (blue - luma) / 1.8556,
            128 + 224 * (red - luma) / 1.5748,
        ]
        assert np.abs(planes[[0, 4, 5]] - expected).max() <= 0.51
        assert len(set(planes[:4])) == 1


def test_greys_have_no_colour():
    for grey in range(256):
        planes = mp4._rgb_to_yuv420(np.full((2, 2, 3), grey, np.uint8)).ravel()
        assert planes[4] == planes[5] == 128
        assert planes[0] == round(16 + 219 * grey / 255)


def test_stream_is_tagged_and_starts_fast(tmp_path):
    write_video(tmp_path / "a.mp4", smooth_clip(), 8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert context.color_primaries == context.color_trc == context.colorspace == 1  # BT.709
        assert context.color_range == 1  # limited
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


def test_encoder_knows_our_parameters(tmp_path, monkeypatch):
    """x264 only warns about a parameter it does not know."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        for parameters, is_known in ((mp4._X264_PARAMS, True), ("no-such-parameter=1", False)):
            monkeypatch.setattr(mp4, "_X264_PARAMS", parameters)
            with av.logging.Capture() as messages:
                write_video(tmp_path / "a.mp4", smooth_clip(2), 8, overwrite=True)
            assert (messages == []) == is_known, messages
    finally:
        av.logging.set_level(level)


@pytest.mark.parametrize("size", [(32, 32), (31, 17)])
def test_lossless_mp4_comes_back_bit_for_bit(tmp_path, size):
    frames = noise_clip(4, *size)
    write_video(tmp_path / "a.mp4", frames, 8, lossless=True)
    decoded, fps = read_video(tmp_path / "a.mp4")
    assert np.array_equal(decoded, frames)
    assert fps == 8


def test_odd_size_needs_an_even_scale(tmp_path):
    frames = noise_clip(2, 31, 32)
    with pytest.raises(ValueError, match=r"must be even, got 31x32; use scale=2"):
        write_video(tmp_path / "a.mp4", frames, 8)
    write_video(tmp_path / "a.mp4", frames, 8, scale=2)
    assert read_video(tmp_path / "a.mp4")[0].shape == (2, 62, 64, 3)
