"""`pyramid-seed compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..texts import counted
from .diff import tell_difference
from .options import Commands, named_path, say

if TYPE_CHECKING:
    from ..explore.compare import ComparedClips, FrameDifference
    from ..explore.stored import StoredClip


_FPS = 8.0  # for videos from folders of images, which have no rate


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "compare",
        help="compare two clips by their pixels, with pictures",
        description="Compare the pixels that two clips show, frame by frame, and write a folder: A, B and "
        "their difference side by side, the difference alone, a curve over the frames, and the numbers as "
        "JSON. Then compare the manifests, where there are any. `diff` does only that last part: it reads "
        "no pixels. Needs the extra `report`.",
        epilog="exit status: 0 all shown pixels are equal, 1 they differ, 2 an error",
    )
    parser.set_defaults(run=run)
    kinds = ".mp4, .gif, .webp, .png or a folder of .png"
    parser.add_argument("a", type=named_path, metavar="A", help=f"a clip: {kinds}")
    parser.add_argument("b", type=named_path, metavar="B", help="another one of the same height and width")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="(default: compare-A-B, after the clips' names)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the folder of an earlier comparison"
    )
    parser.add_argument(
        "--gain",
        type=_gain,
        metavar="N",
        help="show the difference N times as strong (default: so that the largest is just not clipped)",
    )


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed compare`."""
    from ..extras import check_extra

    check_extra("report", "skimage", "matplotlib")

    from ..explore.compare import compare_clips
    from ..explore.compare_report import FILES, check_folder, write_report
    from ..explore.stored import read_clip
    from ..media.frames import gain_for

    folder = options.output or Path(f"compare-{options.a.stem}-{options.b.stem}")
    check_folder(folder, overwrite=options.overwrite)
    clips = compare_clips(read_clip(options.a), read_clip(options.b))
    gain = options.gain or gain_for(clips.pixels.farthest.largest)
    fps = clips.a.fps or clips.b.fps or _FPS
    write_report(folder, clips, gain=gain, fps=fps, overwrite=options.overwrite)

    _tell_clip("A", clips.a)
    _tell_clip("B", clips.b)
    _tell_pixels(clips)
    say("gain", f"the pictures show the difference {gain} times as strong")
    say("written", f"{folder}: {', '.join(FILES)}")
    _tell_manifests(clips)
    return 0 if clips.pixels.is_equal else 1


def _gain(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 255):
        raise argparse.ArgumentTypeError(f"gain must be a whole number in 1 .. 255, got {text!r}")
    return int(text)


def _tell_clip(name: str, clip: StoredClip) -> None:
    from ..explore.stored import shows_its_frames

    count, height, width, _ = clip.frames.shape
    rate = "" if clip.fps is None else f" at {clip.fps:g} fps"
    say(name, f"{clip.path}: {counted(count, 'frame')} of {height}x{width}{rate}")
    if clip.manifest is None:
        return
    if shows_its_frames(clip):
        say("", "shows the frames of its manifest, bit for bit")
    elif clip.manifest.get("file", {}).get("lossless"):
        say("", "does not show the frames of its manifest: ask `pyramid-seed verify`")
    else:
        say("", "is a lossy file: what it shows is compared, not the frames that its manifest describes")


def _tell_pixels(clips: ComparedClips) -> None:
    pixels = clips.pixels

    def where(difference: FrameDifference) -> str:
        frame, unit = difference.frame, clips.unit_of(difference.frame)
        return f"frame {frame}" if unit is None else f"frame {frame} (unit {unit})"

    count = len(pixels.frames)
    if pixels.lengths[0] != pixels.lengths[1]:
        say(
            "compared", f"only the first {count} frames: A has {pixels.lengths[0]}, B has {pixels.lengths[1]}"
        )
    if pixels.first is None:
        more = "" if pixels.is_equal else "; the longer clip goes on"
        print(f"PIXELS EQUAL in all {count} frames{more}")
        return
    differing = sum(frame.largest > 0 for frame in pixels.frames)
    farthest, least_alike = pixels.farthest, min(pixels.frames, key=lambda frame: frame.ssim)
    say("first", where(pixels.first))
    say("largest", f"{farthest.largest} of 255 levels, in {where(farthest)}")
    say("worst", f"SSIM {least_alike.ssim:.4f} and PSNR {least_alike.psnr:.1f} dB, in {where(least_alike)}")
    print(f"PIXELS DIFFER in {differing} of {count} frames, first in {where(pixels.first)}")
    parting = clips.first_unit_made_otherwise
    if parting is not None and parting != clips.unit_of(pixels.first.frame):
        print(
            f"By the manifests, frames before unit {parting} are equal: "
            "what differs there is the codec's loss."
        )


def _tell_manifests(clips: ComparedClips) -> None:
    from ..texts import printable

    print()
    manifests, pixels = clips.manifests, clips.pixels
    for name, clip in (("A", clips.a), ("B", clips.b)):
        if clip.manifest is None:
            say("manifest", printable(f"{name} has none to compare: {clip.no_manifest}"))
    if manifests is None:
        return
    tell_difference(manifests)
    if pixels.is_equal and not manifests.is_same_clip:
        print("The shown pixels are equal although the recorded digests differ.")
    if manifests.is_same_clip and not pixels.is_equal:
        print("The frames were equal when they were made: the files show them differently.")
