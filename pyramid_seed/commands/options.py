"""Options, parsing and printing that several commands share."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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


def output_options(options: argparse.Namespace) -> dict[str, bool]:
    """The output options given, as arguments of `Clip.save`."""
    return {
        "lossless": options.lossless,
        "overwrite": options.overwrite,
        "sidecar": options.sidecar,
        "metadata": not options.no_metadata,
        "keep_latents": options.keep_latents,
    }


def frame_file(path: Path, options: argparse.Namespace) -> AbstractContextManager[FrameFile | None]:
    """Where a clip's frames go while it is made; None for formats that need all frames at once."""
    from ..media.frame_file import FrameFile

    if path.suffix.lower() != ".mp4":
        return nullcontext()
    return FrameFile(path, lossless=options.lossless)


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the preset and values that replace its own."""
    group = parser.add_argument_group("settings", "default: the preset's")
    group.add_argument(
        "--preset", metavar="NAME", help="a preset, or your .yaml (default: the model's own, or tiny)"
    )
    for field in SETTINGS.values():
        add_field(group, field)


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that were given on the command line."""
    given = {name: words for name in SETTINGS if (words := getattr(options, name)) is not None}
    values = {
        name: SETTINGS[name].parse(words if isinstance(words, str) else " ".join(words))
        for name, words in given.items()
    }
    return Settings(**values)  # type: ignore[typeddict-item]


def chosen_settings(options: argparse.Namespace, image: Image | None = None) -> Preset:
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
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    if not many:
        _add_low_memory(group)
    if many:
        group.add_argument(
            "--num-processes",
            type=int,
            metavar="N",
            help="refuse to run if the launcher started another number of processes",
        )


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
    group.add_argument(
        "--image", type=Path, metavar="FILE", help="the first frame that the clip was made from"
    )
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
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def again_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options given, as arguments of `extend` and `verify`; without the image."""
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


def quiet_loading() -> None:
    """Hide the progress bars of loading weights, which takes seconds; download bars stay."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()


def say(name: str, value: object) -> None:
    """Print a line of a two-column table; control characters are escaped."""
    print(f"{name:11} {printable_lines(str(value))}")


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
    with frame_file(path, options) as sink:
        clip = make(sink)
        if processes is not None and not processes.is_first:
            return 0
        saved = clip.save(path, **output_options(options))
    tell(clip, saved)
    return 0


def tell(clip: Clip, saved: Path) -> None:
    """Print what was made."""
    facts = clip.frame_facts
    say("model", clip.source and clip.source.description)
    say("preset", clip.settings.name)
    say("seed", clip.seed)
    say("digest", clip.digest)
    say("frames", f"{facts.num_frames} of {facts.height}x{facts.width}")
    say("time", f"{clip.load_seconds:.1f} s to load, {clip.seconds:.1f} s to generate")
    say("file", saved)


def tell_clips(summary: BatchSummary) -> None:
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
