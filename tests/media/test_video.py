"""Clips as files: same bytes, right colours, nothing half-written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import wave
from itertools import product
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest

from pyramid_seed.media import mp4, video
from pyramid_seed.media.video import (
    contact_sheet,
    frames_digest,
    image_grid,
    read_comment,
    read_video,
    video_frames,
    write_image,
    write_video,
)
from tests.cases import check_cases

COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [128, 0, 128], [255, 165, 0], [255, 255, 255]],
    dtype=np.uint8,
)


def smooth_clip(num_frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """Saturated colours that change slowly in space and time."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    waves = [np.sin(x / 20 + t / 6), np.cos(y / 15 - t / 5), np.sin((x + y) / 25 + t / 4)]
    return (127.5 + 127.5 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def noise_clip(num_frames: int = 4, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


# ---- digest


def test_digest_is_sha256_of_the_bytes_in_thwc_order():
    frames = noise_clip()
    assert frames_digest(frames) == hashlib.sha256(frames.tobytes()).hexdigest()
    assert frames_digest(frames[:, :, ::-1]) == hashlib.sha256(frames[:, :, ::-1].tobytes()).hexdigest()


# ---- mp4


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
        env["PYTHONPATH"] = str(Path(video.__file__).parents[2])
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
        assert sha256(tmp_path / "there.mp4") == sha256(tmp_path / "here.mp4")
        (tmp_path / "there.mp4").unlink()


def test_bytes_do_not_depend_on_the_instruction_set(tmp_path, monkeypatch):
    write_video(tmp_path / "simd.mp4", smooth_clip(), 8)
    monkeypatch.setattr(mp4, "_X264_PARAMS", mp4._X264_PARAMS + ":asm=0")
    write_video(tmp_path / "scalar.mp4", smooth_clip(), 8)
    assert sha256(tmp_path / "simd.mp4") == sha256(tmp_path / "scalar.mp4")


def test_smooth_clip_comes_back(tmp_path):
    frames = smooth_clip(9)
    write_video(tmp_path / "a.mp4", frames, 24)
    decoded, fps = read_video(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape
    assert decoded.dtype == np.uint8
    assert fps == 24
    assert psnr(decoded, frames) > 35


def test_rate_comes_back(tmp_path):
    def rule(fps):
        write_video(tmp_path / "a.mp4", smooth_clip(4), fps, overwrite=True)
        assert read_video(tmp_path / "a.mp4")[1] == pytest.approx(fps, abs=1e-4)

    check_cases([8, 23.976, 29.97, 24000 / 1001], rule)


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


def test_lossless_mp4_comes_back_bit_for_bit(tmp_path):
    def rule(height, width):
        frames = noise_clip(4, height, width)
        write_video(tmp_path / "a.mp4", frames, 8, lossless=True, overwrite=True)
        decoded, fps = read_video(tmp_path / "a.mp4")
        assert np.array_equal(decoded, frames)
        assert fps == 8

    check_cases([(32, 32), (31, 17)], rule)


def test_scale_is_nearest_neighbour(tmp_path):
    frames = noise_clip()
    write_video(tmp_path / "a.mp4", frames, 8, scale=3, lossless=True)
    assert np.array_equal(read_video(tmp_path / "a.mp4")[0], np.kron(frames, np.ones((1, 3, 3, 1), np.uint8)))


def test_odd_size_needs_an_even_scale(tmp_path):
    frames = noise_clip(2, 31, 32)
    with pytest.raises(ValueError, match=r"must be even, got 31x32; use scale=2"):
        write_video(tmp_path / "a.mp4", frames, 8)
    write_video(tmp_path / "a.mp4", frames, 8, scale=2)
    assert read_video(tmp_path / "a.mp4")[0].shape == (2, 62, 64, 3)


def test_comment_survives(tmp_path):
    cases = {
        "plain": "plain",
        "special": "quotes \" and ', back\\slash, semi; colon: equals= hash#, "
        "line\nline\r\n\ttab, 日本語 and 🎬",
        "8KB": '{"prompt": "é🎈\\n"}' * 400,
        "200KB": "manifest 🎬\n" * 16_000,
    }

    def rule(comment):
        write_video(tmp_path / "a.mp4", smooth_clip(2), 8, comment=comment, overwrite=True)
        assert read_comment(tmp_path / "a.mp4") == comment
        assert len(read_video(tmp_path / "a.mp4")[0]) == 2

    check_cases(cases, rule)


def test_no_comment(tmp_path):
    write_video(tmp_path / "a.mp4", smooth_clip(2), 8)
    assert read_comment(tmp_path / "a.mp4") is None


# ---- gif, webp, png


def test_gif_keeps_count_size_and_length(tmp_path):
    frames = smooth_clip(17)
    write_video(tmp_path / "a.gif", frames, 8, scale=2)
    decoded = iio.imread(tmp_path / "a.gif", index=...)
    assert decoded.shape == (17, 96, 128, 3)
    with av.open(str(tmp_path / "a.gif")) as container:
        assert container.duration / av.time_base == pytest.approx(17 / 8, abs=0.006)


def test_webp_keeps_count_and_when_lossless_every_bit(tmp_path):
    frames = noise_clip(5)
    write_video(tmp_path / "a.webp", frames, 8, lossless=True)
    assert np.array_equal(iio.imread(tmp_path / "a.webp", index=...)[..., :3], frames)
    write_video(tmp_path / "b.webp", smooth_clip(5), 8)
    assert psnr(iio.imread(tmp_path / "b.webp", index=...)[..., :3], smooth_clip(5)) > 30


def test_png_folder_keeps_every_bit(tmp_path):
    def rule(name):
        frames = noise_clip(11)
        write_video(tmp_path / name, frames, 8)
        files = sorted((tmp_path / name).iterdir())
        assert [f.name for f in files] == [f"{i:04d}.png" for i in range(11)]
        assert np.array_equal(np.stack([iio.imread(f) for f in files]), frames)

    check_cases(["clip.png", "clip"], rule)


def test_one_frame_is_enough(tmp_path):
    def rule(ending):
        path = tmp_path / f"a{ending}"
        write_video(path, noise_clip(1), 8)
        assert path.is_file()
        if ending == ".png":
            assert np.array_equal(iio.imread(path), noise_clip(1)[0])

    check_cases([".mp4", ".gif", ".webp", ".png"], rule)


# ---- errors, and nothing half-written


def test_wrong_frames(tmp_path):
    cases = [
        (noise_clip().astype(np.float32), "numpy array of uint8, got float32"),
        ([[0]], "numpy array of uint8, got list"),
        (noise_clip()[0], r"shape \(T, H, W, 3\)"),
        (noise_clip()[..., :1], r"shape \(T, H, W, 3\)"),
        (noise_clip()[:0], "none of it 0"),
    ]

    def rule(frames, message):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "a.mp4", frames, 8)
        with pytest.raises(ValueError, match=message):
            frames_digest(frames)
        assert list(tmp_path.iterdir()) == []

    check_cases(cases, rule)


def test_wrong_options(tmp_path):
    cases = [
        ("a.avi", {}, r"known endings: \.mp4, \.gif, \.webp, \.png"),
        ("a.mp4", {"fps": 0}, "fps must be between 0.1 and 1000 for .mp4, got 0"),
        ("a.mp4", {"fps": float("nan")}, "fps must be between"),
        ("a.gif", {"fps": 60}, "between 0.1 and 50 for .gif, got 60"),
        ("a.gif", {"lossless": True}, "cannot be lossless"),
        ("a.mp4", {"scale": 0}, "scale must be a whole number"),
        ("a.mp4", {"scale": 1.5}, "scale must be a whole number"),
        ("a.mp4", {"comment": "a\0b"}, "NUL"),
        ("a.mp4", {"comment": "\ud800"}, "surrogates not allowed"),
        ("a.webp", {"comment": "hello"}, r"only \.mp4 has a comment tag"),
    ]

    def rule(name, options, message):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / name, noise_clip(), **({"fps": 8} | options))
        assert list(tmp_path.iterdir()) == []

    check_cases(cases, rule)


def test_overwrites_only_when_told(tmp_path):
    def rule(name):
        path = tmp_path / f"folder of {name}" / name
        write_video(path, noise_clip(), 8)
        with pytest.raises(FileExistsError, match=r"a.* exists already; .*overwrite=True"):
            write_video(path, smooth_clip(), 8)
        write_video(path, smooth_clip(2), 8, overwrite=True)
        assert list(path.parent.iterdir()) == [path]
        if path.is_dir():
            assert len(list(path.iterdir())) == 2

    check_cases(["a.mp4", "a.gif", "a.webp", "a.png", "a"], rule)


def test_never_deletes_a_folder_of_other_things(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="not a folder of numbered PNGs"):
        write_video(tmp_path / "work", noise_clip(), 8, overwrite=True)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            write_video(tmp_path / "missing" / ".." / "work", noise_clip(), 8, overwrite=overwrite)
    assert (tmp_path / "work" / "thesis.tex").read_text() == "years"


def test_failure_in_the_middle_leaves_everything_as_it_was(tmp_path, monkeypatch):
    def rule(name, existed):
        path = tmp_path / f"{name}, {existed}" / name
        path.parent.mkdir()
        if existed:
            write_video(path, noise_clip(), 8)
        before = sorted(tmp_path.rglob("*"))
        enlarge, calls = video.enlarge, []

        def fails_at_the_third_frame(image, scale):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return enlarge(image, scale)

        with monkeypatch.context() as patch:
            patch.setattr(video, "enlarge", fails_at_the_third_frame)
            with pytest.raises(KeyboardInterrupt):
                write_video(path, smooth_clip(), 8, overwrite=True)
        assert sorted(tmp_path.rglob("*")) == before

    check_cases(product(["a.mp4", "a.gif", "a.png"], [False, True]), rule)


def test_parents_are_made(tmp_path):
    write_video(tmp_path / "new" / "folder" / "a.mp4", noise_clip(), 8)
    assert len(read_video(tmp_path / "new" / "folder" / "a.mp4")[0]) == 4


def test_reading_what_is_no_video(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text\.mp4 is not a video, or a damaged one"):
        read_video(tmp_path / "text.mp4")


def test_reading_media_without_pictures(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound\.wav holds no video stream"):
        read_video(tmp_path / "sound.wav")
    with pytest.raises(ValueError, match=r"sound\.wav holds no video stream"):
        list(video_frames(tmp_path / "sound.wav"))
    header = b"YUV4MPEG2 W16 H16 F8:1 Ip A1:1 C420\n"
    (tmp_path / "one.y4m").write_bytes(header + b"FRAME\n" + bytes(16 * 16 * 3 // 2))
    assert read_video(tmp_path / "one.y4m")[0].shape == (1, 16, 16, 3)
    (tmp_path / "none.y4m").write_bytes(header)
    with pytest.raises(ValueError, match=r"none\.y4m holds no video frames"):
        read_video(tmp_path / "none.y4m")


def test_reading_what_is_damaged(tmp_path):
    """Behind a header that is whole: nobody must take the frames before the damage for all there are."""
    write_video(tmp_path / "a.mp4", noise_clip(), 8, lossless=True)
    whole = (tmp_path / "a.mp4").read_bytes()
    start = whole.index(b"mdat") + 4
    for damaged in (whole[: len(whole) // 2], whole[:-10], whole[:start] + b"U" * (len(whole) - start)):
        (tmp_path / "b.mp4").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.mp4 is not a video, or a damaged one"):
            read_video(tmp_path / "b.mp4")
        with pytest.raises(ValueError, match=r"b\.mp4 is not a video, or a damaged one"):
            list(video_frames(tmp_path / "b.mp4"))
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text\.mp4"):
        list(video_frames(tmp_path / "text.mp4"))


# ---- pictures


def test_image_grid_places_pictures_row_by_row():
    images = noise_clip(5, 8, 6)
    grid = image_grid(images, columns=3)
    assert grid.shape == (8 * 2 + 2, 6 * 3 + 4, 3)
    assert np.array_equal(grid[:8, 8:14], images[1])
    assert np.array_equal(grid[10:, :6], images[3])
    assert (grid[8:10] == 64).all()
    assert (grid[10:, 16:] == 64).all()


def test_contact_sheet_has_a_row_a_clip_from_first_to_last_frame():
    clips = [noise_clip(17, 8, 8), noise_clip(9, 8, 8)]
    sheet = contact_sheet(clips, columns=3)
    assert sheet.shape == (8 * 2 + 2, 8 * 3 + 4, 3)
    for row, clip in enumerate(clips):
        for column, frame in enumerate([0, (len(clip) - 1) // 2, len(clip) - 1]):
            top, left = 10 * row, 10 * column
            assert np.array_equal(sheet[top : top + 8, left : left + 8], clip[frame])


def test_wrong_grids():
    cases = [
        (lambda: image_grid([], 2), "at least one picture"),
        (lambda: image_grid(noise_clip(), 0), "columns must be at least 1"),
        (lambda: image_grid([noise_clip()[0], noise_clip()[0, :8]], 2), "of one size"),
        (lambda: contact_sheet(noise_clip()), r"shape \(T, H, W, 3\)"),
    ]

    def rule(call, message):
        with pytest.raises(ValueError, match=message):
            call()

    check_cases(cases, rule)


def test_write_image(tmp_path):
    image = noise_clip()[0]
    write_image(tmp_path / "new" / "a.png", image)
    assert np.array_equal(iio.imread(tmp_path / "new" / "a.png"), image)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_image(tmp_path / "new" / "a.png", image)
    write_image(tmp_path / "new" / "a.png", image[:8], overwrite=True)
    assert iio.imread(tmp_path / "new" / "a.png").shape == (8, 32, 3)
    with pytest.raises(ValueError, match=r"known endings: \.png"):
        write_image(tmp_path / "a.tif", image)
    with pytest.raises(ValueError, match=r"shape \(H, W, 3\)"):
        write_image(tmp_path / "a.png", noise_clip())
