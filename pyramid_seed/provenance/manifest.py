"""The manifest: JSON that says how a clip was made and what came out (schema version 1, docs/manifest.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..geometry import PyramidGeometry
from ..media.frame_facts import FrameFacts
from ..media.video import Frames, frames_digest, read_comment
from ..noise import SCHEME, Branch, NoiseLedger, noise_digest
from ..presets import Preset, Settings, with_settings
from ..version import __version__

SCHEMA = "pyramid-seed/manifest"
SCHEMA_VERSION = 1

_TEXT_OR_NONE = (str, type(None))
_FIELDS: dict[str, tuple[type, ...]] = {
    "package_version": (str,),
    "noise_scheme": (str,),
    "prompt": (str,),
    "preset": (str,),
    "settings": (dict,),
    "seed": (str,),
    "branches": (list,),
    "noise_device": (str,),
    "determinism": (str,),
    "attention": (str,),
    "compiled": (bool,),
    "image_sha256": _TEXT_OR_NONE,
    "model": (dict,),
    "weights": (list, type(None)),
    "loras": (list, type(None)),
    "geometry": (dict,),
    "ledger": (list,),
    "digests": (dict,),
    "environment": (dict,),
    "timings": (dict,),
}
_DIGESTS: dict[str, tuple[type, ...]] = {
    "text": (dict,),
    "stages": (list,),
    "units": (list,),
    "chunks": (list,),
    "frames": (str,),
}
BEFORE_PATHS: dict[str, Any] = {"attention": "reference", "compiled": False}
"""Fields that the first manifests of this schema lack, with what was so in their time."""
_MODEL = {"kind": (str,), "name": _TEXT_OR_NONE, "revision": _TEXT_OR_NONE}
_PYRAMID = ("spatial_factor", "temporal_factor", "patch_size", "num_stages")
_GEOMETRY = dict.fromkeys(("num_units", "latent_channels", *_PYRAMID), (int,))
_ROWS: dict[str, dict[str, tuple[type, ...]]] = {
    "branches": {"from_unit": (int,), "seed": (str,)},
    "weights": {"file": (str,), "size": (int,), "sha256": (str,)},
    "loras": {
        "adapter": (str,),
        "file": (str,),
        "size": (int,),
        "sha256": (str,),
        "scale": (int, float),
        "fused": (bool,),
    },
}


@dataclass(frozen=True)
class Recipe:
    """What a clip is a function of, besides the weights.

    Attributes:
        prompt: as given.
        seed: the root seed.
        branches: units from which on another root seed is used.
        settings: all settings after defaults.
        noise_device: where noise is drawn.
        determinism: "strict" or "relaxed".
        attention: how attention was computed, "prefix" or "reference".
        compiled: whether the transformer was compiled.
        image_digest: SHA-256 of the first frame given, None without one.
    """

    prompt: str
    seed: int
    branches: tuple[Branch, ...]
    settings: Preset
    noise_device: str
    determinism: str
    attention: str
    compiled: bool
    image_digest: str | None


def build_manifest(
    recipe: Recipe,
    *,
    model: Mapping[str, str | None],
    weights: list[dict[str, Any]] | None,
    loras: Sequence[Mapping[str, Any]] | None = (),
    geometry: PyramidGeometry,
    ledger: NoiseLedger,
    text_digests: Mapping[str, str],
    stage_digests: Sequence[Sequence[str] | None],
    latents: torch.Tensor,
    frames: FrameFacts,
    environment: Mapping[str, Any],
    load_seconds: float,
    seconds: float,
) -> dict[str, Any]:
    """The manifest of a finished clip.

    Args:
        recipe: what was asked for.
        model: see `weights.model_reference`.
        weights: see `weights.weight_digests`; None if the files are not known.
        loras: adapter, file, size, sha256, scale and fused of each; None if they are not known.
        geometry: of the model.
        ledger: every draw.
        text_digests: SHA-256 of the text embeddings, by prompt.
        stage_digests: of each unit, the SHA-256 of its latents after each stage; None if they are not known.
        latents: (1, C, t, h, w), normalised.
        frames: what is known of the frames.
        environment: see `environment_fingerprint`.
        load_seconds, seconds: time to load the model, time to generate.
    """
    settings = asdict(recipe.settings)
    name = settings.pop("name")
    del settings["description"]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "noise_scheme": SCHEME,
        "prompt": recipe.prompt,
        "preset": name,
        "settings": _plain(settings | {"model": model["name"]}),
        "seed": str(recipe.seed),
        "branches": [{"from_unit": each.from_unit, "seed": str(each.seed)} for each in recipe.branches],
        "noise_device": recipe.noise_device,
        "determinism": recipe.determinism,
        "attention": recipe.attention,
        "compiled": recipe.compiled,
        "image_sha256": recipe.image_digest,
        "model": dict(model),
        "weights": weights,
        "loras": None if loras is None else [dict(lora) for lora in loras],
        "geometry": {"num_units": latents.shape[2], "latent_channels": latents.shape[1], **asdict(geometry)},
        "ledger": ledger.to_list(),
        "digests": {
            "text": dict(text_digests),
            "stages": [None if each is None else list(each) for each in stage_digests],
            "units": unit_digests(latents),
            "chunks": list(frames.chunk_digests),
            "frames": frames.digest,
        },
        "environment": dict(environment),
        "timings": {"load_seconds": round(load_seconds, 3), "seconds": round(seconds, 3)},
    }


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """What to ask for to make the clip of a manifest again; the model's name is the manifest's.

    Raises:
        ValueError: a setting, the seed or a branch is not one.
    """
    settings = {name: value for name, value in manifest["settings"].items() if name != "model"}
    given = Settings(**settings, model=manifest["model"]["name"] or "unknown")  # type: ignore[typeddict-item]
    try:
        preset = with_settings(Preset(name=manifest["preset"], **given), given)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"the manifest's settings are not those of this version: {error}") from error
    return Recipe(
        prompt=manifest["prompt"],
        seed=_seed(manifest["seed"]),
        branches=tuple(Branch(each["from_unit"], _seed(each["seed"])) for each in manifest["branches"]),
        settings=preset,
        noise_device=manifest["noise_device"],
        determinism=manifest["determinism"],
        **{name: manifest.get(name, default) for name, default in BEFORE_PATHS.items()},
        image_digest=manifest["image_sha256"],
    )


def check_noise_scheme(manifest: Mapping[str, Any], where: str | Path) -> None:
    """Raise ValueError unless this version can draw the noise of a clip again."""
    if manifest["noise_scheme"] != SCHEME:
        raise ValueError(
            f"{where} was made with noise scheme {manifest['noise_scheme']!r}, this version knows {SCHEME!r}"
        )


def geometry_of(manifest: Mapping[str, Any]) -> PyramidGeometry:
    """The geometry of a manifest's model."""
    return PyramidGeometry(**{name: manifest["geometry"][name] for name in _PYRAMID})


