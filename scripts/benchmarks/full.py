"""Both families at their published sizes: checkpoints made, and what units of them take."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pyramid_seed import AutoencoderKLCausalVideo
from pyramid_seed.checkpoints.source import ModelSource, read_source
from pyramid_seed.dtypes import torch_dtype
from pyramid_seed.families.pyramid_flow import PyramidFlowFamily
from pyramid_seed.files import check_space, replacing
from pyramid_seed.pipelines.memory_modes import gib
from pyramid_seed.pipelines.working_memory import decode_bytes

from .checkpoint import (
    TEXT_ENCODERS,
    CheckpointSize,
    family_named,
    num_bytes,
    parts_written,
    shapes_of,
    write_configs,
    write_weights,
)
from .fresh import run_fresh
from .measure import Bar, Result
from .needs import DTYPE, META, empty_parts, needs_table
from .sequence import published_geometry
from .sizes import MID

GPU_CLIP = (768, 1280, 16)
"""Height, width and units of the clip whose needs are told."""
MADE = "made.json"
"""In a folder of a checkpoint that was written to its end: of what it is."""
LOAD_LIMIT = 1.15
"""Of the weights: what loading them may take at its peak."""
_TINY_VAE = {"encoder_block_out_channels": (8, 8, 16, 16), "decoder_block_out_channels": (8, 8, 16, 16)}
_TINY = {"num_attention_heads": 2, "joint_attention_dim": 32}
MODELS: Mapping[tuple[str, str], tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    ("full", "miniflux"): ({}, {}),
    ("full", "sd3"): ({}, {}),
    ("mid", "miniflux"): (MID.transformer, MID.vae),
    ("mid", "sd3"): ({"num_attention_heads": 7, "joint_attention_dim": 1024}, MID.vae),
    ("tiny", "miniflux"): (
        _TINY | {"num_layers": 1, "num_single_layers": 2},
        _TINY_VAE | {"norm_num_groups": 4},
    ),
    ("tiny", "sd3"): (_TINY | {"num_layers": 2}, _TINY_VAE | {"norm_num_groups": 4}),
}
"""By size and family: arguments of transformer and VAE that are not those of the published sizes."""


def measure(options: argparse.Namespace, families: Sequence[str], folder: Path) -> list[Result]:
    """Units of each family.

    Raises:
        OSError: there is no room for a checkpoint, or no memory for a model.
        ValueError: a size or a number of units does not fit; a folder holds something else.
        RuntimeError: units could not be made.
    """
    published_geometry().check_size(options.height, options.width)
    published_geometry().num_frames(options.units)  # refuses what is no number of units
    checkpoints = [Checkpoint.of(options, name, folder / name) for name in families]
    missing = [checkpoint for checkpoint in checkpoints if not checkpoint.is_made()]
    if missing:
        check_space(
            folder, sum(each.stored_bytes for each in missing), "the checkpoint", "use another --folder"
        )
    _check_memory(options, checkpoints)
    results = [_measure_family(options, checkpoint) for checkpoint in checkpoints]
    return results + [_needs(options, name) for name in families]


def _check_memory(options: argparse.Namespace, checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse what this machine has no memory for: OSError."""
    free = psutil.virtual_memory().available
    for checkpoint in checkpoints:
        weights = checkpoint.stored_bytes // checkpoint.size.dtype.itemsize * DTYPE.itemsize
        with META:
            vae = AutoencoderKLCausalVideo(**checkpoint.size.vae)
        decode = decode_bytes(vae.config, options.height, options.width, DTYPE.itemsize)
        # A single frame has no past: at 384p its decoding took 2.0 GiB, where a clip's is 5.8.
        needed = int(LOAD_LIMIT * weights) + (decode if options.units > 1 else decode // 2)
        if needed > free:
            raise OSError(
                f"{checkpoint.family.name} needs about {gib(needed)} of memory, {gib(free)} are free; use a "
                "smaller --size, --height and --width, or leave out --text-encoders"
            )


def _needs(options: argparse.Namespace, family_name: str) -> Result:
    """What a long clip needs on a GPU, with all text encoders."""
    transformer, vae = MODELS[options.size, family_name]
    text = TEXT_ENCODERS[family_name] if options.size == "full" else {}
    with _configs(family_named(family_name), CheckpointSize(transformer, vae, text)) as source:
        table = needs_table(empty_parts(source), *GPU_CLIP)
    return Result("full_size", f"{family_name}, size {options.size}: what a clip needs", table=table)


@contextmanager
def _configs(family: PyramidFlowFamily, size: CheckpointSize) -> Iterator[ModelSource]:
    """A checkpoint without its weights, where nobody else sees it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / family.name
        write_configs(folder, family, size)
        yield read_source(folder)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is made, or is to be.

    Attributes:
        folder: where.
        family, size, seed: of what.
        stored_bytes: of its files of weights.
    """

    folder: Path
    family: PyramidFlowFamily
    size: CheckpointSize
    seed: int
    stored_bytes: int

    @classmethod
    def of(cls, options: argparse.Namespace, family_name: str, folder: Path) -> Checkpoint:
        """The one of the script's options."""
        family = family_named(family_name)
        transformer, vae = MODELS[options.size, family_name]
        text = TEXT_ENCODERS[family_name] if options.text_encoders else {}
        size = CheckpointSize(transformer, vae, text, torch_dtype(options.stored))
        with _configs(family, size) as source:
            shapes = [shapes_of(source, part) for part in parts_written(family, size)]
        stored = sum(num_bytes(each, size.dtype) for each in shapes)
        return cls(folder, family, size, options.seed, stored)

    def told(self) -> dict[str, Any]:
        """What the folder says of itself, as JSON reads it."""
        sizes: dict[str, Any] = {
            "transformer": self.size.transformer,
            "vae": self.size.vae,
            "text": self.size.text,
        }
        told = {"family": self.family.name, "seed": self.seed, "stored": str(self.size.dtype), **sizes}
        return json.loads(json.dumps(told, default=dict))

    def is_made(self) -> bool:
        """Whether it is there; ValueError if something else is."""
        if not self.folder.exists():
            return False
        made = self.folder / MADE
        told = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else {}
        if other := sorted(name for name, value in self.told().items() if told.get(name) != value):
            raise ValueError(
                f"{self.folder} must be a checkpoint that this script made with the same options, it has "
                f"another {', '.join(other)}; use another --folder"
            )
        return True

    def make(self) -> None:
        """Write it, or nothing if that is broken off."""
        with replacing(self.folder) as folder:
            write_configs(folder, self.family, self.size)
            source = read_source(folder)
            for part in parts_written(self.family, self.size):
                print(f"{self.family.name}: writing {part}", flush=True)
                write_weights(source, part, self.size, self.seed)
            (folder / MADE).write_text(json.dumps(self.told(), indent=1) + "\n", encoding="utf-8")


def _measure_family(options: argparse.Namespace, checkpoint: Checkpoint) -> Result:
    name, seconds = checkpoint.family.name, 0.0
    if not checkpoint.is_made():
        started = time.perf_counter()
        checkpoint.make()
        seconds = time.perf_counter() - started
    frames = checkpoint.folder.with_name(f"{name}-frames")
    frames.mkdir(exist_ok=True)
    place = [str(checkpoint.folder), name, options.text_encoders]
    clip = [options.height, options.width, options.units]
    print(f"{name}: loading and running", flush=True)
    done = run_fresh("benchmarks.unit", "make_units", [*place, clip, str(frames)])["value"]
    weights, phases = sum(done["weights"].values()), done["phases"]
    table = [("phase", "seconds", "peak above the libraries")]
    table += [(phase, f"{row['seconds']:.1f}", gib(row["peak"])) for phase, row in phases.items()]
    load = phases["load"]["peak"] / weights
    return Result(
        command="full_size",
        what=f"{name}, size {options.size}: {options.units} units of {options.height}x{options.width}, one "
        f"step per stage, guided, bfloat16, stored as {options.stored}",
        facts={
            **{f"weights, {part}": gib(count) for part, count in done["weights"].items()},
            "weights": gib(weights),
            "peak while loading / weights": load,
            "seconds to write the checkpoint": seconds,
            "frames saved": f"{done['frames']} in {frames}",
        },
        bars=[Bar(f"{name}: peak while loading / weights", load, LOAD_LIMIT, is_lower_limit=False)],
        table=table,
    )
