"""Settings and presets: named settings, one YAML file each in `configs/`. Nothing here imports torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict, cast

from msgspec import Meta

from .checks import did_you_mean
from .choices import DTYPES, FITS, MAX_SHARDS, Fit
from .families import PUBLISHED_MODELS
from .fields import about, described_fields, with_fields_listed
from .resources import configs_path, resolve_model
from .texts import check_prompt, read_bounded

_MAX_PRESET_BYTES = 2**16  # 40 times the largest of ours
DEFAULT_PRESET = "tiny"
"""The preset if neither a preset nor a model is named."""
CUSTOM = "custom"
"""The preset's name if all settings were given one by one."""
NUM_STAGES = 3
"""Stages of the published models, to expand a single number of steps when nothing else says how many."""

# The limits are far above what anyone needs, and exclude what would run for days or not fit into memory.
MAX_SIDE, MAX_FRAMES, MAX_STEPS, MAX_TOKENS, MAX_SCALE = 8192, 100_000, 10_000, 512, 64
_MAX_FILE_SIDE = 2**14  # pixels of a video's side; H.264 allows no longer one

Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=4096, pattern=r"\A[^\x00]*\Z", title="non-empty text")
]
Text: TypeAlias = Annotated[str, Meta(title="text")]
Count: TypeAlias = Annotated[int, Meta(ge=1, title="a whole number of at least 1")]
Side: TypeAlias = Annotated[Count, Meta(le=MAX_SIDE)]
Steps: TypeAlias = Annotated[
    tuple[Annotated[Count, Meta(le=MAX_STEPS)], ...],
    Meta(min_length=1, max_length=16, title="a whole number of at least 1, or several, one per stage"),
]
Sizes: TypeAlias = Annotated[
    tuple[tuple[Side, Side], ...], Meta(max_length=64, title="a list of [height, width] in pixels")
]
# The upper limits exclude infinity, and whole numbers too large for a float; NaN is not above 0.
Number: TypeAlias = Annotated[
    Annotated[int, Meta(ge=0, le=2**53)] | Annotated[float, Meta(ge=0, le=sys.float_info.max)],
    Meta(title="a number of at least 0"),
]
PositiveNumber: TypeAlias = Annotated[
    Annotated[int, Meta(gt=0, le=2**53)] | Annotated[float, Meta(gt=0, le=sys.float_info.max)],
    Meta(title="a number above 0"),
]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a generation, as read from a YAML file whose keys are these names (without `name`).

    `about` says what each is and who reads it: the loader of the model, the pipeline, or the writer of the
    file.
    """

    name: str
    description: Text = about("one line for people", default="")
    model: Name = about("folder or hub id of a checkpoint, or embedded:tiny", "model", "MODEL")
    variant: Name | None = about(
        "384p, 768p or image: which transformer of the checkpoint", "model", "VARIANT", default=None
    )
    dtype: Name = about("number format of the model: float32 or bfloat16", "model", choices=DTYPES)
    negative_prompt: Text = about(
        "what the video should not show; needs guidance above 1", "pipeline", "TEXT", default=""
    )
    prompt_suffix: Text = about("appended to the prompt", "pipeline", "TEXT", default="")
    height: Side = about(
        "in pixels: a multiple of 32 for tiny, of 64 for the published models", "pipeline", "PIXELS"
    )
    width: Side = about("in pixels: a multiple of the same number", "pipeline", "PIXELS")
    num_frames: Annotated[Count, Meta(le=MAX_FRAMES)] = about(
        "frames of the clip: 4k + 1 for tiny, 8k + 1 for Pyramid Flow, a multiple of 33 for Helios",
        "pipeline",
    )
    fps: PositiveNumber = about("frames per second of the file", "file")
    num_inference_steps: Steps = about(
        "steps of the first unit: one number for all stages, or one per stage, coarsest first", "pipeline"
    )
    video_num_inference_steps: Steps | None = about(
        "steps of later units, where they differ from the first's", "pipeline", default=None
    )
    guidance_scale: Number = about("guidance of the first unit; at most 1 means none", "pipeline", "X")
    video_guidance_scale: Number | None = about(
        "guidance of later units, where it differs from the first's", "pipeline", "X", default=None
    )
    guidance_decay: Number | None = about(
        "in place of video_guidance_scale: lower guidance by X per unit", "pipeline", "X", default=None
    )
    min_guidance_scale: Number = about(
        "the lowest guidance that guidance_decay leads to", "pipeline", "X", default=2.0
    )
    max_sequence_length: Annotated[Count, Meta(le=MAX_TOKENS)] = about(
        "tokens of the prompt that the sequence encoder sees", "pipeline"
    )
    shards: Annotated[Count, Meta(le=MAX_SHARDS)] | None = about(
        "cut each step into pieces that workers and processes share: 1: the halves of guidance; more: the "
        "sequence of each half too; with other shards results differ in the last bits",
        "pipeline",
        default=None,
    )
    fit: Fit | None = about(
        "how an image of another size is made to fit the clip; without it, the clip takes the image's size",
        "image",
        choices=FITS,
        default=None,
    )
    scale: Annotated[Count, Meta(le=MAX_SCALE)] = about(
        "show every pixel as N x N pixels in the file", "file", default=1
    )
    trained_sizes: Sizes = about(
        "the [height, width] that the model was trained on, where that is known", default=()
    )
    trained_frames: Annotated[Count, Meta(le=MAX_FRAMES)] | None = about(
        "the most frames that the model was trained on, where that is known", default=None
    )

    def __post_init__(self) -> None:
        side = max(self.height, self.width)
        if side * self.scale > _MAX_FILE_SIDE:
            raise ValueError(
                f"scale must keep the file's height and width within {_MAX_FILE_SIDE} pixels, got "
                f"{self.scale} for {side}; use {_MAX_FILE_SIDE // side}"
            )
        for name in ("description", "negative_prompt", "prompt_suffix"):
            check_prompt(getattr(self, name), name)


_FIELDS = described_fields(Preset)
SETTINGS = {name: described for name, described in _FIELDS.items() if described.reader}
"""Every setting: its type with its range, its sentence for people, its reader."""

settings_listed = with_fields_listed("Settings", SETTINGS)
"""A decorator that lists all settings at the end of the docstring of a function with **settings."""
settings_listed(Preset)


class Settings(TypedDict, total=False):
    """Settings that replace a preset's, for type checkers: the names in `SETTINGS`."""

    model: str
    variant: str | None
    dtype: str
    height: int
    width: int
    num_frames: int
    fps: float
    num_inference_steps: int | Sequence[int]
    video_num_inference_steps: int | Sequence[int] | None
    guidance_scale: float
    video_guidance_scale: float | None
    guidance_decay: float | None
    min_guidance_scale: float
    negative_prompt: str
    prompt_suffix: str
    max_sequence_length: int
    shards: int | None
    fit: Fit | None
    scale: int


