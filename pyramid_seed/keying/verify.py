"""Make a keyed clip again with its pipeline, and report whether it is the same clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ..checkpoints.load import loading_bars_hidden
from ..devices import usable_device
from ..environment import fingerprint_differences
from ..provenance.diff import Step, compare_weights, first_difference
from ..provenance.pixels import compare_file
from ..provenance.verify import Verification
from ..seeds import parse_root
from ..texts import counted
from .manifest import is_told_by_digest, told, type_name, weight_folders, weight_rows
from .pipeline import keyed


def verify_keyed(
    manifest: Mapping[str, Any],
    path: Path | None,
    pipe: DiffusionPipeline,
    arguments: Mapping[str, Any] | None = None,
) -> Verification:
    """Make a clip again and compare: weights, noise, frames, the file.

    Args:
        manifest: the clip's, already checked.
        path: its file, whose pixels are compared as well; None if there is none.
        pipe: the pipeline that made it, loaded again.
        arguments: those of the call that the manifest holds only by digest, such as an image.

    Raises:
        ValueError: another pipeline, or arguments that are missing or not the clip's; the message names them.
    """
    there = manifest["pipeline"]["type"]
    if type_name(pipe) != there:
        raise ValueError(f"the clip was made by {there}, this pipeline is {type_name(pipe)}; load that one")
    call = _call(manifest["arguments"], arguments or {})
    weights = compare_weights(manifest["weights"], weight_rows(weight_folders(pipe)))
    if weights.status == "differs":
        return Verification((weights,), ())
    make = keyed(pipe, determinism=manifest["determinism"])
    (clip,) = make(**call, seed=parse_root(manifest["seed"])).clips
    made = clip.manifest(manifest["settings"]["fps"])
    sides = [{**each["environment"], **each["pipeline"]} for each in (manifest, made)]
    frames = [each["digests"]["frames"] for each in (manifest, made)]
    is_equal = frames[0] == frames[1]
    note = "all frames" if is_equal else f"all frames: {frames[0][:16]}... against {frames[1][:16]}..."
    steps = [
        weights,
        compare_draws(manifest["ledger"], made["ledger"]),
        Step("frames", "equal" if is_equal else "differs", note),
    ]
    difference = first_difference(steps)
    if difference is not None:
        del steps[steps.index(difference) + 1 :]
    elif path is not None and path.suffix.lower() != ".json":
        steps.append(compare_file(path, manifest, clip.frames, made["environment"]))
    return Verification(tuple(steps), tuple(fingerprint_differences(*sides)))


def compare_draws(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Step:
    """Compare two ledgers; the note names the first difference, and where each side requested the draw.

    Line numbers change between versions and devices between machines, so both are ignored.
    """
    for index, (left, right) in enumerate(zip_longest(a, b)):
        if _values(left) != _values(right):
            return Step("noise", "differs", f"draw {index}: {_told_row(left)} then, {_told_row(right)} now")
    return Step("noise", "equal", counted(len(a), "draw"))


def _values(row: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (row or {}).items() if name not in ("site", "device")}


def _told_row(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "none"
    shape = "x".join(map(str, row["shape"])) or "one value"
    return "{name} of {0} at {site[file]}:{site[line]}, {sha256:.16}...".format(shape, **row)


def _call(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the clip's call, completed with those that were given."""
    if unknown := sorted(given.keys() - recorded.keys()):
        raise ValueError(f"the clip was made without {', '.join(unknown)}; leave it out")
    for name, value in recorded.items():
        if name not in given and is_told_by_digest(value):
            raise ValueError(f"the clip was made with {name} = {value}, of which only this is known; give it")
        if name in given and told(given[name]) != value:
            raise ValueError(
                f"{name} is not that of the clip: {told(given[name])}, the manifest says {value}"
            )
    return {**recorded, **given}


def load_pipeline_of(
    manifest: Mapping[str, Any], folder: str | Path, device: str | None
) -> DiffusionPipeline:
    """The pipeline in a folder, or from a hub id, in the dtypes with which a clip was made.

    Raises:
        ValueError, OSError: the pipeline cannot be loaded, or the device cannot be used.
    """
    parts = manifest["pipeline"]["components"].items()
    names = {name: part["dtype"].split(", ")[0] for name, part in parts if part and part.get("dtype")}
    dtypes = {name: getattr(torch, dtype, None) for name, dtype in names.items()}
    if wrong := [names[name] for name, dtype in dtypes.items() if not isinstance(dtype, torch.dtype)]:
        raise ValueError(f"the manifest must name dtypes of torch, got {wrong[0]!r:.60}")
    with loading_bars_hidden():
        loaded = DiffusionPipeline.from_pretrained(folder, dtype=dtypes, use_safetensors=True)
    there = manifest["environment"].get("device", {}).get("type")
    return loaded.to(usable_device(device or there or "cpu"))
