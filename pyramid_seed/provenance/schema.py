"""The shape of a manifest of schema version 1 or 2 (docs/manifest.md), as types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from ..files import FileRow
from ..media.labels import LabelRow
from ..presets import MAX_FRAMES, MAX_SCALE

BEFORE_PATHS: dict[str, Any] = {"attention": "reference", "compiled": False}
"""Fields missing from the first manifests of this schema, with the values that applied then."""

_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
_WORDS |= {"array": "a list", "object": "an object", "int | float": "a number"}


class _Branch(msgspec.Struct):
    from_unit: int
    seed: str


class _Model(msgspec.Struct):
    kind: str
    name: str | None
    revision: str | None


class _Lora(FileRow, kw_only=True):
    adapter: str
    scale: int | float
    fused: bool
    padded_rank: int | None = None


_Factor: TypeAlias = Annotated[int, msgspec.Meta(le=256)]


class _Geometry(msgspec.Struct):
    num_units: int
    latent_channels: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    spatial_factor: _Factor
    temporal_factor: _Factor
    patch_size: _Factor
    num_stages: Annotated[int, msgspec.Meta(le=16)]
    unit_frames: _Factor = 1


class _Digests(msgspec.Struct, kw_only=True):
    text: dict[str, str]
    stages: list[list[str] | None]
    units: list[str]
    root: str | None = None
    chunks: list[str]
    frames: str


class Environment(msgspec.Struct):
    """See `environment.environment_fingerprint`."""

    packages: dict[str, Any] = {}
    libraries: dict[str, Any] = {}
    device: dict[str, Any] = {}


class _Timings(msgspec.Struct):
    load_seconds: int | float
    seconds: int | float


class _Search(msgspec.Struct):
    """The search that a clip has won, see docs/search.md."""

    merkle_root: str


class Written(msgspec.Struct):
    """How a file shows the frames."""

    scale: Annotated[int, msgspec.Meta(ge=1, le=MAX_SCALE)] = 1
    lossless: bool = False
    smooth: bool = False
    sha256: str | None = None
    aigc: dict[str, str] | None = None
    visible_label: LabelRow | None = None


class _Video(msgspec.Struct):
    """The video that a clip goes on from."""

    sha256: str
    num_frames: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)]


class Manifest(msgspec.Struct, kw_only=True):
    """The manifest that `generate` writes."""

    package_version: str
    noise_scheme: str
    prompt: str
    preset: str
    settings: dict[str, Any]
    seed: str
    branches: list[_Branch]
    noise_device: str
    determinism: str
    attention: str = BEFORE_PATHS["attention"]
    compiled: bool = BEFORE_PATHS["compiled"]
    image_sha256: str | None
    video: _Video | None = None
    vae_tiling: list[int] = []
    cache: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    model: _Model
    weights: list[FileRow] | None
    weights_note: str = ""
    loras: list[_Lora] | None
    geometry: _Geometry
    ledger: list[dict[str, Any]]
    digests: _Digests
    environment: Environment
    text_environment: Environment | None = None
    notes: list[str] = []
    timings: _Timings | None = None
    search: _Search | None = None
    file: Written | None = None


def check_shape(manifest: Mapping[str, Any], shape: type[msgspec.Struct] = Manifest) -> None:
    """Refuse a manifest of another shape; unknown fields are ignored.

    Raises:
        ValueError: a field is missing or has another type; the message names it.
    """
    try:
        msgspec.convert(manifest, shape)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), manifest)) from None


def _in_words(message: str, manifest: Mapping[str, Any]) -> str:
    """An msgspec message, such as "Expected `str`, got `int` - at `$.branches[0].seed`", with the value."""
    reason, _, place = message.partition(" - at `$")
    place = place.removeprefix(".").removesuffix("`")
    if missing := re.fullmatch("Object missing required field `(.*)`", reason):
        return f"{place}.{missing[1]} is missing".removeprefix(".")
    if "`" not in reason:
        return f"{place}: {reason[0].lower()}{reason[1:]}"  # such as "invalid enum value 'loose'"
    value: Any = manifest
    for index, name in re.findall(r"\[(\d+)\]|(\w+)", place.partition("[...]")[0]):  # some dict entry
        value = value[int(index) if index else name]
    expected, limit = reason.split("`")[1], reason.rpartition("`")[2]  # such as " <= 256"
    rule = _WORDS.get(expected) or " or ".join(_WORDS.get(word, word) for word in expected.split(" | "))
    return f"{place} must be {rule}{limit}, got {value!r:.60}"
