"""`pyramid-seed audit`."""

from __future__ import annotations

import argparse
from typing import Any

from ..choices import DTYPES
from ..texts import parse_json, printable
from .options import Commands, root_seed, say, say_start


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "audit",
        help="find what a diffusers pipeline draws that no seed reaches",
        description="Run a small call of a diffusers pipeline several times. Print where every draw is "
        "made and from which generator, and whether its clips repeat: in a second run, with other global "
        "generators, and in a batch.",
        epilog="exit status: 0 the clip is a function of its seed, 1 it is not, 2 the call failed",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="a folder that diffusers can load, or a hub id")
    parser.add_argument("--prompt", default="a boat", help="(default: %(default)s)")
    parser.add_argument(
        "--argument",
        metavar="NAME=JSON",
        type=_argument,
        nargs="+",
        action="extend",
        default=[],
        help="arguments of the call, such as num_frames=9 height=64; a word that is not JSON is text",
    )
    parser.add_argument("--seed", type=root_seed, default=0, help="(default: %(default)s)")
    parser.add_argument("--keyed", action="store_true", help="audit what `keyed` makes of the pipeline")
    parser.add_argument("--no-batch", action="store_true", help="leave out the batch of two clips")
    parser.add_argument("--device", help="default: the accelerator if there is one, else the CPU")
    parser.add_argument("--dtype", choices=DTYPES, help="default: that of the files")


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"an argument must be NAME=JSON, got {text!r}; use num_frames=9")
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value


def run(options: argparse.Namespace) -> int:
    """`pyramid-seed audit`."""
    say_start(options)

    import torch
    from diffusers import DiffusionPipeline

    from ..checkpoints.load import loading_bars_hidden
    from ..devices import usable_device
    from ..dtypes import torch_dtype
    from ..keying.audit import audit
    from ..keying.pipeline import keyed

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = usable_device(options.device or accelerator or "cpu")
    dtype = None if options.dtype is None else torch_dtype(options.dtype)
    with loading_bars_hidden():
        pipe = DiffusionPipeline.from_pretrained(options.model, dtype=dtype, use_safetensors=True)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": options.prompt, **dict(options.argument)}
    found = audit(
        keyed(pipe) if options.keyed else pipe, seed=options.seed, batch=not options.no_batch, **call
    )
    say("pipeline", found.pipeline)
    for draw in found.draws:
        say("leak" if draw.is_leak else "draw", draw)
    for name, difference in found.differences.items():
        say(name, difference or "equal, bit for bit")
    verdict = "A FUNCTION OF ITS SEED"
    print(printable(f"NOT {verdict}: {', '.join(found.failures)}" if found.failures else verdict))
    return 1 if found.failures else 0