def unit_digests(latents: torch.Tensor) -> list[str]:
    """SHA-256 of each unit's latents (1, C, 1, h, w): little-endian float32 in C order."""
    return [noise_digest(unit) for unit in latents.split(1, dim=2)]


def chunk_digests(frames: Frames, geometry: PyramidGeometry) -> list[str]:
    """SHA-256 of the frames of each unit, which are decoded as one chunk, see `video.frames_digest`."""
    chunks = geometry.frames_of_units(len(frames))
    return [frames_digest(frames[chunk.start : chunk.stop]) for chunk in chunks]


def manifest_json(manifest: Mapping[str, Any]) -> str:
    """Canonical JSON on one line: sorted keys, no spaces, text as it is."""
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a surrogate pair, as an undecodable argument of a command line gives, has no UTF-8.
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def sidecar_path(clip: Path) -> Path:
    """Where the manifest of a clip lies beside it: `clip.mp4` has `clip.json`."""
    return clip.with_suffix(".json")


def find_manifest(clip: str | Path) -> dict[str, Any]:
    """The manifest inside an .mp4, or else the one beside the clip; of a .json, the one it is.

    Raises:
        FileNotFoundError: there is no such clip.
        ValueError: there is no manifest in it or beside it, or one that cannot be used.
    """
    clip = Path(clip)
    if not clip.exists():
        raise FileNotFoundError(f"{clip} does not exist")
    sidecar = sidecar_path(clip)
    if clip.suffix.lower() == ".json" or (_has_comment(clip) or not sidecar.is_file()):
        return read_manifest(clip)
    return read_manifest(sidecar)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest in the comment tag of an .mp4, or in a .json.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no manifest, or one of another program, of a newer schema, or a damaged one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    is_json = path.suffix.lower() == ".json"
    text = path.read_text(encoding="utf-8") if is_json else _comment(path)
    if not text:
        raise ValueError(
            f"{path} holds no manifest, and there is no {sidecar_path(path).name} beside it"
            if not is_json
            else f"{path} is empty"
        )
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} holds no manifest of pyramid-seed, but {text[:60]!r}") from error
    check_manifest(manifest, str(path))
    return manifest


