"""What to try after a first clip: commands that can be pasted into the same terminal."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..seeds import ROOT_LIMIT
from .options import say


def tell_next(options: argparse.Namespace, path: Path, seed: int) -> None:
    """Print commands to try after `generate`, on a terminal and unless it is to be quiet.

    Args:
        options: of `generate`.
        path, seed: the clip's.
    """
    if options.quiet or not sys.stdout.isatty():
        return
    commands = [f"{_program()} {shlex.join(words)}" for words in _next(options, path, seed)]
    # What a terminal cannot show as it is cannot be pasted.
    for number, command in enumerate(filter(str.isprintable, commands)):
        say("" if number else "next", command)


def _next(options: argparse.Namespace, path: Path, seed: int) -> Iterator[list[str]]:
    # Otherwise verify has to be told where the model, the image, the video, the LoRAs or the texts are.
    comes_alone = not any((options.model, options.image, options.video, options.lora, options.prompt_embeds))
    if comes_alone and (options.sidecar or (path.suffix.lower() == ".mp4" and not options.no_metadata)):
        yield ["verify", str(path)]
    if "--" not in options.given:
        other = (seed + 1) % ROOT_LIMIT
        words = [*_without(options.given, "--seed", "-o", "--output"), "--seed", str(other)]
        if options.output is not None:
            words += ["-o", str(path.with_stem(f"{path.stem}_seed{other}"))]
        yield words
    yield ["ui", "-o", str(path.parent)] if find_spec("gradio") else ["demo"]


def _without(words: list[str], *names: str) -> list[str]:
    """A command's words without some options and their values; what is written otherwise is overridden."""
    places = [place for place, word in enumerate(words) if word in names]
    return [word for place, word in enumerate(words) if place not in places and place - 1 not in places]


def _program() -> str:
    """How this program is called from the same folder."""
    called = sys.argv[0]
    if Path(called).stem != "pyramid-seed":
        return f"{shlex.quote(sys.executable)} -m pyramid_seed"
    return "pyramid-seed" if shutil.which("pyramid-seed") == called else shlex.quote(called)
