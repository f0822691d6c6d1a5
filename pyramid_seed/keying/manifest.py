"""The manifest of a keyed clip: how it was made and what resulted (docs/keyed.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeGuard

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import nn

from ..checkpoints.digests import weight_digests
from ..choices import DeterminismLevel
from ..dtypes import dtype_name
from ..environment import environment_fingerprint
from ..files import FileRow
from ..private_apis import is_compiled
from ..provenance.manifest import KEYED_SCHEMA, check_manifest, check_schema, read_checked
from ..provenance.schema import Environment, Written, check_shape
from ..seeds import parse_root
from ..texts import counted, printable
from .answers import SCHEME, LedgerRow

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SCHEMA_VERSION = 1

WeightFolders: TypeAlias = Mapping[str, Path] | str
"""The folder that each model of a pipeline was loaded from, by name; or why no files hold them, in words."""


_Size = Annotated[int, msgspec.Meta(ge=1)]


class _Settings(msgspec.Struct):
    num_frames: _Size
    height: _Size
    width: _Size
    fps: int | float | None = None


class _Digests(msgspec.Struct):
    frames: str


class _Component(msgspec.Struct, kw_only=True):
    type: str
    config_sha256: str
    dtype: str = ""
    compiled: bool = False


class _Pipeline(msgspec.Struct, kw_only=True):
    type: str
    name: str | None
    config: dict[str, Any]
    components: dict[str, _Component | None]


class _Manifest(msgspec.Struct, kw_only=True):
    package_version: str
    noise_scheme: str
    seed: str
    determinism: DeterminismLevel
    pipeline: _Pipeline
    arguments: dict[str, Any]
    weights: list[FileRow] | None
    weights_note: str = ""
    settings: _Settings
    ledger: list[LedgerRow]
    digests: _Digests
    environment: Environment
    file: Written | None = None


def setup_of(pipe: DiffusionPipeline, determinism: DeterminismLevel) -> dict[str, Any]:
    """The fields of a manifest that say how a pipeline was set up: itself, its parts, its environment."""
    parts = {name: None if part is None else _part(part) for name, part in pipe.components.items()}
    config = {
        name: told(value)
        for name, value in pipe.config.items()
        if name not in parts and not name.startswith("_")
    }
    name = pipe.config.get("_name_or_path")
    return {
        "determinism": determinism,
        "pipeline": {
            "type": type_name(pipe),
            "name": Path(name).name if name and Path(name).is_dir() else name,
            "config": config,
            "components": parts,
        },
        "environment": environment_fingerprint(pipe._execution_device, level=determinism),
    }


def type_name(value: object) -> str:
    """The class of a value with its library, such as "diffusers.WanPipeline"."""
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__qualname__}"


def _part(part: Any) -> dict[str, Any]:
    config: Any = getattr(part, "config", None) or {}
    values = config if isinstance(config, Mapping) else config.to_dict()
    plain = {name: value for name, value in values.items() if not name.startswith("_")}
    text = json.dumps(plain, sort_keys=True, default=str)
    described: dict[str, Any] = {
        "type": type_name(part),
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    if isinstance(part, nn.Module):
        described["dtype"] = ", ".join(sorted({dtype_name(value.dtype) for value in part.parameters()}))
        described["compiled"] = any(is_compiled(module) for module in part.modules())
    return described


def weight_folders(pipe: DiffusionPipeline) -> WeightFolders:
    """Where the weights of a pipeline came from."""
    folders: dict[str, Path] = {}
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        model: Any = part
        config = model.config
        loaded = config.get("_name_or_path") if isinstance(config, Mapping) else model.name_or_path
        if not loaded or not Path(loaded).is_dir():
            return f"{name} was not loaded from a folder"
        if any("lora_" in key for key, _ in part.named_parameters()):
            return f"{name} has an adapter"
        folders[name] = Path(loaded)
    return folders


def weight_rows(folders: WeightFolders) -> list[dict[str, Any]] | None:
    """Name, size and SHA-256 of the files in the folders; None if no files hold the weights."""
    if isinstance(folders, str):
        return None
    rows = []
    for name, folder in folders.items():
        files = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json")]
        rows += [{**row, "file": f"{name}/{row['file']}"} for row in weight_digests(folder, files)]
    return rows


def told(value: Any) -> Any:
    """An argument as recorded in a manifest: itself if JSON can hold it, else its type and SHA-256.

    The digest covers the values of a tensor, an array or an image; other types have none.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"type": "float", "value": str(value)}
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: told(item) for name, item in value.items()}
    array = None
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray | Image.Image):
        array = np.ascontiguousarray(np.asarray(value))
    digest = None if array is None else hashlib.sha256(array.tobytes()).hexdigest()
    return {"type": type_name(value), "sha256": digest}


def is_told_by_digest(told_value: Any) -> bool:
    """Whether a manifest records an argument, or a part of it, only by type and digest."""
    if isinstance(told_value, list):
        return any(map(is_told_by_digest, told_value))
    if isinstance(told_value, dict):
        is_one = set(told_value) in ({"type", "sha256"}, {"type", "value"})
        return is_one or any(map(is_told_by_digest, told_value.values()))
    return False


def check_keyed_manifest(manifest: Any, where: str) -> None:
    """Refuse a manifest that this version cannot read.

    Raises:
        ValueError: not a keyed clip's, a newer schema or scheme, or a field is missing or wrong.
    """
    check_schema(manifest, where, KEYED_SCHEMA, SCHEMA_VERSION)
    try:
        check_shape(manifest, _Manifest)
        parse_root(manifest["seed"])
    except ValueError as error:
        raise ValueError(f"{where} holds a damaged manifest: {error}") from error
    if manifest["noise_scheme"] != SCHEME:
        raise ValueError(
            f"{where} was made with noise scheme {manifest['noise_scheme']!r}; this version knows {SCHEME!r}"
        )


def is_keyed(manifest: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a manifest belongs to a keyed clip."""
    return isinstance(manifest, dict) and manifest.get("schema") == KEYED_SCHEMA


def read_any_manifest(clip: str | Path) -> dict[str, Any]:
    """The manifest of a saved clip of either kind; raises as `provenance.manifest.read_manifest` does."""

    def check(manifest: Any, where: str) -> None:
        (check_keyed_manifest if is_keyed(manifest) else check_manifest)(manifest, where)

    return read_checked(clip, check)


def describe_keyed(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of (name, text) that describe how a keyed clip was made, as `provenance.show.describe` does."""
    pipeline, settings, environment = manifest["pipeline"], manifest["settings"], manifest["environment"]
    size = f"{counted(settings['num_frames'], 'frame')} of {settings['height']}x{settings['width']}"
    size += f" at {settings['fps']:g} fps" if settings.get("fps") else ""
    weights = manifest["weights"]
    known = "weights in no file" if weights is None else counted(len(weights), "file")
    packages = environment.get("packages", {})
    lines = [
        ("seed", manifest["seed"]),
        ("clip", size),
        ("pipeline", f"{pipeline['type']}, {pipeline['name'] or 'made in code'}, {known}"),
        *((name, str(value)) for name, value in manifest["arguments"].items() if value is not None),
        ("noise", f"{manifest['noise_scheme']}, {counted(len(manifest['ledger']), 'draw')}"),
        ("frames", f"SHA-256 {manifest['digests']['frames']}"),
        (
            "made by",
            ", ".join(f"{name} {packages.get(name)}" for name in ("pyramid-seed", "diffusers", "torch")),
        ),
        ("made on", f"{environment.get('device', {}).get('name')}, {manifest['determinism']}"),
    ]
    return [(name, printable(text)) for name, text in lines]
