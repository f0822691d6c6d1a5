"""The command line: `pyramid-seed COMMAND`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

    from .clip import Clip
    from .presets import Settings
    from .runs.compare import Step

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
    except Exception:  # not foreseen; a traceback of Python's own would end with 1, the negative answer
        traceback.print_exc()
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
    _add_batch(commands)
    _add_extend(commands)
    _add_show(commands)
    _add_verify(commands)
    _add_diff(commands)
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
    parser.add_argument("--image", type=Path, metavar="FILE", help="first frame, in the clip's size")
    add_output_options(parser, "an .mp4 named after prompt and seed")
    add_setting_options(parser)
    add_run_options(parser)


def add_output_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Options that say what is written."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=f".mp4, .gif, .webp or .png (default: {default})",
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


def add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
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
    return group


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
    from .noise import root_from_entropy
    from .runs.outputs import check_outputs

    seed = root_from_entropy() if options.seed is None else options.seed
    path = options.output or Path(default_name(options.prompt, seed))
    check_outputs(path, **output_options(options))
    image = None if options.image is None else open_image(options.image)

    from .api import generate

    clip = generate(
        options.prompt,
        seed=seed,
        preset=options.preset,
        image=image,
        device=options.device,
        noise_device=options.noise_device,
        determinism=options.determinism,
        progress=not options.quiet,
        **settings_from(options),
    )
    saved = clip.save(path, **output_options(options))
    _tell(clip, saved)
    return 0


def _tell(clip: Clip, saved: Path) -> None:
    frames, height, width, _ = clip.frames.shape
    _say("seed", clip.seed)
    _say("digest", clip.digest)
    _say("frames", f"{frames} of {height}x{width}")
    _say("time", f"{clip.load_seconds:.1f} s to load, {clip.seconds:.1f} s to generate")
    _say("file", saved)


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "batch",
        help="make the clips of a list, on one process or many",
        description="Make the clips of a list that are not in FOLDER yet. Run it again to go on.",
        epilog="examples: pyramid-seed batch prompts.txt -o clips   |   "
        "torchrun --nproc_per_node 2 scripts/generate_batch.py prompts.csv -o clips",
    )
    parser.set_defaults(run=run_batch_command)
    parser.add_argument(
        "prompts",
        metavar="LIST",
        help="a prompt a line (.txt), or rows with settings (.jsonl, .csv, .yaml); - is standard input",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="clips, index.jsonl, logs"
    )
    parser.add_argument(
        "--format", choices=("txt", "jsonl", "csv", "yaml"), help="of LIST (default: by its ending, or txt)"
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        nargs="+",
        default=[0],
        metavar="N",
        help="root seeds of rows that name none; a clip is made of each (default: 0)",
    )
    parser.add_argument("--lossless", action="store_true", help="keep every bit in the files")
    parser.add_argument(
        "--keep-going", action="store_true", help="make the others if some rows are bad (status 1)"
    )
    add_setting_options(parser)
    running = add_run_options(parser)
    running.add_argument(
        "--threads", type=int, default=1, metavar="N", help="of each process on the CPU (default: 1)"
    )
    running.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="refuse to run if the launcher started another number of processes",
    )


def run_batch_command(options: argparse.Namespace) -> int:
    """`pyramid-seed batch`, and `scripts/generate_batch.py` on each process of a launch."""
    from .batch import run_batch

    summary = run_batch(
        options.prompts,
        options.output,
        file_format=options.format,
        seeds=options.seed,
        preset=options.preset,
        device=options.device,
        noise_device=options.noise_device,
        determinism=options.determinism,
        threads=options.threads,
        lossless=options.lossless,
        keep_going=options.keep_going,
        num_processes=options.num_processes,
        progress=not options.quiet,
        **settings_from(options),
    )
    if not summary.is_main:
        return summary.status
    for name, reason in summary.failed.items():
        print(f"failed  {name}: {reason}", file=sys.stderr)
    counts = {
        "made": summary.made,
        "there already": summary.found,
        "failed": len(summary.failed),
        "missing": summary.missing,
        "listed twice": summary.duplicates,
    }
    _say("clips", ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    _say("index", options.output / "index.jsonl")
    if summary.status:
        what = "stopped" if summary.signal is not None else "to try again what failed"
        _say(what, f"run the same command again:\n  {shlex.join(sys.orig_argv)}")
    return summary.status


def _add_extend(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "extend",
        help="make a saved clip longer, or let it go on in another way",
        description="Go on from a saved clip: the new one begins with the same frames, bit for bit. Uses the "
        "latents kept beside it (--keep-latents), or else makes the beginning again.",
        epilog="example: pyramid-seed extend circle.mp4 --num-frames 33 --branch-seed 7 --from-frame 9",
    )
    parser.set_defaults(run=run_extend)
    _add_clip(parser)
    parser.add_argument("--num-frames", type=int, metavar="N", required=True, help="frames of the new clip")
    parser.add_argument(
        "--branch-seed", type=_seed, metavar="S", help="what follows the beginning takes this seed"
    )
    parser.add_argument(
        "--from-frame", type=int, metavar="K", help="with --branch-seed: frames that stay (default: all)"
    )
    add_output_options(parser, "the clip's name with the number of frames, and the branch's seed")
    _add_again_options(parser)


def run_extend(options: argparse.Namespace) -> int:
    """`pyramid-seed extend`."""
    from .runs.outputs import check_outputs

    clip, branch = options.clip, options.branch_seed
    ending = "" if branch is None else f"_seed{branch}"
    path = options.output or clip.with_name(f"{clip.stem}_{options.num_frames}frames{ending}{clip.suffix}")
    check_outputs(path, **output_options(options))
    image = None if options.image is None else open_image(options.image)

    from .api import extend_file

    longer = extend_file(
        clip,
        options.num_frames,
        branch_seed=branch,
        from_frame=options.from_frame,
        model=options.model,
        image=image,
        device=options.device,
        progress=not options.quiet,
    )
    _tell(longer, longer.save(path, **output_options(options)))
    return 0


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "show", help="say how a clip was made", description="Say how a clip was made: print its manifest."
    )
    parser.set_defaults(run=run_show)
    _add_clip(parser)
    parser.add_argument("--json", action="store_true", help="the whole manifest, for programs")


def run_show(options: argparse.Namespace) -> int:
    """`pyramid-seed show`."""
    from .runs.manifest import find_manifest
    from .runs.show import describe

    manifest = find_manifest(options.clip)
    if options.json:
        print(json.dumps(manifest, indent=2, sort_keys=True))
        return 0
    for name, text in describe(manifest):
        _say(name, text)
    return 0


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify",
        help="make a clip again and compare",
        description="Make a clip again from its manifest and compare: weights, text, noise, units, decoded "
        "chunks, frames, and the pixels in the file. Answers MATCH or the first difference.",
        epilog="exit status: 0 the same clip, 1 it differs, 2 it could not be made again",
    )
    parser.set_defaults(run=run_verify)
    _add_clip(parser)
    parser.add_argument(
        "--noise-only", action="store_true", help="only draw the noise again: needs no weights, takes seconds"
    )
    _add_again_options(parser)


def run_verify(options: argparse.Namespace) -> int:
    """`pyramid-seed verify`."""
    if options.noise_only:
        from .runs.verify import verify_noise

        found = verify_noise(options.clip)
    else:
        image = None if options.image is None else open_image(options.image)

        from .api import verify

        found = verify(
            options.clip, model=options.model, image=image, device=options.device, progress=not options.quiet
        )
    for step in found.steps:
        _say_step(step)
    difference = found.difference
    if difference is None:
        print("MATCH, as far as the noise goes" if options.noise_only else "MATCH")
        return 0
    print(f"DIFFERS first in {difference.stage}: {difference.note}")
    for field in found.environment:
        _say("environment", f"{field.field}: {field.a!r} then, {field.b!r} now")
    return 1


def _add_diff(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "diff",
        help="compare two clips by their manifests",
        description="What differs between two clips: settings, weights, environment, and where the runs "
        "part. Nothing is made again.",
        epilog="exit status: 0 the same clip, 1 they differ, 2 there is no manifest",
    )
    parser.set_defaults(run=run_diff)
    parser.add_argument("a", type=Path, metavar="A", help="a clip, or a manifest")
    parser.add_argument("b", type=Path, metavar="B", help="another one")


def run_diff(options: argparse.Namespace) -> int:
    """`pyramid-seed diff`."""
    from .runs.compare import compare_manifests
    from .runs.manifest import find_manifest
    from .runs.show import printable

    found = compare_manifests(find_manifest(options.a), find_manifest(options.b))
    for kind in ("settings", "weights", "environment"):
        for field in getattr(found, kind):
            _say(kind, printable(f"{field.field}: {field.a!r} | {field.b!r}"))
    for step in found.steps:
        _say_step(step)
    units = found.num_units
    if found.parting is not None:
        print(f"DIFFERENT: the runs part in {found.parting.stage}: {found.parting.note}")
    elif units[0] != units[1]:
        shorter, longer = ("A", "B") if units[0] < units[1] else ("B", "A")
        print(f"DIFFERENT: {shorter} is the beginning of {longer} ({min(units)} of {max(units)} units)")
    else:
        print("SAME CLIP")
    return 0 if found.is_same_clip else 1


def _add_clip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", type=Path, metavar="CLIP", help="a clip with a manifest, in it or beside it")


def _add_again_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--model", metavar="FOLDER", help="where the weights are; needed if they came from a folder"
    )
    group.add_argument("--image", type=Path, metavar="FILE", help="the first frame, if one was given")
    group.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def _say_step(step: Step) -> None:
    _say(step.stage, f"{step.status}: {step.note}")


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
    print(f"{name:11} {value}")
