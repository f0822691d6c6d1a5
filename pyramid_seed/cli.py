"""The command line: `pyramid-seed COMMAND`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

    from .presets import Settings

SEED_LIMIT = 2**64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a negative answer, 2 it could not be done."""
    # Read by cuBLAS when it starts; strict determinism needs it, and torch is not imported yet.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = build_parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"pyramid-seed {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pyramid-seed {options.command}: stopped, nothing was written", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="pyramid-seed",
        description="Text-to-video for Pyramid-Flow models: the same prompt and seed, the same clip.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_generate(commands)
    _add_presets(commands)
    return parser


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "generate",
        help="make one clip from a prompt",
        description="Make one clip from a prompt and write it to a file.",
        epilog='example: pyramid-seed generate "a red circle moves to the right" --seed 42 -o circle.mp4',
    )
    parser.set_defaults(run=run_generate)
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="root seed, 0 .. 2^64 - 1 (default: drawn, shown)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=".mp4, .gif, .webp or .png (default: an .mp4 named after prompt and seed)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--image", type=Path, metavar="FILE", help="first frame, in the clip's size")
    parser.add_argument("--lossless", action="store_true", help="keep every bit (.mp4 or .webp)")
    add_setting_options(parser)
    add_run_options(parser)


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Options for the preset and for values that replace the preset's."""
    group = parser.add_argument_group("settings", "default: the preset's")
    group.add_argument(
        "--preset", default="tiny", metavar="NAME", help="a preset, or your .yaml (default: tiny)"
    )
    group.add_argument("--model", help="folder or hub id of a checkpoint, or embedded:tiny")
    group.add_argument("--variant", help="384p, 768p or image: which transformer of the checkpoint")
    group.add_argument("--dtype", choices=("float32", "bfloat16"))
    group.add_argument("--negative-prompt", metavar="TEXT")
    group.add_argument("--prompt-suffix", metavar="TEXT", help="appended to the prompt")
    group.add_argument("--height", type=int, metavar="PIXELS")
    group.add_argument("--width", type=int, metavar="PIXELS")
    group.add_argument("--num-frames", type=int, metavar="N")
    group.add_argument("--fps", type=float, metavar="N", help="frames a second of the file")
    steps = "one number for all stages, or one a stage"
    group.add_argument("--num-inference-steps", type=int, nargs="+", metavar="N", help=f"first unit: {steps}")
    group.add_argument("--video-num-inference-steps", type=int, nargs="+", metavar="N", help="later units")
    group.add_argument("--guidance-scale", type=float, metavar="X", help="first unit; at most 1 means none")
    group.add_argument("--video-guidance-scale", type=float, metavar="X", help="later units")
    group.add_argument(
        "--guidance-decay", type=float, metavar="X", help="lower guidance by X with every unit"
    )
    group.add_argument("--min-guidance-scale", type=float, metavar="X", help="the floor of that")
    group.add_argument("--max-sequence-length", type=int, metavar="N", help="tokens of the prompt")
    group.add_argument("--scale", type=int, metavar="N", help="show every pixel as N x N pixels in the file")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how to run, and change no setting of the clip."""
    group = parser.add_argument_group("running")
    group.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    group.add_argument(
        "--noise-device", default="cpu", metavar="DEVICE", help="where noise is drawn (default: cpu)"
    )
    group.add_argument(
        "--determinism", choices=("strict", "relaxed"), default="strict", help="(default: strict)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that were given on the command line."""
    from .presets import Settings

    given: dict[str, Any] = {name: getattr(options, name, None) for name in Settings.__annotations__}
    for name in ("num_inference_steps", "video_num_inference_steps"):
        if given[name] is not None and len(given[name]) == 1:
            given[name] = given[name][0]
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]


def run_generate(options: argparse.Namespace) -> int:
    """`pyramid-seed generate`."""
    from .runs.files import check_free
    from .runs.video import check_ending

    if options.output is not None:
        check_ending(options.output)
        check_free(options.output, overwrite=options.overwrite)
    elif options.seed is not None:
        check_free(Path(default_name(options.prompt, options.seed)), overwrite=options.overwrite)
    image = None if options.image is None else open_image(options.image)

    from .api import generate

    clip = generate(
        options.prompt,
        seed=options.seed,
        preset=options.preset,
        image=image,
        device=options.device,
        noise_device=options.noise_device,
        determinism=options.determinism,
        progress=not options.quiet,
        **settings_from(options),
    )
    path = options.output or Path(default_name(options.prompt, clip.seed))
    saved = clip.save(path, lossless=options.lossless, overwrite=options.overwrite)
    frames, height, width, _ = clip.frames.shape
    _say("seed", clip.seed)
    _say("digest", clip.digest)
    _say("frames", f"{frames} of {height}x{width}")
    _say("time", f"{clip.load_seconds:.1f} s to load, {clip.seconds:.1f} s to generate")
    _say("file", saved)
    return 0


def _add_presets(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("presets", help="list the presets", description="List the presets.")
    parser.set_defaults(run=run_presets)


def run_presets(options: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes its options
    """`pyramid-seed presets`."""
    from .presets import list_presets, load_preset

    for name in list_presets():
        preset = load_preset(name)
        size = f"{preset.height}x{preset.width}, {preset.num_frames} frames at {preset.fps:g} fps"
        print(f"{name:16} {size:32} {preset.model}")
        print(f"{'':16} {preset.description}")
    return 0


def default_name(prompt: str, seed: int) -> str:
    """A file name made of prompt and seed, safe on every system."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60].strip("-") or "clip"
    return f"{words}_seed{seed}.mp4"


def open_image(path: Path) -> Image:
    """The picture in a file, as RGB.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that can be read; use PNG, JPEG or WebP") from error


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= SEED_LIMIT:
        raise argparse.ArgumentTypeError(f"seed must be a whole number in 0 .. 2^64 - 1, got {text!r}")
    return int(text)


def _say(name: str, value: object) -> None:
    print(f"{name:7} {value}")
