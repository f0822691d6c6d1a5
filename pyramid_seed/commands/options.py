"""Options, parsing and printing that several commands share."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checks import check_choice
from ..choices import LIST_FORMATS
from ..extras import check_extra
from ..fields import Field
from ..loras import named_loras
from ..presets import SETTINGS, Preset, Settings, gives_size, load_preset, named_settings, with_size
from ..run_options import RUN_OPTIONS, RunOptions
from ..seeds import parse_root
from ..texts import printable, printable_lines

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..batch.summary import BatchSummary, GatherSummary
    from ..clip import Clip
    from ..media.frame_file import FrameFile
    from ..media.given_video import GivenVideo
    from ..media.labels import VisibleLabel
    from ..pieces.processes import Processes
    from ..provenance.diff import Step

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_output_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare the options for the files to write."""
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
    group.add_argument("--lossless", action="store_true", help="lossless file (.mp4 or .webp)")
    group.add_argument(
        "--sidecar", action="store_true", help="write the manifest beside FILE as well, as .json"
    )
    group.add_argument("--no-metadata", action="store_true", help="write no manifest")
    group.add_argument(
        "--keep-latents",
        action="store_true",
        help="write the latents beside FILE: `extend` starts from them, `verify --sample` needs them",
    )
    group.add_argument(
        "--label",
        nargs="+",
        metavar=("aigc", "FIELD=VALUE"),
        help="write the implicit label of GB 45438-2025 into the .mp4: aigc ContentProducer=... "
        "ProduceID=..., see docs/labels.md",
    )
    group.add_argument(
        "--visible-label",
        metavar="TEXT",
        help="draw TEXT over the first 3 seconds of the .mp4, in its upper left corner",
    )
    group.add_argument(
        "--label-font",
        type=Path,
        metavar="FILE",
        help="font of TEXT (default: Pillow's, which has ASCII characters only)",
    )


def output_options(options: argparse.Namespace) -> dict[str, Any]:
    """The output options given, as arguments of `Clip.save`; ValueError if a label is impossible."""
    return {
        "lossless": options.lossless,
        "overwrite": options.overwrite,
        "sidecar": options.sidecar,
        "metadata": not options.no_metadata,
        "keep_latents": options.keep_latents,
        "aigc": _aigc_from(options.label),
        "visible_label": visible_label_from(options),
    }


def _aigc_from(words: Sequence[str] | None) -> dict[str, str] | None:
    """The fields of `--label aigc FIELD=VALUE ...`."""
    from ..media.labels import aigc_fields

    if words is None:
        return None
    kind, *fields = words
    check_choice("--label", kind, ("aigc",))
    given: dict[str, str] = {}
    for word in fields:
        name, equals, value = word.partition("=")
        if not equals or name in given:
            raise ValueError(f"--label aigc takes each field once, as FIELD=VALUE, got {word!r:.80}")
        given[name] = value
    return aigc_fields(given)


def visible_label_from(options: argparse.Namespace) -> VisibleLabel | None:
    """The text to draw, and its font; ValueError if it cannot be drawn, or if there is a font alone."""
    from ..media.labels import VisibleLabel

    if options.visible_label is not None:
        return VisibleLabel(options.visible_label, options.label_font)
    if options.label_font is not None:
        raise ValueError("--label-font is the font of --visible-label TEXT; give both, or neither")
    return None


def frame_file(path: Path, options: argparse.Namespace) -> AbstractContextManager[FrameFile | None]:
    """Where a clip's frames go while it is made; None for formats that need all frames at once."""
    from ..media.frame_file import FrameFile

    if path.suffix.lower() != ".mp4":
        return nullcontext()
    return FrameFile(
        path,
        smooth=not options.lossless,
        lossless=options.lossless,
        visible_label=visible_label_from(options),
    )


