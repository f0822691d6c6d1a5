"""`startup`: from the shell to the help text, and to a written clip of the embedded model.

Baseline of the clip: importing what any pipeline of diffusers with these text encoders imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pyramid_seed.provenance.manifest import read_manifest

from .fresh import environment
from .measure import CPU, PRODUCT, Bar, Result, Row, compared, in_turn, summary
from .sizes import PROMPT

HELP = (sys.executable, "-m", "pyramid_seed", "--help")
EAGER_HELP = (
    sys.executable,
    "-c",
    "import pyramid_seed.api; from pyramid_seed.cli import main; main(['--help'])",
)

IMPORTS = (
    sys.executable,
    "-c",
    "import torch; from diffusers import DiffusionPipeline; "
    "from transformers import CLIPTextModel, T5EncoderModel",
)


def measure(options: argparse.Namespace) -> Result:
    """Fresh processes, with the files they read in the cache of the operating system."""
    rows, bars = [], []
    if "help" in options.parts:
        row = compared("--help", lambda: _run(HELP), lambda: _run(EAGER_HELP), options.repeats, CPU)
        rows.append(row)
        bars.append(Bar("--help, seconds", summary(row.values[PRODUCT])["median"], 0.3, is_lower_limit=False))
    if "clip" in options.parts:
        row = _clip_row(options.repeats)
        rows.append(row)
        median = {label: summary(values)["median"] for label, values in row.values.items()}
        bars.append(Bar("shell to written clip, seconds", median["in all"], 12, is_lower_limit=False))
        bars.append(Bar("generation, seconds", median["generating"], 6, is_lower_limit=False))
        bars.append(Bar("all but generation, over imports", row.median_ratio, 1.1, is_lower_limit=False))
    return Result(
        command="startup",
        what="fresh processes; the clip is that of the preset tiny: 17 frames of 64x64",
        baseline="the help text after importing what a generation needs" if "help" in options.parts else None,
        rows=rows,
        bars=bars,
    )


def _clip_row(repeats: int) -> Row:
    loading, generating = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        command = (sys.executable, "-m", "pyramid_seed", "generate", PROMPT, "--seed", "19", "-o", str(path))

        def generate() -> None:
            _run((*command, "--device", "cpu", "--quiet", "--overwrite", "--sidecar"))
            timings = read_manifest(path.with_suffix(".json"))["timings"]
            loading.append(timings["load_seconds"])
            generating.append(timings["seconds"])

        times, imports = in_turn([generate, lambda: _run(IMPORTS)], repeats, CPU)
    values = {"in all": times, "loading weights": loading[1:], "generating": generating[1:]}
    values["all but generation"] = [whole - made for whole, made in zip(times, generating[1:], strict=True)]
    values["torch, diffusers and text encoders"] = imports
    ratio = "all but generation", "torch, diffusers and text encoders"
    return Row("generate, shell to written clip", values, ratio)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, env=environment())
