"""`scale`: bytes that a clip of 5 seconds leaves, and by them what many such clips on many GPUs need."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramid_seed import FrameFile, load_preset, read_manifest
from pyramid_seed.cli import main

from .measure import Result

PROMPT = "a red circle moves to the right on a white background"
NUM_FRAMES = 121
"""16 units, as 5 seconds of the published models have."""
STEP_SECONDS = (0.095, 0.104, 0.238)
"""Of the last unit of 768p on an H200, by stage; docs/performance.md. Earlier units take less."""
_QUICK = ("--num-inference-steps", "1", "--video-num-inference-steps", "1")
_GRAIN = 5.0  # deviation of the pictures that are hard to encode, of 255


def measure(options: argparse.Namespace) -> Result:
    """Bytes per clip, measured here, and hours and bytes in all, by arithmetic."""
    preset = load_preset("miniflux-768p")
    sizes = recorded_bytes() | {
        f"file of {name}": float(clip_file_bytes(preset.height, preset.width, grain))
        for name, grain in (("a drawn shape", 0.0), (f"the same with grain of {_GRAIN:g}", _GRAIN))
    }
    seconds = options.clip_seconds or most_seconds(
        preset.num_inference_steps, preset.video_num_inference_steps
    )
    kept = ("index", "log of the work")
    count, gpus = options.clips, options.gpus
    least, most = (size for name, size in sizes.items() if name.startswith("file of"))
    table = [
        ("what", "per clip", f"{count:,} clips on {gpus:,} GPUs"),
        ("time of a GPU", f"{seconds:.1f} s", f"{count * seconds / gpus / 3600:,.0f} h on each"),
        ("clip files", "1", f"{count:,}"),
        (
            "bytes of them",
            f"{least / 1e6:.2f} to {most / 1e6:.1f} MB",
            f"{count * least / 1e12:.1f} to {count * most / 1e12:,.0f} TB",
        ),
        (
            "of which manifests",
            f"{sizes['manifest'] / 1e3:.1f} kB",
            f"{count * sizes['manifest'] / 1e9:,.0f} GB",
        ),
        *((name, f"{sizes[name]:.0f} B", f"{count * sizes[name] / 1e9:.2f} GB") for name in kept),
        ("files written at a time", "", f"{count / (count * seconds / gpus):.1f} per second"),
    ]
    return Result(
        command="scale",
        what=f"clips of {NUM_FRAMES} frames: records of the embedded model's, files of 768 x 1280 pixels",
        facts={f"{name}, bytes": size for name, size in sizes.items()},
        table=table,
    )


def most_seconds(first_steps: object, later_steps: object) -> float:
    """Time of a clip if every unit took what the last takes, decoding beside the steps."""
    first, later = (
        np.broadcast_to(np.asarray(steps), len(STEP_SECONDS)) for steps in (first_steps, later_steps)
    )
    num_later = (NUM_FRAMES - 1) // 8
    return float(np.dot(first + num_later * later, STEP_SECONDS))


def recorded_bytes() -> dict[str, float]:
    """Bytes per clip of what is recorded of one that is made as a part of a batch."""
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        folder = Path(name) / "clips"
        (prompts := Path(name) / "list.txt").write_text(f"{PROMPT}\n", encoding="utf-8")
        command = ["batch", str(prompts), "-o", str(folder), "--part", "0/1", "--quiet", *_QUICK]
        if main([*command, "--num-frames", str(NUM_FRAMES)]) or main(
            ["batch", "--gather", "-o", str(folder)]
        ):
            raise RuntimeError("the clip that is measured was not made")
        (clip,) = folder.glob("*.mp4")
        log = (folder / "logs" / "part-0-of-1.log").read_text(encoding="utf-8")
        return {
            "row of the list": float(prompts.stat().st_size),
            "index": float((folder / "index.jsonl").stat().st_size),
            "log of the work": float(sum(len(line) + 1 for line in log.splitlines() if clip.name in line)),
            "manifest": float(len(json.dumps(read_manifest(clip)))),
        }


def clip_file_bytes(height: int, width: int, grain: float) -> int:
    """Bytes of an .mp4 of a shape that moves over a ground, with noise of that deviation on every frame."""
    with tempfile.TemporaryDirectory() as name, FrameFile(path := Path(name) / "clip.mp4") as file:
        file.start(24, 1)
        for frame in _frames(height, width, grain):
            file.write(frame)
        file.save(path, comment=None)
        return path.stat().st_size


def _frames(height: int, width: int, grain: float) -> Iterator[NDArray[np.uint8]]:
    noise = np.random.default_rng(0)
    y, x = np.ogrid[:height, :width]
    for number in range(NUM_FRAMES):
        centre = width * (0.3 + 0.4 * number / NUM_FRAMES)
        is_shape = (x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
        picture = np.where(is_shape[..., None], (225.0, 20.0, 20.0), (180.0, 190.0, 200.0))
        picture += grain * noise.standard_normal(picture.shape, np.float32)
        yield np.clip(picture, 0, 255).astype(np.uint8)[None]