def add_folder(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    """Declare the folder that a command writes to, which must be given if there is no default."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=default is None,
        default=default and Path(default),
        metavar="FOLDER",
        help=what if default is None else f"{what} (default: {default})",
    )


def add_setting_options(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Declare the options for the preset and values that replace its own.

    Args:
        parser: the command's.
        without: settings that the command takes as arguments of these names.
    """
    group = parser.add_argument_group("settings", "default: the preset's")
    group.add_argument(
        "--preset", metavar="NAME", help="a preset, or your .yaml (default: the model's own, or tiny)"
    )
    for name, field in SETTINGS.items():
        if name not in without:
            add_field(group, field)


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that were given on the command line."""
    given = {name: words for name in SETTINGS if (words := getattr(options, name)) is not None}
    values = {
        name: SETTINGS[name].parse(words if isinstance(words, str) else " ".join(words))
        for name, words in given.items()
    }
    return Settings(**values)  # type: ignore[typeddict-item]


def chosen_settings(options: argparse.Namespace, image: Image | GivenVideo | None = None) -> Preset:
    """The settings of a clip; if they depend on its model, the model's files are read."""
    given = settings_from(options)
    preset = None if options.preset is None else load_preset(options.preset)
    if image is not None and gives_size(given, preset):
        given = with_size(given, image.height, image.width)
    if (named := named_settings(preset, given)) is not None:
        return named
    from .. import model_presets  # slow to import
    from ..shared_pipeline import shared_pipeline

    return model_presets.chosen_settings(None, given, shared_pipeline.source)


def add_run_options(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """Declare the options for where and how to run, which change no setting of the clip.

    Args:
        parser: the command's.
        many: whether it makes many clips, on many processes; the encoders are then needed again.
    """
    group = parser.add_argument_group("running")
    for name, field in RUN_OPTIONS.items():
        is_limited = many and name == "text_encoders"
        add_field(group, replace(field, choices=("keep", "offload")) if is_limited else field)
    add_quiet(group)
    if not many:
        _add_low_memory(group)
    if many:
        group.add_argument(
            "--num-processes",
            type=int,
            metavar="N",
            help="refuse to run if the launcher started another number of processes",
        )


def add_many_options(parser: argparse.ArgumentParser, *loras: str, without: Collection[str] = ()) -> None:
    """Declare LoRAs, settings and run options of a command that makes many clips, see `many_arguments`."""
    add_lora_option(parser, *loras)
    add_setting_options(parser, without=without)
    add_run_options(parser, many=True)


def many_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The options given, as arguments of all functions that make many clips, such as `run_batch`."""
    return {
        "preset": options.preset,
        "loras": loras_from(options),
        "lossless": options.lossless,
        "num_processes": options.num_processes,
        "progress": not options.quiet,
        **run_options_from(options).arguments(),
        **settings_from(options),
    }


def add_quiet(group: argparse._ActionsContainer) -> None:
    """Declare --quiet."""
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, and no advice at the end")


def run_options_from(options: argparse.Namespace) -> RunOptions:
    """The same options, parsed."""
    given = {name: value for name in RUN_OPTIONS if (value := getattr(options, name)) is not None}
    if "workers" in given:
        given["workers"] = workers_from(options)
    return RunOptions(**given)


def workers_from(options: argparse.Namespace) -> int | None:
    """How many threads may compute; ValueError if it is not a number, or not a possible one."""
    field = RUN_OPTIONS["workers"]
    return None if options.workers is None else field.decode(field.parse(options.workers))


def add_field(group: argparse._ActionsContainer, field: Field) -> None:
    """Declare the option for a described field."""
    default = f" (default: {field.default})" if isinstance(field.default, str) and field.default else ""
    if isinstance(field.default, bool):
        group.add_argument(field.option, action="store_true", help=field.help)
        return
    group.add_argument(
        field.option,
        choices=field.choices or None,
        metavar=None if field.choices else field.metavar,
        nargs="+" if field.is_several else None,
        help=field.help + default,
    )


def add_lora_option(
    parser: argparse.ArgumentParser, what: str = "LoRAs to load into the transformer"
) -> None:
    """Declare the option for LoRAs; `loras_from` reads them."""
    parser.add_argument(
        "--lora",
        metavar="FILE[:SCALE]",
        nargs="+",
        action="extend",
        default=[],
        help=f"{what} (default SCALE: 1.0); needs the extra `lora`",
    )


def loras_from(options: argparse.Namespace) -> dict[str | Path, float]:
    """File and scale of each; raises ValueError as `named_loras` does, or if the extra is missing."""
    if options.lora:
        check_extra("lora", "peft")
    return named_loras(options.lora)


def add_clip(parser: argparse.ArgumentParser) -> None:
    """Declare the clip that a command reads."""
    parser.add_argument(
        "clip", type=named_path, metavar="CLIP", help="a clip with a manifest, in it or beside it"
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare whose word counts for the signer of a clip."""
    parser.add_argument(
        "--trust",
        type=named_path,
        metavar="FILE",
        help="certificates (PEM): the clip must be signed, and one of these must vouch for the signer",
    )


def named_path(text: str) -> Path:
    """A path that is not empty: "" would mean the current folder; argparse shows the error."""
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    return Path(text)


def add_list(parser: argparse.ArgumentParser, *, is_needed: bool = True) -> None:
    """Declare the list that a command reads, and its format."""
    parser.add_argument(
        "prompts",
        nargs=None if is_needed else "?",
        metavar="LIST",
        help="one prompt per line (.txt), or rows with settings (.jsonl, .csv, .yaml); - is standard input",
    )
    parser.add_argument(
        "--format",
        choices=LIST_FORMATS,
        help="of LIST (default: by its ending; standard input: txt)",
    )


def add_again_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that make a saved clip again."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--model", metavar="FOLDER", help="where the weights are; needed if they came from a folder"
    )
    add_given_options(group, "the image that the clip was made from", "the video that it was made from")
    group.add_argument(
        "--lora",
        type=Path,
        metavar="FILE",
        nargs="+",
        action="extend",
        default=[],
        help="the LoRAs that the clip was made with",
    )
    for name in ("device", "workers", "prompt_embeds"):
        add_field(group, RUN_OPTIONS[name])
    _add_low_memory(group)
    add_quiet(group)


def add_given_options(parser: argparse._ActionsContainer, image: str, video: str) -> None:
    """Declare the files of what a clip begins with, of which one can be given; with the help of each."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--image", type=Path, metavar="FILE", help=image)
    one.add_argument("--video", type=Path, metavar="FILE", help=video)


def given_from(options: argparse.Namespace) -> dict[str, Any]:
    """What is in these files, as arguments `image` and `video` of `generate`, `extend` and others."""
    from ..media.given_video import opened_video

    video = None if options.video is None else opened_video(options.video)
    return {"image": open_image(options.image), "video": video}


def again_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options given, as arguments of `extend` and `verify`; without those of `given_from`."""
    return {
        "model": options.model,
        "loras": options.lora,
        "device": options.device,
        "workers": workers_from(options),
        "prompt_embeds": options.prompt_embeds,
        "text_encoders": options.text_encoders or RunOptions().text_encoders,
        "progress": not options.quiet,
    }


def _add_low_memory(group: argparse._ActionsContainer) -> None:
    """Declare --low-memory, the everyday name for freeing the text encoders."""
    group.add_argument(
        "--low-memory",
        dest="text_encoders",
        action="store_const",
        const="free",
        help="encode the text first, then replace the text encoders by the rest of the model: the same clip, "
        "in the memory of the larger half",
    )


def root_seed(text: str) -> int:
    """A root seed; argparse shows the error."""
    try:
        return parse_root(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def open_image(path: Path | None) -> Image | None:
    """The image in a file, if one was given."""
    from ..media.images import open_image

    return None if path is None else open_image(path)


def say_start(options: argparse.Namespace) -> None:
    """Say on standard error that a command has begun, before imports that take seconds."""
    if not getattr(options, "quiet", False) and os.environ.get("RANK", "0") == "0":
        print(f"pyramid-seed {options.command}: loading torch and diffusers", file=sys.stderr, flush=True)


def say(name: str, value: object) -> None:
    """Print a line of a two-column table; control characters are escaped."""
    print(f"{name:11} {printable_lines(str(value))}")


def say_time(options: argparse.Namespace, parts: str = "") -> None:
    """Print the time since the command was started, with Python's own start and all imports."""
    say("time", f"{time.monotonic() - options.started:.1f} s{parts}")


def say_step(step: Step) -> None:
    """Print the result of one step of a comparison."""
    say(step.stage, f"{step.status}: {step.note}")


def save_made(
    path: Path,
    options: argparse.Namespace,
    processes: Processes | None,
    make: Callable[[FrameFile | None], Clip],
) -> int:
    """Make a clip, whose frames go into a sink if the file can have one, save it and print what was made.

    Returns:
        The exit status. Of the processes that make the clip together, only the first one saves it.
    """
    from ..media.video import is_lossless

    with frame_file(path, options) as sink:
        clip = make(sink)
        if processes is not None and not processes.is_first:
            return 0
        smooth = not is_lossless(path.suffix.lower(), lossless=options.lossless)
        saved = clip.save(path, smooth=smooth, **output_options(options))
    tell(clip, saved, options)
    return 0


def tell(clip: Clip, saved: Path, options: argparse.Namespace) -> None:
    """Print what was made."""
    facts = clip.frame_facts
    say("model", clip.source and clip.source.description)
    say("preset", clip.settings.name)
    say("seed", clip.seed)
    say("digest", clip.digest)
    say("frames", f"{facts.num_frames} of {facts.height}x{facts.width}")
    parts = f"{clip.load_seconds:.1f} s of it to load the model, {clip.seconds:.1f} s to generate"
    say_time(options, f", {parts}")
    say("file", saved)


def tell_clips(summary: BatchSummary, options: argparse.Namespace) -> None:
    """Print the failures of a batch, and how many clips there are of each kind."""
    _tell_failed(summary.failed)
    counts = {
        "made": summary.made,
        "there already": summary.found,
        "failed": len(summary.failed),
        "missing": summary.missing,
        "listed twice": summary.duplicates,
    }
    say("clips", told_counts(counts))
    say_time(options)


def tell_gathered(summary: GatherSummary) -> None:
    """Print the failures in a batch's parts, how many clips exist, and which parts to run again."""
    from ..batch.part import part_ranges

    _tell_failed(summary.failed)
    counts = {"there": summary.found, "failed": len(summary.failed), "missing": summary.missing}
    say("clips", told_counts(counts))
    if summary.parts:
        say("run again", f"{part_ranges(summary.parts)} (there are {summary.num_parts} parts, from 0)")


def told_counts(counts: Mapping[str, int]) -> str:
    """Counts by what they are of, without those that are 0, in words."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "none"


def _tell_failed(reasons: Mapping[str, str]) -> None:
    for name, reason in reasons.items():
        print(printable(f"failed  {name}: {reason}"), file=sys.stderr)


def tell_how_to_go_on(summary: BatchSummary) -> None:
    """Print the command to run again if a batch is incomplete."""
    if summary.status:
        what = "stopped" if summary.signal is not None else "to try again what failed"
        say(what, f"run the same command again:\n  {shlex.join(sys.orig_argv)}")
