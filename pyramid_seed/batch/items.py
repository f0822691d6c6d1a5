"""What a batch is to make: rows of a list, checked and completed with defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..media.images import open_image, pixels_digest
from ..noise import check_root
from ..presets import Preset, Settings, load_preset, with_settings
from .rows import KNOWN_NAMES, OWN_NAMES, BadRow, BatchInputError, Row

_WHOLE = {"height", "width", "num_frames", "max_sequence_length", "scale"}
_REAL = {"fps", "guidance_scale", "video_guidance_scale", "guidance_decay", "min_guidance_scale"}
_STEPS = {"num_inference_steps", "video_num_inference_steps"}


@dataclass(frozen=True)
class BatchItem:
    """One clip to be made.

    Attributes:
        prompt: what to show.
        seed: root seed.
        settings: all settings after defaults.
        image: the first frame's file, None without one.
        image_digest: its `images.pixels_digest`.
    """

    prompt: str
    seed: int
    settings: Preset
    image: Path | None = None
    image_digest: str | None = None


@dataclass(frozen=True)
class Defaults:
    """What holds for rows that do not say otherwise.

    Attributes:
        preset: a name or a .yaml file.
        settings: values that replace the preset's.
        seeds: root seeds; a clip is made of each.
    """

    preset: str | Path | Preset = "tiny"
    settings: Settings | None = None
    seeds: Sequence[int] = (0,)


def items_from_rows(
    rows: Iterable[Row],
    defaults: Defaults,
    *,
    where: str,
    folder: Path,
    check: Callable[[BatchItem], object],
) -> tuple[list[BatchItem], list[BadRow]]:
    """One item for each row and each of its seeds; and the rows of which none can be made.

    A row's values replace the defaults' settings, which replace the preset's.

    Args:
        rows: see `rows.read_rows`.
        defaults: see there.
        where: what to call the list in messages.
        folder: where relative paths of images start.
        check: raises ValueError, TypeError or OSError if the model of an item cannot make it.
    """
    items: list[BatchItem] = []
    bad: list[BadRow] = []
    for row in rows:
        try:
            found = _items_of(row.values, defaults, folder)
            for item in found:
                check(item)
            items += found
        except (ValueError, TypeError, OSError) as error:
            bad.append(BadRow(f"{where}, line {row.line}", str(error)))
    return items, bad


def refuse_bad_rows(bad: Sequence[BadRow], num_items: int, where: str) -> None:
    """Raise BatchInputError if there are bad rows, ValueError if there is nothing to make."""
    if bad:
        raise BatchInputError(bad)
    if not num_items:
        raise ValueError(f"{where} holds no prompts")


def _items_of(values: dict[str, Any], defaults: Defaults, folder: Path) -> list[BatchItem]:
    own = {name: values[name] for name in OWN_NAMES if name in values}
    given = {name: _from_text(name, value) for name, value in values.items() if name not in OWN_NAMES}
    if unknown := [str(name) for name in values if name not in KNOWN_NAMES]:
        raise ValueError(f"unknown {', '.join(map(repr, unknown))}; known are {', '.join(KNOWN_NAMES)}")
    prompt = own.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt must be text that is not empty, got {prompt!r}")

    chosen = own.get("preset", defaults.preset)
    preset = chosen if isinstance(chosen, Preset) else load_preset(_text("preset", chosen))
    merged: dict[str, Any] = {**(defaults.settings or {}), **given}
    settings = with_settings(preset, Settings(**merged))  # type: ignore[typeddict-item]

    image, digest = None, None
    if own.get("image") is not None:
        image = (folder / _text("image", own["image"])).resolve()
        picture = open_image(image)
        digest = pixels_digest(picture)
        if not merged.keys() & {"height", "width"}:
            settings = replace(settings, height=picture.height, width=picture.width)
        if (picture.height, picture.width) != (settings.height, settings.width):
            raise ValueError(
                f"{image} must have the clip's height and width {settings.height} x {settings.width}, got "
                f"{picture.height} x {picture.width}; resize it first"
            )
    seeds = _seeds(own["seed"]) if own.get("seed") is not None else list(defaults.seeds)
    for seed in seeds:
        check_root(seed)
    return [BatchItem(prompt, seed, settings, image, digest) for seed in seeds]


def _seeds(value: Any) -> list[int]:
    """One seed or several: an int, text (numbers parted by spaces), or a list of those."""
    each = value if isinstance(value, list) else value.split() if isinstance(value, str) else [value]
    seeds = []
    for seed in each:
        if isinstance(seed, str) and seed.isascii() and seed.isdecimal():
            seed = int(seed)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"seed must be a whole number in 0 .. 2**64 - 1, or several, got {value!r}")
        seeds.append(seed)
    if not seeds:
        raise ValueError("seed must name at least one number")
    return seeds


def _text(name: str, value: Any) -> str | Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def _from_text(name: str, value: Any) -> Any:
    """Numbers that are written as text, as all cells of a .csv are."""
    if not isinstance(value, str):
        return value
    try:
        if name in _WHOLE:
            return int(value)
        if name in _REAL:
            return float(value)
        if name in _STEPS:
            steps = [int(each) for each in value.split()]
            return steps[0] if len(steps) == 1 else steps
    except ValueError as error:
        kind = "a number" if name in _REAL else "a whole number"
        raise ValueError(f"{name} must be {kind}, got {value!r}") from error
    return value
