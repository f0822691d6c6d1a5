"""The manifest: JSON that says how a clip was made and what resulted (schema version 2, docs/manifest.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..checks import check_choice, check_path
from ..choices import ATTENTION_PATHS, DETERMINISM_LEVELS
from ..files import check_clip, check_readable, file_digest, sidecar_path
from ..geometry import ChunkGeometry, PyramidGeometry
from ..media.frames import Frames, frames_digest
from ..media.video import IMAGE_ENDINGS, read_comment
from ..noise import SCHEMES, Branch, NoiseLedger, noise_digest
from ..presets import SETTINGS, preset_of
from ..recipe import Recipe
from ..seeds import parse_root
from ..texts import parse_json, read_bounded
from ..version import __version__
from .merkle import merkle_root
from .schema import BEFORE_PATHS, check_shape

SCHEMA = "pyramid-seed/manifest"
SCHEMA_VERSION = 2
KEYED_SCHEMA = "pyramid-seed/keyed"
"""The schema of clips that `keyed` pipelines made, see `keying.manifest`."""
MAX_BYTES = 32 * 2**20
"""The largest manifest; for 100,000 frames, the longest clip, it takes 20 MiB."""

UNKNOWN_MODEL: dict[str, str | None] = {"kind": "unknown", "name": None, "revision": None}
"""The model of a pipeline that was not loaded by `load_pipeline`."""


def recipe_fields(recipe: Recipe, model: Mapping[str, str | None]) -> dict[str, Any]:
    """What a manifest says of how a clip was to be made, for `recipe_of`.

    Args:
        recipe: what was requested.
        model: kind, name and revision, see `checkpoints.source.ModelSource.reference`, or `UNKNOWN_MODEL`.
    """
    settings = {
        name: list(value) if isinstance(value := getattr(recipe.settings, name), tuple) else value
        for name in SETTINGS
        if (name, getattr(recipe.settings, name)) != ("shards", None)  # readable by earlier versions
    }
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "prompt": recipe.prompt,
        "preset": recipe.settings.name,
        "settings": settings | {"model": model["name"]},
        "seed": str(recipe.seed),
        "branches": [{"from_unit": each.from_unit, "seed": str(each.seed)} for each in recipe.branches],
        "noise_device": recipe.noise_device,
        "determinism": recipe.determinism,
        "attention": recipe.attention,
        "compiled": recipe.compiled,
        "image_sha256": recipe.image_digest if recipe.video_frames is None else None,
        **(
            {}
            if recipe.video_frames is None
            else {"video": {"sha256": recipe.image_digest, "num_frames": recipe.video_frames}}
        ),
        **({"vae_tiling": list(recipe.vae_tiling)} if recipe.vae_tiling else {}),
        **({} if recipe.cache is None else {"cache": dict(recipe.cache)}),
        **({} if recipe.quantization is None else {"quantization": dict(recipe.quantization)}),
        "model": dict(model),
    }


def without_timings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What is equal in the manifests of all runs that make the same clip in the same place."""
    return {name: value for name, value in manifest.items() if name != "timings"}


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that makes a manifest's clip again; the model's name is the manifest's.

    Raises:
        ValueError: a setting, the seed or a branch is invalid.
    """
    settings = manifest["settings"] | {"model": manifest["model"]["name"] or "unknown"}
    try:
        preset = preset_of(manifest["preset"], settings)
    except TypeError as error:
        raise ValueError(f"the manifest's settings are not those of this version: {error}") from error
    paths = {name: manifest.get(name, default) for name, default in BEFORE_PATHS.items()}
    video = manifest.get("video") or {}
    check_choice("determinism", manifest["determinism"], DETERMINISM_LEVELS)
    check_choice("attention", paths["attention"], ATTENTION_PATHS)
    return Recipe(
        prompt=manifest["prompt"],
        seed=parse_root(manifest["seed"]),
        branches=tuple(Branch(row["from_unit"], parse_root(row["seed"])) for row in manifest["branches"]),
        settings=preset,
        noise_device=manifest["noise_device"],
        determinism=manifest["determinism"],
        **paths,
        image_digest=video.get("sha256", manifest["image_sha256"]),
        video_frames=video.get("num_frames"),
        vae_tiling=tuple(manifest["vae_tiling"]) if manifest.get("vae_tiling") else None,
        cache=manifest.get("cache"),
        quantization=manifest.get("quantization"),
    )


def check_noise_scheme(manifest: Mapping[str, Any], where: str | Path) -> None:
    """Raise ValueError unless this version can redraw a clip's noise."""
    if manifest["noise_scheme"] not in SCHEMES:
        raise ValueError(
            f"{where} was made with noise scheme {manifest['noise_scheme']!r}; this version knows "
            f"{' and '.join(map(repr, SCHEMES))}"
        )


