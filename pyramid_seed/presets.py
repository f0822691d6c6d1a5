"""Presets: named settings, one YAML file each in `configs/`. Reading them does not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import yaml

from .checks import did_you_mean
from .resources import configs_path, resolve_model


@dataclass(frozen=True)
class Preset:
    """Settings of a generation, as read from a YAML file whose keys are these names (without `name`).

    Attributes:
        name: The file's name without its ending.
        description: One line for people.
        model: `embedded:NAME` for a model that comes with the package, else a folder or a hub id.
        variant: Which of the model's transformers, such as "384p"; None if there is only one.
        dtype: "float32" or "bfloat16".
        height: Pixels.
        width: Pixels.
        num_frames: Pixel frames of the clip.
        fps: Frames a second of the saved clip.
        num_inference_steps: Steps of the first unit, one count a stage, coarsest first.
        video_num_inference_steps: The same for the other units; None for the same counts.
        guidance_scale: Guidance of the first unit.
        video_guidance_scale: Guidance of the other units; None for the same.
        guidance_decay: With a value d, unit u uses max(guidance_scale - d * u, min_guidance_scale).
        min_guidance_scale: The floor of that line.
        negative_prompt: What guidance leads away from.
        prompt_suffix: Appended to every prompt.
        max_sequence_length: Tokens of the prompt that the sequence encoder sees.
        scale: Saved files show every pixel as scale x scale pixels; frames and digest stay as generated.
    """

    name: str
    model: str
    dtype: str
    height: int
    width: int
    num_frames: int
    fps: float
    num_inference_steps: tuple[int, ...]
    guidance_scale: float
    max_sequence_length: int
    description: str = ""
    variant: str | None = None
    video_num_inference_steps: tuple[int, ...] | None = None
    video_guidance_scale: float | None = None
    guidance_decay: float | None = None
    min_guidance_scale: float = 2.0
    negative_prompt: str = ""
    prompt_suffix: str = ""
    scale: int = 1


class Settings(TypedDict, total=False):
    """Settings that replace a preset's: any of its values, steps also as one int for all stages."""

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
    scale: int


def with_settings(preset: Preset, settings: Settings) -> Preset:
    """The preset with some of its values replaced.

    A preset's variant is one of its own model. A model given without a variant, in a folder that
    `save_pretrained` wrote, has one transformer: the variant is None then.

    Raises:
        TypeError: there is no such setting; the nearest one is named.
        ValueError: a value breaks its rule.
    """
    for key in settings:
        if key not in Settings.__annotations__:
            raise TypeError(f"unknown setting {key!r}{did_you_mean(key, tuple(Settings.__annotations__))}")
    values: dict[str, Any] = dict(settings)
    for key in ("num_inference_steps", "video_num_inference_steps"):
        if isinstance(steps := values.get(key), int | tuple):
            values[key] = [steps] * len(preset.num_inference_steps) if isinstance(steps, int) else list(steps)
    checked = {key: _checked(key, value) for key, value in values.items()}
    if "model" in checked and "variant" not in checked and _was_saved_by_diffusers(checked["model"]):
        checked["variant"] = None
    return replace(preset, **checked)


def pipeline_arguments(preset: Preset) -> dict[str, Any]:
    """What a call of the pipeline takes of a preset: all but the model, and how the clip is saved."""
    later = preset.video_num_inference_steps
    return {
        "height": preset.height,
        "width": preset.width,
        "num_frames": preset.num_frames,
        "num_inference_steps": list(preset.num_inference_steps),
        "video_num_inference_steps": None if later is None else list(later),
        "guidance_scale": preset.guidance_scale,
        "video_guidance_scale": preset.video_guidance_scale,
        "guidance_decay": preset.guidance_decay,
        "min_guidance_scale": preset.min_guidance_scale,
        "negative_prompt": preset.negative_prompt,
        "prompt_suffix": preset.prompt_suffix,
        "max_sequence_length": preset.max_sequence_length,
    }


def _was_saved_by_diffusers(model: str) -> bool:
    return (Path(resolve_model(model)).expanduser() / "model_index.json").is_file()


def list_presets() -> tuple[str, ...]:
    """The names of the presets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in configs_path().glob("*.yaml")))


def load_preset(name_or_path: str | os.PathLike[str]) -> Preset:
    """Read a preset by its name, or from a file of your own (a path that ends in .yaml or .yml).

    Raises:
        ValueError: an unknown name; or a file with an unknown, repeated or missing key, or a wrong value.
            The message names file, key and value, and the nearest thing that is known.
        FileNotFoundError: the file is missing.
    """
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return _read(Path(name_or_path))
    name, known = os.fspath(name_or_path), list_presets()
    if name not in known:
        raise ValueError(f"no preset named {name!r}{did_you_mean(name, known)} Known are {', '.join(known)}")
    return _read(configs_path() / f"{name}.yaml")


def _read(path: Path) -> Preset:
    if not path.exists():
        raise FileNotFoundError(f"the preset {path} does not exist")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a valid preset: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not a valid preset: expected `key: value` lines, got {settings!r}")

    known = {field.name: field for field in fields(Preset) if field.name != "name"}
    for key in settings:
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}{did_you_mean(str(key), tuple(known))}")
    missing = [key for key, field in known.items() if field.default is MISSING and key not in settings]
    if missing:
        raise ValueError(f"{path}: missing {', '.join(missing)}")
    try:
        values = {key: _checked(key, value) for key, value in settings.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Preset(name=path.stem, **values)


def _checked(key: str, value: Any) -> Any:
    if value is None and key in _MAY_BE_NONE:
        return None
    rule, is_right = _RULES[key]
    if not is_right(value):
        raise ValueError(f"{key} must be {rule}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_count, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


_Rule = tuple[str, Callable[[Any], bool]]
_TEXT: _Rule = ("text", _is_text)
_NAME: _Rule = ("text that is not empty", _is_name)
_COUNT: _Rule = ("a whole number of at least 1", _is_count)
_COUNTS: _Rule = ("a list of whole numbers of at least 1, one a stage", _is_counts)
_NUMBER: _Rule = ("a number of at least 0", _is_number)

_RULES: dict[str, _Rule] = {
    "description": _TEXT,
    "model": _NAME,
    "variant": _NAME,
    "dtype": ("float32 or bfloat16", lambda value: value in ("float32", "bfloat16")),
    "height": _COUNT,
    "width": _COUNT,
    "num_frames": _COUNT,
    "fps": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "num_inference_steps": _COUNTS,
    "video_num_inference_steps": _COUNTS,
    "guidance_scale": _NUMBER,
    "video_guidance_scale": _NUMBER,
    "guidance_decay": _NUMBER,
    "min_guidance_scale": _NUMBER,
    "negative_prompt": _TEXT,
    "prompt_suffix": _TEXT,
    "max_sequence_length": _COUNT,
    "scale": _COUNT,
}
_MAY_BE_NONE = frozenset({"variant", "video_num_inference_steps", "video_guidance_scale", "guidance_decay"})


class UniqueKeyLoader(yaml.SafeLoader):
    """A key given twice is a mistake; plain YAML keeps the last one and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)
