"""Clips as files show them."""

from __future__ import annotations

import numpy as np

from pyramid_seed.explore.stored import read_clip, shows_its_frames
from pyramid_seed.media.video import write_video
from pyramid_seed.provenance.manifest import manifest_json

from .clips import golden_record, write_golden


def test_what_other_formats_show(tmp_path):
    """Equal frames in a row are one image in .gif and .webp; the manifest's rate tells them apart."""
    # Few colours, so that a .gif holds them all.
    clip = (np.arange(9, dtype=np.uint8) // 3)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    sidecar = manifest_json(golden_record("short").manifest)
    offenders = []
    for name in ("a.gif", "b.webp", "c.png", "d-folder"):
        path = tmp_path / name
        write_video(path, clip * 40, 8, lossless=name.endswith(".webp"))
        path.with_suffix(".json").write_text(sidecar, encoding="utf-8")
        stored = read_clip(path)
        if not np.array_equal(stored.frames, clip * 40) or stored.fps != 8:
            offenders.append(name)
    assert offenders == []


def test_without_a_manifest_every_image_counts_once(tmp_path):
    clip = np.zeros((4, 16, 16, 3), np.uint8)
    clip[2:] = 9
    write_video(tmp_path / "a.webp", clip, 8, lossless=True)
    assert len(read_clip(tmp_path / "a.webp").frames) == 2


def test_whether_a_file_shows_the_frames_of_its_manifest(tmp_path):
    exact = write_golden(tmp_path / "exact.mp4", "short", lossless=True, scale=2)
    assert shows_its_frames(read_clip(exact))
    assert not shows_its_frames(read_clip(write_golden(tmp_path / "lossy.mp4", "short")))