def geometry_of(manifest: Mapping[str, Any]) -> PyramidGeometry:
    """The geometry of the model in a manifest."""
    values = manifest["geometry"]
    kind = ChunkGeometry if "unit_frames" in values else PyramidGeometry
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def unit_digests(latents: torch.Tensor, frames_per_unit: int = 1) -> list[str]:
    """SHA-256 of each unit's latents (1, C, n, h, w): little-endian float32 in C order."""
    return [noise_digest(unit) for unit in latents.split(frames_per_unit, dim=2)]


def stage_root(stages: Sequence[Sequence[str] | None], units: Sequence[str]) -> str:
    """The Merkle root over all digests of latents in causal order, see `merkle_root`.

    Args:
        stages: per unit, SHA-256 of its latents after each stage; if a unit has no stages, or they are not
            known, the unit itself is its only leaf.
        units: SHA-256 of each unit's latents.

    Raises:
        ValueError: a digest is invalid.
    """
    digests = [each for known, unit in zip(stages, units, strict=True) for each in known or [unit]]
    for digest in digests:
        if re.fullmatch("[0-9a-f]{64}", digest) is None:
            raise ValueError(f"stages and units must be SHA-256, 64 digits of 0-9a-f, got {digest!r:.70}")
    return merkle_root([bytes.fromhex(digest) for digest in digests])


def chunk_digests(frames: Frames, geometry: PyramidGeometry) -> list[str]:
    """SHA-256 of the frames of each unit, which are decoded as one chunk, see `video.frames_digest`."""
    chunks = geometry.frames_of_units(len(frames))
    return [frames_digest(frames[chunk.start : chunk.stop]) for chunk in chunks]


def manifest_json(manifest: Mapping[str, Any]) -> str:
    """Canonical JSON on one line: sorted keys, no spaces, text not escaped."""
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate, from an undecodable command-line argument, has no UTF-8 form.
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def read_manifest(clip: str | Path) -> dict[str, Any]:
    """The manifest inside a video file, or else the one beside the clip; a .json is the manifest itself.

    Raises:
        OSError: there is no such clip, or it is neither a file nor a folder.
        ValueError: there is no manifest in it or beside it, or the manifest cannot be used.
    """
    return read_checked(clip, check_manifest)


def read_checked(clip: str | Path, check: Callable[[Any, str], None]) -> dict[str, Any]:
    """`read_manifest` for any kind of clip; `check(manifest, where)` refuses unusable manifests.

    Raises:
        OSError: there is no such clip, or it is neither a file nor a folder.
        ValueError: there is no manifest in it or beside it, or the manifest cannot be used.
    """
    check_path("clip", clip)
    clip = Path(clip)
    check_clip(clip)
    sidecar = sidecar_path(clip)
    text = _text_in(clip)
    if clip.suffix.lower() == ".json" or text or not sidecar.is_file():
        return _parsed(text, clip, check)
    check_readable(sidecar)
    manifest = _parsed(_text_in(sidecar), sidecar, check)
    digest = (manifest.get("file") or {}).get("sha256")
    # Images are compared pixel by pixel; for other files only this shows that a save was interrupted.
    if digest is not None and clip.suffix.lower() != ".png" and digest != file_digest(clip):
        raise ValueError(
            f"{sidecar} is the manifest of another file than {clip}: one with the SHA-256 {digest[:16]}...; "
            "save the clip again"
        )
    return manifest


def read_verifiable(clip: str | Path) -> dict[str, Any]:
    """`read_manifest` for a clip whose noise this version can redraw; raises as it does, or ValueError."""
    manifest = read_manifest(clip)
    check_noise_scheme(manifest, clip)
    return manifest


def _text_in(path: Path) -> str | None:
    """Text that may be a manifest: the comment tag of a video file, or the content of a .json."""
    if path.suffix.lower() != ".json":
        return _comment(path)
    try:
        return read_bounded(path, MAX_BYTES, "the manifest").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} holds no manifest of pyramid-seed, but bytes that are not UTF-8") from error