def with_settings(preset: Preset, settings: Settings) -> Preset:
    """The preset with some of its values replaced.

    A preset's variant belongs to its own model. A model given without a variant, in a folder that
    `save_pretrained` wrote, has one transformer: the variant is then None.

    Raises:
        TypeError: the setting does not exist; the message names the nearest one.
        ValueError: a value breaks its rule.
    """
    for name in settings:
        if name not in SETTINGS:
            raise TypeError(f"unknown setting {name!r}{did_you_mean(name, tuple(SETTINGS))}")
    values = _decoded(settings, len(preset.num_inference_steps))
    if "model" in values and "variant" not in values and _was_saved_by_diffusers(values["model"]):
        values["variant"] = None
    return replace(preset, **values)


def named_settings(preset: str | Path | Preset | None, settings: Settings) -> Preset | None:
    """The settings of a clip, from the named preset or the default one; None if its model has them.

    Args:
        preset: a preset, its name or file.
        settings: values that replace the preset's.
    """
    if preset is None and "model" in settings:
        return None
    preset = DEFAULT_PRESET if preset is None else preset
    return with_settings(preset if isinstance(preset, Preset) else load_preset(preset), settings)


def gives_size(settings: Settings, preset: Preset | None) -> bool:
    """Whether an image sets its clip's size: it does if neither a size nor a fit is given.

    Args:
        settings: values that replace the preset's.
        preset: None if none was named.
    """
    fit = settings.get("fit", None if preset is None else preset.fit)
    return fit is None and not settings.keys() & {"height", "width"}


def with_size(settings: Settings, height: int, width: int) -> Settings:
    """The settings with another size, in pixels."""
    return settings | Settings(height=height, width=width)


def settings_of_model(
    model: str, own: Preset | None, settings: Settings, num_stages: int = NUM_STAGES
) -> Preset:
    """The settings of a clip without a named preset: its model's own, with some values replaced.

    Args:
        model: the model's name in messages.
        own: the settings that it is made for; None if unknown: `settings` must then have all those without a
            default, except the dtype, which is float32 as in `load_pipeline`.
        settings: the values.
        num_stages: the model's; a single number of steps is used for each.

    Raises:
        TypeError, ValueError: as `with_settings`; or settings are missing; the message names them.
    """
    if own is not None:
        return with_settings(own, settings)
    given = {"model": model, "dtype": "float32", **settings}
    if missing := [name for name in SETTINGS if SETTINGS[name].default is MISSING and name not in given]:
        raise ValueError(
            f"no preset knows {model}: name the settings that it needs ({', '.join(missing)}), or a preset"
        )
    return preset_of(CUSTOM, given, num_stages)


def untrained(settings: Preset, own: Preset | None) -> tuple[str, ...]:
    """Messages about settings beyond a model's training; () if there are none, or it is unknown.

    Args:
        settings: the clip's.
        own: those that the model is made for, None if unknown.
    """
    if own is None:
        return ()
    notes = []
    if own.trained_sizes and (settings.height, settings.width) not in own.trained_sizes:
        sizes = " or ".join(f"{height}x{width}" for height, width in own.trained_sizes)
        notes.append(
            f"the model was trained on {sizes} pixels, the clip has {settings.height}x{settings.width}"
        )
    if own.trained_frames is not None and settings.num_frames > own.trained_frames:
        most = own.trained_frames
        notes.append(f"the model was trained on at most {most} frames, the clip has {settings.num_frames}")
    return tuple(f"{note}; the video may fall apart" for note in notes)


