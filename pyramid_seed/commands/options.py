"""Options, parsing and printing that several commands share."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..batch.worker import BatchSummary
    from ..clip import Clip
    from ..media.frame_file import FrameFile
    from ..presets import Settings
    from ..provenance.diff import Step

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SEED_LIMIT = 2**64


def add_output_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Options that say what is written."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=".mp4, .gif, .webp, .png, or a folder of .png; only .mp4 has the manifest inside "
        f"(default: {default})",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what exists")
    group.add_argument("--lossless", action="store_true", help="keep every bit (.mp4 or .webp)")
    group.add_argument(
        "--sidecar", action="store_true", help="write the manifest beside FILE as well, as .json"
    )
    group.add_argument("--no-metadata", action="store_true", help="write no manifest")
    group.add_argument(
        "--keep-latents", action="store_true", help="write the latents beside FILE, to extend the clip from"
    )


def output_options(options: argparse.Namespace) -> dict[str, bool]:
    """What was given of them, as `Clip.save` calls it."""
    return {
        "lossless": options.lossless,
        "overwrite": options.overwrite,
        "sidecar": options.sidecar,
        "metadata": not options.no_metadata,
        "keep_latents": options.keep_latents,
    }


def frame_file(path: Path, options: argparse.Namespace) -> AbstractContextManager[FrameFile | None]:
    """Where a clip's frames go as they are made; None for formats that are written of all frames at once."""
    from ..media.frame_file import FrameFile

    if path.suffix.lower() != ".mp4":
        return nullcontext()
    return FrameFile(path, lossless=options.lossless)


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Options for the preset and for values that replace the preset's."""
    group = parser.add_argument_group("settings", "default: the preset's")
    group.add_argument(
        "--preset", default="tiny", metavar="NAME", help="a preset, or your .yaml (default: tiny)"
    )
    group.add_argument("--model", help="folder or hub id of a checkpoint, or embedded:tiny")
    group.add_argument("--variant", help="384p, 768p or image: which transformer of the checkpoint")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the model")
    group.add_argument("--negative-prompt", metavar="TEXT", help="what not to show; needs guidance above 1")
    group.add_argument("--prompt-suffix", metavar="TEXT", help="appended to the prompt")
    multiple = "a multiple of 32 for tiny, of 64 for the published models"
    group.add_argument("--height", type=int, metavar="PIXELS", help=multiple)
    group.add_argument("--width", type=int, metavar="PIXELS", help="the same")
    group.add_argument(
        "--num-frames", type=int, metavar="N", help="4k + 1 for tiny, 8k + 1 for the published models"
    )
    group.add_argument("--fps", type=float, metavar="N", help="frames a second of the file")
    steps = "one number for all stages, or one a stage"
    group.add_argument("--num-inference-steps", type=int, nargs="+", metavar="N", help=f"first unit: {steps}")
    group.add_argument("--video-num-inference-steps", type=int, nargs="+", metavar="N", help="later units")
    group.add_argument("--guidance-scale", type=float, metavar="X", help="first unit; at most 1 means none")
    group.add_argument("--video-guidance-scale", type=float, metavar="X", help="later units")
    group.add_argument(
        "--guidance-decay",
        type=float,
        metavar="X",
        help="in place of --video-guidance-scale: lower guidance by X with every unit",
    )
    group.add_argument("--min-guidance-scale", type=float, metavar="X", help="the floor of that")
    group.add_argument("--max-sequence-length", type=int, metavar="N", help="tokens of the prompt")
    group.add_argument("--scale", type=int, metavar="N", help="show every pixel as N x N pixels in the file")


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that were given on the command line."""
    from ..presets import Settings

    given: dict[str, Any] = {name: getattr(options, name, None) for name in Settings.__annotations__}
    for name in ("num_inference_steps", "video_num_inference_steps"):
        if given[name] is not None and len(given[name]) == 1:
            given[name] = given[name][0]
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]


def add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options that say where and how to run, and change no setting of the clip."""
    group = parser.add_argument_group("running")
    group.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    group.add_argument(
        "--noise-device", default="cpu", metavar="DEVICE", help="where noise is drawn (default: cpu)"
    )
    group.add_argument(
        "--determinism",
        choices=("strict", "relaxed"),
        default="strict",
        help="strict: the same bits on every run, or an error; relaxed: kernels chosen for speed "
        "(default: strict)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    return group


def add_path_options(group: argparse._ArgumentGroup) -> None:
    """Options that say how the transformer computes."""
    group.add_argument(
        "--attention",
        choices=("prefix", "reference"),
        default="prefix",
        help="without a mask, or with one as in the original (default: prefix)",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the transformer: slow to begin, then faster"
    )


def add_text_encoders_option(group: argparse._ArgumentGroup, choices: Sequence[str]) -> None:
    """Memory: what becomes of the text encoders after use."""
    group.add_argument(
        "--text-encoders",
        choices=choices,
        default="keep",
        help="once the text is encoded: leave the encoders where they are, move them to the CPU"
        + (", or give their memory back" if "free" in choices else "")
        + " (default: keep)",
    )


def add_launch_option(group: argparse._ArgumentGroup) -> None:
    """The number of processes that the launcher is to have started."""
    group.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="refuse to run if the launcher started another number of processes",
    )