def _parsed(text: str | None, path: Path, check: Callable[[Any, str], None]) -> dict[str, Any]:
    """Parse the text of a file as a manifest.

    Raises:
        ValueError: the text is missing, of another program, of a newer schema, or damaged.
    """
    if not text:
        raise ValueError(
            f"{path} is empty"
            if path.suffix.lower() == ".json"
            else f"{path} holds no manifest, and there is no {sidecar_path(path).name} beside it"
        )
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path}: its comment must be at most {MAX_BYTES:,} characters, got {len(text):,}")
    try:
        manifest = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} holds no manifest of pyramid-seed, but {text[:60]!r}") from error
    check(manifest, str(path))
    return manifest


def check_schema(manifest: Any, where: str, schema: str, newest: int) -> None:
    """Refuse anything but a manifest of that schema, no newer than `newest`: ValueError."""
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found not in (SCHEMA, KEYED_SCHEMA):
        raise ValueError(f"{where} holds no manifest of pyramid-seed")
    if found != schema:
        maker = (
            "keyed() made; only show, verify, record and check read those"
            if found == KEYED_SCHEMA
            else "generate() made"
        )
        raise ValueError(f"{where} is a clip that {maker}")
    version = manifest.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{where}: schema_version must be a whole number of at least 1, got {version!r}")
    if version > newest:
        raise ValueError(
            f"{where} has a manifest of schema version {version}, this pyramid-seed ({__version__}) reads up "
            f"to {newest}; install a newer one"
        )


def check_manifest(manifest: Any, where: str) -> None:
    """Refuse a manifest that this version cannot read.

    Raises:
        ValueError: not ours, a newer schema, or a field that is missing or of a wrong type; it is named.
    """
    check_schema(manifest, where, SCHEMA, SCHEMA_VERSION)
    try:
        check_shape(manifest)
        if (scheme := manifest["noise_scheme"]) in SCHEMES:  # a later one may have streams unknown here
            own = NoiseLedger.from_list(manifest["ledger"]).scheme
            if scheme != own:
                raise ValueError(f"noise_scheme must be {own!r}, that of its draws, got {scheme!r}")
        if manifest.get("video") is not None:
            _check_video(manifest)
        num_units = geometry_of(manifest).num_units(recipe_of(manifest).settings.num_frames)
        digests = manifest["digests"]
        names = ("stages", "units", "chunks")
        counts = [manifest["geometry"]["num_units"], *(len(digests[name]) for name in names)]
        if counts != [num_units] * 4:
            raise ValueError(
                f"num_frames makes {num_units} units, num_units, stages, units and chunks are {counts}"
            )
        _check_stages(digests["stages"], geometry_of(manifest), manifest["image_sha256"] is not None)
        if manifest["schema_version"] > 1:
            _check_root(digests)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds a damaged manifest: {error}") from error


def _check_video(manifest: Mapping[str, Any]) -> None:
    """Refuse a video beside an image, of a model that takes none, or of other than whole units."""
    if manifest["image_sha256"] is not None or geometry_of(manifest).image_role == "unit":
        raise ValueError("a clip has image_sha256 or video, and video only with a geometry of unit_frames")
    try:
        geometry_of(manifest).check_num_frames(manifest["video"]["num_frames"])
    except ValueError as error:
        raise ValueError(f"video.{error}") from error


def _check_stages(units: Sequence[Sequence[str] | None], geometry: PyramidGeometry, has_image: bool) -> None:
    for unit, stages in enumerate(units):
        is_image = unit == 0 and has_image and geometry.image_role == "unit"
        count = 0 if is_image else geometry.num_stages
        if stages is not None and len(stages) != count:
            raise ValueError(f"digests.stages[{unit}] must be {count} texts or null, got {stages!r:.60}")


def _check_root(digests: Mapping[str, Any]) -> None:
    """Refuse digests that contradict each other or their root."""
    for unit, (stages, digest) in enumerate(zip(digests["stages"], digests["units"], strict=True)):
        if stages and stages[-1] != digest:
            raise ValueError(f"the last of digests.stages[{unit}] must be that of the unit, {digest!r:.70}")
    root = stage_root(digests["stages"], digests["units"])
    if digests.get("root") != root:
        raise ValueError(f"digests.root must be {root}, that of its stages, got {digests.get('root')!r:.70}")


def _comment(path: Path) -> str | None:
    ending = path.suffix.lower()
    if path.is_dir() or ending in (".gif", *IMAGE_ENDINGS):
        return None
    try:
        return read_comment(path)
    except ValueError:
        if ending == ".mp4":
            raise
        return None  # not a media file