def check_manifest(manifest: Any, where: str) -> None:
    """Refuse what this version cannot read.

    Raises:
        ValueError: not ours, a newer schema, or a field that is missing or of a wrong type; it is named.
    """
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError(f"{where} holds no manifest of pyramid-seed")
    version = manifest.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{where}: schema_version must be a whole number of at least 1, got {version!r}")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{where} has a manifest of schema version {version}, this pyramid-seed ({__version__}) reads up "
            f"to {SCHEMA_VERSION}; install a newer one"
        )
    _check_fields(BEFORE_PATHS | manifest, _FIELDS, where, "")
    _check_fields(manifest["digests"], _DIGESTS, where, "digests.")
    _check_fields(manifest["model"], _MODEL, where, "model.")
    _check_fields(manifest["geometry"], _GEOMETRY, where, "geometry.")
    for name, fields in _ROWS.items():
        for index, row in enumerate(manifest[name] or ()):
            _check_fields(row, fields, where, f"{name}[{index}].")
    try:
        NoiseLedger.from_list(manifest["ledger"])
        num_units = geometry_of(manifest).num_latent_frames(recipe_of(manifest).settings.num_frames)
        digests = manifest["digests"]
        names = ("stages", "units", "chunks")
        counts = [manifest["geometry"]["num_units"], *(len(digests[name]) for name in names)]
        if counts != [num_units] * 4:
            raise ValueError(
                f"num_frames makes {num_units} units, num_units, stages, units and chunks are {counts}"
            )
        _check_stages(digests["stages"], manifest["geometry"]["num_stages"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds a damaged manifest: {error}") from error


def _check_fields(values: Any, fields: Mapping[str, tuple[type, ...]], where: str, prefix: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds a damaged manifest: {prefix.rstrip('.')} is {values!r}")
    for name, kinds in fields.items():
        if name not in values:
            raise ValueError(f"{where} holds a damaged manifest: {prefix}{name} is missing")
        if not isinstance(values[name], kinds) or (isinstance(values[name], bool) and bool not in kinds):
            raise ValueError(f"{where} holds a damaged manifest: {prefix}{name} is {values[name]!r:.60}")


def _check_stages(units: Sequence[Any], num_stages: int) -> None:
    for unit, stages in enumerate(units):
        if stages is None or (stages == [] and unit == 0):  # not known; an encoded picture
            continue
        is_text = isinstance(stages, list) and all(isinstance(each, str) for each in stages)
        if not is_text or len(stages) != num_stages:
            raise ValueError(f"digests.stages[{unit}] must be {num_stages} texts or null, got {stages!r:.60}")


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 2**64):
        raise ValueError(f"a seed must be a whole number in 0 .. 2**64 - 1 as text, got {text!r}")
    return int(text)


def _has_comment(path: Path) -> bool:
    return bool(_comment(path))


def _comment(path: Path) -> str | None:
    return read_comment(path) if path.suffix.lower() == ".mp4" else None


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in settings.items()
    }