def preset_of(name: str, values: Mapping[str, object], num_stages: int = NUM_STAGES) -> Preset:
    """The preset with a name and these values, as in a file or a manifest; `num_stages` as above.

    Raises:
        TypeError: a key is unknown, or one without a default is missing.
        ValueError: a value breaks its rule.
    """
    for key in values:
        if key not in _FIELDS:
            raise TypeError(f"unknown key {key!r}{did_you_mean(str(key), tuple(_FIELDS))}")
    missing = [key for key in _FIELDS if _FIELDS[key].default is MISSING and key not in values]
    if missing:
        raise TypeError(f"missing {', '.join(missing)}")
    return Preset(name=name, **_decoded(values, num_stages))


def preset_config(preset: Preset) -> dict[str, Any]:
    """A preset in the form of a pipeline's config, to travel with the model: all but model and variant."""
    values = {name: getattr(preset, name) for name in ("name", *_FIELDS) if name not in ("model", "variant")}
    return json.loads(json.dumps(values))  # tuples as lists, as in a file


def preset_from_config(config: Mapping[str, Any], model: str) -> Preset:
    """The preset of a `preset_config`, for the model that holds it; raises as `preset_of`."""
    values = dict(config)
    return preset_of(_FIELDS["model"].decode(values.pop("name", None)), values | {"model": model})


def pipeline_arguments(preset: Preset) -> dict[str, Any]:
    """The settings that are arguments of the pipeline's call, under its names."""
    names = [name for name in SETTINGS if SETTINGS[name].reader == "pipeline"]
    values = {name: getattr(preset, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _decoded(values: Mapping[str, Any], num_stages: int) -> dict[str, Any]:
    """Values in a preset's form; a single number of steps is used for every stage.

    Args:
        values: as given.
        num_stages: how many stages there are unless the values name a published model.
    """
    decoded = {name: _FIELDS[name].decode(value) for name, value in values.items()}
    if (family := PUBLISHED_MODELS.get(decoded.get("model", ""))) is not None:
        num_stages = family.published_geometry.num_stages
    steps = [name for name, value in decoded.items() if name.endswith("_steps") and value is not None]
    several = [name for name in steps if isinstance(values[name], Sequence)]
    for name in set(steps) - set(several):
        decoded[name] *= len(decoded[several[0]]) if several else num_stages
    return decoded


def _was_saved_by_diffusers(model: str) -> bool:
    return (Path(resolve_model(model)).expanduser() / "model_index.json").is_file()


def list_presets() -> tuple[str, ...]:
    """The names of the presets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in configs_path().glob("*.yaml")))


def load_preset(name_or_path: str | os.PathLike[str]) -> Preset:
    """Read a preset by its name, or from a file of your own (a path that ends in .yaml or .yml).

    A file gives every setting that has no default; or `base: NAME`, a preset of the package, and the
    settings that differ from that one's.

    Raises:
        ValueError: an unknown name; or a file with an unknown, repeated or missing key, or a wrong value.
            The message names file, key and value, and the nearest known one.
        FileNotFoundError: the file is missing.
        TypeError: it is neither a name nor a path.
    """
    if not isinstance(name_or_path, str | os.PathLike) or isinstance(os.fspath(name_or_path), bytes):
        kind = type(name_or_path).__name__
        raise TypeError(
            f"preset must be a preset, its name or a .yaml file, got {name_or_path!r:.60} of type {kind}"
        )
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return _read(Path(name_or_path))
    name, names = os.fspath(name_or_path), list_presets()
    if name not in names:
        raise ValueError(f"no preset named {name!r}{did_you_mean(name, names)} Known are {', '.join(names)}")
    return _packaged(configs_path() / f"{name}.yaml")


@cache
def _packaged(path: Path) -> Preset:
    """A preset of the package's own; these do not change."""
    return _read(path)


def _read(path: Path) -> Preset:
    import yaml  # here, so that the command line's help does not wait for it

    from .unique_keys import YAML_ERRORS, UniqueKeyLoader

    data = read_bounded(path, _MAX_PRESET_BYTES, "the preset")
    try:
        values = yaml.load(data.decode("utf-8-sig"), UniqueKeyLoader)  # a SafeLoader
    except YAML_ERRORS as error:
        raise ValueError(f"{path} is not a valid preset: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a valid preset: expected `key: value` lines, got {values!r:.60}")
    try:
        if "base" not in values:
            return preset_of(path.stem, values)
        return replace(with_settings(_base(values.pop("base")), cast("Settings", values)), name=path.stem)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _base(name: object) -> Preset:
    """The preset that a file starts from: one of the package's own, so that no file depends on another."""
    names = list_presets()
    if not isinstance(name, str) or name not in names:
        raise ValueError(
            f"base must be a preset of the package, got {name!r:.60}{did_you_mean(str(name), names)} "
            f"Known are {', '.join(names)}"
        )
    return load_preset(name)
