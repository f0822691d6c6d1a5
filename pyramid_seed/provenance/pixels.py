"""Whether the pixels in a file match its manifest, as far as the file's codec allows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..media.frames import Frames, enlarge, frames_digest
from ..media.images import read_image, read_image_folder
from ..media.labels import AIGC_TAG, DrawnLabel, aigc_text
from ..media.video import labelled, read_tag, read_video, write_video
from ..texts import counted
from .diff import Step
from .manifest import chunk_digests, geometry_of

MIN_PSNR = 30.0
"""dB, for the worst frame: how far another version of the encoder may deviate."""


def compare_file(
    path: Path, manifest: Mapping[str, Any], frames: Frames | None, environment: Mapping[str, Any]
) -> Step:
    """Compare the pixels and the AIGC label in a file with the manifest and with regenerated frames.

    Pixels that match the manifest bit for bit are proof by themselves, and those of a lossless file must
    match. A lossy .mp4 is compared with the regenerated frames after the same encoder: the pixels must be
    equal if the encoder's version is the manifest's, else at least `MIN_PSNR` in every frame. A visible label
    is drawn on the frames first, from its pixels in the manifest.

    Args:
        path: the clip.
        manifest: its manifest.
        frames: (T, H, W, 3) uint8, matching the manifest's digest; None if they were not made.
        environment: the environment of this run.

    Raises:
        ValueError: the manifest's visible label does not fit its file.
    """
    recorded = manifest.get("file") or {}
    aigc = recorded.get("aigc")
    if aigc is not None and path.suffix.lower() == ".mp4" and read_tag(path, AIGC_TAG) != aigc_text(aigc):
        return Step("file", "differs", "its AIGC label is not the manifest's")
    pixels = _read_pixels(path)
    if pixels is None:
        return Step("file", "not compared", f"pixels of {path.suffix or 'this file'} cannot be read back")
    scale, lossless = recorded.get("scale", 1), recorded.get("lossless", False)
    settings = manifest["settings"]
    size = (settings["num_frames"], settings["height"] * scale, settings["width"] * scale)
    if pixels.shape[:3] != size:
        return Step("file", "differs", f"it holds {_size(pixels.shape)}, the manifest promises {_size(size)}")
    row = recorded.get("visible_label")
    label = DrawnLabel.from_row(row, *size[1:]) if row else None
    is_lossless = path.suffix.lower() != ".mp4" or lossless
    if label is None:
        small = pixels[:, ::scale, ::scale]
        is_enlarged = np.array_equal(pixels, small.repeat(scale, axis=1).repeat(scale, axis=2))
        if is_enlarged and frames_digest(small) == manifest["digests"]["frames"]:
            return Step("file", "equal", "the pixels in the file, bit for bit")
        if is_lossless:
            where = _first_chunk(small, manifest)
            return Step("file", "differs", f"the pixels in the file differ from the manifest's{where}")
    if frames is None:
        why = "is lossy" if label is None else "has a visible label"
        return Step("file", "not compared", f"the file {why}: its pixels need the regenerated frames")
    if is_lossless:
        images = [labelled(enlarge(frame, scale), index, label) for index, frame in enumerate(frames)]
        step = _compare_lossless(pixels, np.stack(images))
    else:
        expected = _encoded(frames, settings["fps"], scale, recorded.get("smooth", False), label)
        same_encoder = _encoder(manifest["environment"]) == _encoder(environment)
        step = _compare_lossy(pixels, expected, same_encoder)
    if label is None:
        return step
    height, width = label.ink.shape
    covered = f"{height}x{width} pixels of the first {counted(min(label.num_frames, len(frames)), 'frame')}"
    return replace(step, note=f"{step.note}; its visible label covers {covered}")


def _compare_lossless(pixels: Frames, expected: Frames) -> Step:
    if np.array_equal(pixels, expected):
        return Step("file", "equal", "the pixels in the file, bit for bit")
    return Step("file", "differs", "the pixels in the file are not those of the clip and its label")


def _compare_lossy(pixels: Frames, expected: Frames, same_encoder: bool) -> Step:
    if np.array_equal(pixels, expected):
        return Step("file", "equal", "the pixels in the file, after the same encoder bit for bit")
    ratios = [psnr(*pair) for pair in zip(pixels, expected, strict=True)]
    worst = int(np.argmin(ratios))
    deviation = f"frame {worst} is the farthest off, PSNR {ratios[worst]:.1f} dB"
    if same_encoder:
        return Step("file", "differs", f"the same encoder gives other pixels: {deviation}")
    if ratios[worst] < MIN_PSNR:
        return Step("file", "differs", f"the pixels in the file are not those of the clip: {deviation}")
    return Step("file", "equal", f"as far as the codec allows (another encoder version here): {deviation}")


def _read_pixels(path: Path) -> Frames | None:
    """(T, H, W, 3), or None for formats that lose or merge frames."""
    if path.is_dir():
        return read_image_folder(path)
    if path.suffix.lower() == ".mp4":
        return read_video(path)[0]
    return read_image(path)[None] if path.suffix.lower() == ".png" else None


def _encoded(frames: Frames, fps: float, scale: int, smooth: bool, label: DrawnLabel | None) -> Frames:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.mp4"
        write_video(path, frames, fps, scale=scale, smooth=smooth, label=label)
        return read_video(path)[0]


def _encoder(environment: Mapping[str, Any]) -> tuple[Any, ...]:
    """What determines an encoder's bits; av's wheels bundle x264, so their version fixes its version."""
    packages, libraries = environment.get("packages", {}), environment.get("libraries", {})
    codec, machine = libraries.get("libavcodec"), environment.get("platform")
    return packages.get("pyramid-seed"), packages.get("av"), codec, machine


def _first_chunk(frames: Frames, manifest: Mapping[str, Any]) -> str:
    if "chunks" not in manifest["digests"]:  # a keyed clip
        return ""
    digests, geometry = manifest["digests"]["chunks"], geometry_of(manifest)
    for chunk, (found, wanted) in enumerate(zip(chunk_digests(frames, geometry), digests, strict=False)):
        if found != wanted:
            shown = geometry.frames_of_unit(chunk)
            return f", from chunk {chunk} (frames {shown[0]} to {shown[-1]}) on"
    return ""


def psnr(a: Frames, b: Frames) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / mean squared error); infinite for equal arrays.

    Args:
        a, b: uint8 of equal shape; the mean is taken over all values.
    """
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _size(shape: tuple[int, ...]) -> str:
    return f"{counted(shape[0], 'frame')} of {shape[1]}x{shape[2]}"
