"""Make the golden clips of the embedded model anew and say what changed.

`PYTHONPATH=. python scripts/renew_golden.py`. A golden clip is its manifest in tests/golden/tiny.json and its
frames, side by side, in a lossless picture. Only a change of weights, or of the arithmetic on purpose, is a
reason to renew. tests/golden/noise.json is not renewed, ever.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from pyramid_seed import Clip, generate
from pyramid_seed.environment import fingerprint_differences
from pyramid_seed.files import replacing
from pyramid_seed.media.frames import Frames
from pyramid_seed.provenance.diff import compare_results, compare_weights, first_difference
from pyramid_seed.provenance.manifest import without_timings

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
MANIFESTS = GOLDEN / "tiny.json"

CLIPS: dict[str, dict[str, Any]] = {
    "default": {
        "prompt": "a red circle moves to the right on a white background",
        "seed": 42,
        "attention": "prefix",  # here and below: as of clips made before there was "grouped"
    },
    "grouped": {
        "prompt": "a big green square moves up on a white background",
        "seed": 11,
        "num_inference_steps": [2, 1, 1],
        "video_num_inference_steps": [1, 1, 2],
    },
    "short": {
        "prompt": "a big blue square grows on a black background",
        "seed": 2**64 - 1,
        "num_frames": 9,
        "num_inference_steps": [1, 2, 3],
        "video_num_inference_steps": [2, 1, 1],
        "guidance_decay": 0.5,
        "attention": "prefix",
    },
    "unguided": {
        "prompt": "green star",
        "seed": 0,
        "num_frames": 5,
        "num_inference_steps": 2,
        "video_num_inference_steps": 2,
        "guidance_scale": 0.0,
        "video_guidance_scale": 0.0,
        "attention": "prefix",
    },
    "reference": {
        "prompt": "a yellow triangle moves down on a grey background",
        "seed": 7,
        "num_frames": 5,
        "attention": "reference",
    },
}


def make_clip(name: str) -> Clip:
    """One of `CLIPS`, on the CPU."""
    return generate(**CLIPS[name], device="cpu", progress=False)


def read_manifests() -> dict[str, dict[str, Any]]:
    """The golden manifests by name; none if there is no file yet."""
    return json.loads(MANIFESTS.read_text(encoding="utf-8")) if MANIFESTS.is_file() else {}


def read_frames(name: str) -> Frames:
    """The golden frames of a clip, (T, H, W, 3) uint8."""
    strip = iio.imread(GOLDEN / f"tiny-{name}.png")
    height = strip.shape[0]
    return strip.reshape(height, -1, height, 3).swapaxes(0, 1)


def explain(golden: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which stage moved first, in causal order, and how the environments differ; empty if none moved."""
    moved = first_difference(
        (compare_weights(golden["weights"], now["weights"]), *compare_results(golden, now))
    )
    if moved is None:
        return ""
    fields = [
        f"  {each.field}: {each.a!r} then, {each.b!r} now"
        for each in fingerprint_differences(golden["environment"], now["environment"])
    ]
    where = "\n".join(fields) or "  none: the code, or something that is not recorded, has changed"
    return (
        f"the first stage that moved is {moved.stage}, {moved.note}\ndifferences of the environment:\n{where}"
    )


def compare() -> None:
    """Print how far the golden frames are from what this machine makes; nothing is written."""
    for name in CLIPS:
        difference = np.abs(make_clip(name).frames.astype(int) - read_frames(name))
        share = 100_000 * np.count_nonzero(difference) / difference.size
        print(f"{name}: {share:.1f} of 100,000 values differ, by at most {difference.max()}")


def renew() -> None:
    """Renew both files of every clip, and print what changed."""
    before, manifests = read_manifests(), {}
    for name in CLIPS:
        clip = make_clip(name)
        manifests[name] = without_timings(clip.manifest)
        strip = np.concatenate(list(clip.frames), axis=1)
        with replacing(GOLDEN / f"tiny-{name}.png", overwrite=True) as temporary:
            iio.imwrite(temporary, strip, extension=".png")
        was = before.get(name)
        print(f"{name}: {'new' if was is None else explain(was, manifests[name]) or 'as it was'}")
    with replacing(MANIFESTS, overwrite=True) as temporary:
        temporary.write_text(json.dumps(manifests, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compare", action="store_true", help="write nothing, say how far the frames are")
    if parser.parse_args().compare:
        compare()
    else:
        renew()


if __name__ == "__main__":
    main()
