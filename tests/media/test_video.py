"""Clips as files: they come back, and nothing is half-written."""

from __future__ import annotations

import wave
from itertools import product

import av
import imageio.v3 as iio
import numpy as np
import pytest

from pyramid_seed.media import video
from pyramid_seed.media.video import read_comment, read_video, video_frames, write_image, write_video
from tests.cases import check_cases
from tests.media.clips import noise_clip, psnr, smooth_clip

# ---- mp4


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


def test_scale_is_nearest_neighbour(tmp_path):
    frames = noise_clip()
    write_video(tmp_path / "a.mp4", frames, 8, scale=3, lossless=True)
    assert np.array_equal(read_video(tmp_path / "a.mp4")[0], np.kron(frames, np.ones((1, 3, 3, 1), np.uint8)))


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


def test_wrong_options(tmp_path):
    cases = [
        ("a.avi", {}, r"known endings: \.mp4, \.gif, \.webp, \.png"),
        ("a.mp4", {"fps": 0}, "fps must be between 0.1 and 1000 for .mp4, got 0"),
        ("a.mp4", {"fps": float("nan")}, "fps must be between"),
        ("a.gif", {"fps": 60}, "between 0.1 and 50 for .gif, got 60"),
        ("a.gif", {"lossless": True}, "cannot be lossless"),
        ("a.mp4", {"scale": 0}, "scale must be a whole number"),
        ("a.mp4", {"scale": 1.5}, "scale must be a whole number"),
        ("a.png", {"smooth": True}, "smooth is for lossy files"),
        ("a.webp", {"smooth": True, "lossless": True}, "smooth is for lossy files"),
        ("a.mp4", {"comment": "a\0b"}, "NUL"),
        ("a.mp4", {"comment": "\ud800"}, "surrogates not allowed"),
        ("a.webp", {"comment": "hello"}, r"only \.mp4 has a comment tag"),
        ("a.mp4", {"frames": noise_clip()[0]}, r"shape \(T, H, W, 3\)"),
    ]

    def rule(name, options, message):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / name, **({"frames": noise_clip(), "fps": 8} | options))
        assert list(tmp_path.iterdir()) == []

    check_cases(cases, rule)


def test_overwrites_only_when_told(tmp_path):
    def rule(name):
        path = tmp_path / f"folder of {name}" / name
        write_video(path, noise_clip(), 8)
        with pytest.raises(FileExistsError, match=r"a.* already exists; .*overwrite=True"):
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

        def fails_at_the_third_frame(image, scale, **how):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return enlarge(image, scale, **how)

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


def test_reading_media_without_frames(tmp_path):
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
    whole = whole.replace(b"avc1", b"\0vc1").replace(b"avcC", b"\0vcC")  # which nothing decodes
    (tmp_path / "b.mp4").write_bytes(whole)
    with pytest.raises(ValueError, match=r"b\.mp4 is not a video, or a damaged one \(Decoder not found\)"):
        read_video(tmp_path / "b.mp4")
    write_video(tmp_path / "c.mp4", noise_clip(), 8, comment="a tag of text")
    (tmp_path / "c.mp4").write_bytes((tmp_path / "c.mp4").read_bytes().replace(b"a tag", b"\x80 tag"))
    with pytest.raises(ValueError, match=r"c\.mp4 is not a video, or a damaged one \(invalid start byte\)"):
        read_comment(tmp_path / "c.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text\.mp4"):
        list(video_frames(tmp_path / "text.mp4"))


def test_what_would_not_fit_into_memory_is_refused_while_it_is_read(tmp_path, monkeypatch):
    frames = noise_clip()
    write_video(tmp_path / "a.mp4", frames, 8)
    pixels = frames[..., 0].size
    monkeypatch.setattr("pyramid_seed.media.images._MAX_CLIP_PIXELS", pixels)
    assert read_video(tmp_path / "a.mp4")[0].shape == frames.shape
    monkeypatch.setattr("pyramid_seed.media.images._MAX_CLIP_PIXELS", pixels - 1)
    with pytest.raises(ValueError, match=rf"a\.mp4 has {pixels:,} pixels in all, at most {pixels - 1:,}"):
        read_video(tmp_path / "a.mp4")
    monkeypatch.setattr("pyramid_seed.media.video.MAX_PIXELS", 10)
    with pytest.raises(ValueError, match=r"a\.mp4 has 32 x 32 pixels, at most"):
        list(video_frames(tmp_path / "a.mp4"))


# ---- images


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
