"""Make a keyed clip again with its pipeline, and report whether it is the same clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ..checkpoints.load import loading_bars_hidden
from ..devices import usable_device
from ..environment import fingerprint_differences
from ..provenance.diff import compare_weights, first_difference
from ..provenance.pixels import compare_file
from ..provenance.verify import Verification
from ..seeds import parse_root
from .clip import KeyedClip
from .diff import diff_keyed
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
    call = _checked_call(manifest, pipe, arguments)
    weights = compare_weights(manifest["weights"], weight_rows(weight_folders(pipe)))
    if weights.status == "differs":
        return Verification((weights,), ())
    clip = _made(manifest, pipe, call)
    made = clip.manifest(manifest["settings"].get("fps"))
    sides = [{**each["environment"], **each["pipeline"]} for each in (manifest, made)]
    steps = [weights, *diff_keyed(manifest, made).steps[1:]]
    difference = first_difference(steps)
    if difference is not None:
        del steps[steps.index(difference) + 1 :]
    elif path is not None and path.suffix.lower() != ".json":
        steps.append(compare_file(path, manifest, clip.frames, made["environment"]))
    return Verification(tuple(steps), tuple(fingerprint_differences(*sides)))


def remake_keyed(
    manifest: Mapping[str, Any], pipe: DiffusionPipeline, arguments: Mapping[str, Any] | None = None
) -> KeyedClip:
    """Make a clip again; arguments and errors as in `verify_keyed`."""
    return _made(manifest, pipe, _checked_call(manifest, pipe, arguments))


def _checked_call(
    manifest: Mapping[str, Any], pipe: DiffusionPipeline, arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The arguments of the clip's call, if this is its pipeline."""
    there = manifest["pipeline"]["type"]
    if type_name(pipe) != there:
        raise ValueError(f"the clip was made by {there}, this pipeline is {type_name(pipe)}; load that one")
    return _call(manifest["arguments"], arguments or {})


def _made(manifest: Mapping[str, Any], pipe: DiffusionPipeline, call: Mapping[str, Any]) -> KeyedClip:
    (clip,) = keyed(pipe, determinism=manifest["determinism"])(
        **call, seed=parse_root(manifest["seed"])
    ).clips
    return clip


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
