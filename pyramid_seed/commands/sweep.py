"""`pyramid-seed sweep`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..presets import with_settings
from .options import (
    Commands,
    add_folder,
    add_many_options,
    chosen_settings,
    many_arguments,
    open_image,
    run_options_from,
    say,
    say_start,
    tell_clips,
    tell_how_to_go_on,
)

if TYPE_CHECKING:
    from ..explore.findings import Findings


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sweep",
        usage="%(prog)s PROMPT [PROMPT ...] -o FOLDER [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="try many seeds, and measure what the seed does",
        description="Make a clip of every prompt with every seed, and a page that plays and compares them.\n"
        "Clips that are in FOLDER are not made again. Needs the extra `report`.",
        epilog='examples:\n  pyramid-seed sweep "a red circle moves to the right" --seeds 0-15 -o seeds\n'
        "  torchrun --nproc_per_node 2 -m pyramid_seed sweep prompts.txt -o seeds",
    )
    parser.set_defaults(run=run)
    add_sweep_arguments(parser, "0-15")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="another sweep with these prompts and seeds: report the differences seed by seed",
    )
    group = parser.add_argument_group("the best seed")
    group.add_argument(
        "--best",
        metavar="MEASURE",
        help="make the clip of each prompt with the largest MEASURE longer, such as motion; --best=-flicker "
        "takes the smallest",
    )
    group.add_argument(
        "--extend", type=int, metavar="N", help="with --best: frames of the longer clip, in FOLDER/best"
    )
    add_many_options(parser)


def add_sweep_arguments(parser: argparse.ArgumentParser, seeds: str) -> None:
    """Declare what every sweep needs, with these seeds as the default; `sweep_arguments` reads it."""
    parser.add_argument(
        "prompts",
        nargs="+",
        metavar="PROMPT",
        help="a prompt, or a list of prompts: a .txt, .jsonl, .csv or .yaml file",
    )
    add_folder(parser, "the folder for clips/ and report/")
    parser.add_argument(
        "--seeds", default=seeds, metavar="LIST", help=f"such as 0-15 or 3,7,100-103 (default: {seeds})"
    )
    parser.add_argument(
        "--lossless",
        action="store_true",
        help="lossless files: measures are exact, and the page plays lossy copies",
    )


def sweep_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The options given, as arguments of `run_sweep` and `run_monitor`."""
    from ..explore.seeds import parse_seeds

    return {
        "seeds": parse_seeds(options.seeds),
        "prompts": _prompts(options),
        "output": options.output,
        **many_arguments(options),
    }


def _prompts(options: argparse.Namespace) -> list[str | Path]:
    """The prompts, lists as paths; ValueError for what is one prompt without quotes."""
    from ..explore.prompts import is_list

    prompts = [Path(text) if is_list(text) else text for text in options.prompts]
    if len(prompts) > 1 and not any(isinstance(prompt, Path) or " " in prompt for prompt in prompts):
        raise ValueError(
            f"got {len(prompts)} prompts of one word each; put a prompt into quotes, "
            f'"{" ".join(options.prompts)}", or single words into a list such as words.txt'
        )
    return prompts


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed sweep`, on each process of a launch."""
    arguments = sweep_arguments(options)
    _check_best(options)
    say_start(options)

    from ..explore.sweep import run_sweep
    from ..texts import printable

    summary = run_sweep(against=options.against, **arguments)
    batch = summary.batch
    if not batch.is_main:
        return batch.status
    tell_clips(batch, options)
    if summary.findings is not None:
        for prompt in summary.findings.prompts:
            outliers = sum(map(bool, prompt.reasons))
            say("outliers", f"{outliers} of {len(prompt.clips)} clips: {printable(str(prompt.prompt))}")
        say("report", summary.report)
        if options.best is not None:
            _extend_best(summary.findings, arguments["loras"], options)
    tell_how_to_go_on(batch)
    return batch.status


def _check_best(options: argparse.Namespace) -> None:
    """Refuse a measure or a length that cannot be, before any clip is made: ValueError."""
    if (options.best is None) != (options.extend is None):
        raise ValueError("--best and --extend belong together: --best motion --extend 33")
    if options.best is None:
        return

    from ..checkpoints.source import recognise_model
    from ..explore.best import check_order
    from ..pipelines.encoded_texts import ENCODER_PARTS

    check_order(options.best)
    had = chosen_settings(options)
    geometry = recognise_model(had.model, variant=had.variant, without=ENCODER_PARTS).geometry
    geometry.check_num_frames(with_settings(had, {"num_frames": options.extend}).num_frames)
    if options.extend <= had.num_frames:
        raise ValueError(
            f"extend must be above {had.num_frames}, the frames of the sweep's clips, got {options.extend}; "
            f"use {geometry.num_frames(geometry.num_units(had.num_frames) + 1)}"
        )


def _extend_best(findings: Findings, loras: Mapping[str | Path, float], options: argparse.Namespace) -> None:
    """Make the best clip of each prompt longer, unless that was done before."""
    from ..clip_files import continued_stem
    from ..explore.best import best_clips
    from ..reproduce import extend

    for best in best_clips(findings, options.best):
        path = options.output / "best" / f"{continued_stem(best.path.stem, options.extend, None)}.mp4"
        if not path.exists():
            run_options = run_options_from(options)
            longer = extend(
                best.path,
                options.extend,
                model=chosen_settings(options).model,
                image=open_image(None if best.prompt.image is None else Path(best.prompt.image)),
                loras=list(loras),
                device=run_options.device,
                workers=run_options.workers,
                text_encoders=run_options.text_encoders,
                prompt_embeds=run_options.prompt_embeds,
                progress=not options.quiet,
            )
            longer.save(path, lossless=options.lossless)
        say("best", f"seed {best.seed}: {path}")