def add_clip(parser: argparse.ArgumentParser) -> None:
    """The clip that a command reads."""
    parser.add_argument("clip", type=Path, metavar="CLIP", help="a clip with a manifest, in it or beside it")


def add_again_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that make a saved clip again."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--model", metavar="FOLDER", help="where the weights are; needed if they came from a folder"
    )
    group.add_argument("--image", type=Path, metavar="FILE", help="the first frame, if one was given")
    group.add_argument(
        "--lora", type=Path, metavar="FILE", nargs="+", default=[], help="the LoRAs, if it was made with some"
    )
    group.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def root_seed(text: str) -> int:
    """A root seed; argparse shows the error."""
    if not text.isdecimal() or int(text) >= SEED_LIMIT:
        raise argparse.ArgumentTypeError(f"seed must be a whole number in 0 .. 2^64 - 1, got {text!r}")
    return int(text)


def open_image(path: Path | None) -> Image | None:
    """The picture in a file, if one was given."""
    from ..media.images import open_picture

    return None if path is None else open_picture(path)


def quiet_loading() -> None:
    """Hide the bars of loading weights into memory, which takes seconds; bars of downloads stay."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()


def say(name: str, value: object) -> None:
    """Print a line of a table of two columns."""
    print(f"{name:11} {value}")


def say_step(step: Step) -> None:
    """Print how one step of a comparison ended."""
    say(step.stage, f"{step.status}: {step.note}")


def tell(clip: Clip, saved: Path) -> None:
    """Print what was made."""
    say("model", clip.source and clip.source.description)
    say("seed", clip.seed)
    say("digest", clip.digest)
    say("frames", clip.frame_facts.size.replace(" frames", "", 1))
    say("time", f"{clip.load_seconds:.1f} s to load, {clip.seconds:.1f} s to generate")
    say("file", saved)


def tell_clips(summary: BatchSummary) -> None:
    """Print what failed of a batch, and how many clips there are of each kind."""
    for name, reason in summary.failed.items():
        print(f"failed  {name}: {reason}", file=sys.stderr)
    counts = {
        "made": summary.made,
        "there already": summary.found,
        "failed": len(summary.failed),
        "missing": summary.missing,
        "listed twice": summary.duplicates,
    }
    say("clips", ", ".join(f"{count} {what}" for what, count in counts.items() if count))


def tell_how_to_go_on(summary: BatchSummary) -> None:
    """Print the command to run again if not every clip of a batch is there."""
    if summary.status:
        what = "stopped" if summary.signal is not None else "to try again what failed"
        say(what, f"run the same command again:\n  {shlex.join(sys.orig_argv)}")
