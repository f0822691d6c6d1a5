"""What a batch is to make: rows of a list, checked and completed with defaults."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ..checkpoints.source import RecognisedModel
from ..checks import check_kinds, check_path
from ..files import real_path
from ..first_image import in_clip_size, sized_by_image
from ..loading import LoraToLoad, loras_to_load
from ..loras import named_loras
from ..media.images import open_image, pixels_digest
from ..model_presets import chosen_settings, misfit
from ..noise import Branch, NoiseStreams
from ..presets import SETTINGS, Preset, Settings, load_preset
from ..seeds import parse_root, plain_root
from .rows import STANDARD_INPUT, BadRow, BatchInputError, Row, check_names, name_of, stream_rows

logger = logging.getLogger(__name__)

MOST_REMEMBERED = 1024
"""How many checked kinds of clips are remembered: a list may have an image or negative prompt per row."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One clip to be made.

    Attributes:
        prompt: what to show.
        seed: root seed.
        settings: all settings, with defaults filled in.
        image: its image's file; None if there is none.
        image_digest: its `images.pixels_digest`.
        loras: LoRAs that the model is loaded with, in the order in which they are added.
        branches: units from which another root seed is used.
    """

    prompt: str
    seed: int
    settings: Preset
    image: Path | None = None
    image_digest: str | None = None
    loras: tuple[LoraToLoad, ...] = ()
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Defaults:
    """Values for rows that do not give their own.

    Attributes:
        preset: a name or a .yaml file; None: see `model_presets.chosen_settings`.
        settings: values that replace the preset's.
        seeds: root seeds; one clip is made per seed.
        loras: LoRA files, each with its scale.
    """

    preset: str | Path | Preset | None = None
    settings: Settings | None = None
    seeds: Sequence[int] = (0,)
    loras: Mapping[str | Path, float] | None = None

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        check_kinds(loras=(self.loras, Mapping))


def items_from_rows(
    rows: Iterable[Row | BadRow],
    defaults: Defaults,
    *,
    where: str,
    folder: Path,
    source_of: Callable[[str, str | None], RecognisedModel],
    check: Callable[[BatchItem], object],
    check_text: Callable[[BatchItem], object] = lambda _: None,
) -> tuple[list[BatchItem], list[BadRow]]:
    """One item per row and seed; and the rows that cannot be made.

    A row's values replace the defaults' settings, which replace the preset's. Whatever a row holds besides
    prompt, seed and branches is looked up and checked once: items that agree in it share their settings.

    Args:
        rows: see `rows.stream_rows`.
        defaults: values for rows that do not give their own.
        where: what to call the list in messages.
        folder: the base of relative paths of images and LoRAs.
        source_of: see `model_presets.chosen_settings`.
        check: raises ValueError, TypeError or OSError if the item's model cannot make it; called once for
            items that differ only in prompt, seed and branches.
        check_text: the same, but called for every row, after `check`.
    """
    items: list[BatchItem] = []
    bad: list[BadRow] = []
    preset_of_name, warn_once = cache(load_preset), cache(logger.warning)
    # Files are read once; a list of LoRAs is identified by their files and scales, in order.
    known_loras = cache(lambda named: loras_to_load(dict(named)))
    settings_by_text: dict[str, Preset] = {}
    checked: dict[str, BatchItem] = {}
    default_seeds = [plain_root(seed) for seed in defaults.seeds]
    for row in rows:
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            prompt, seeds, branches, rest = _parted(row.values)
            text = repr(rest)  # equal values may have different texts: 1, True and 1.0
            if (like := checked.get(text)) is None:
                like = _item_of(rest, defaults, folder, preset_of_name, source_of, known_loras, warn_once)
                shared = settings_by_text.setdefault(repr(like.settings), like.settings)
                check(like := replace(like, settings=shared, prompt=prompt))
                if len(checked) >= MOST_REMEMBERED:
                    checked.clear()
                    settings_by_text.clear()
                checked[text] = like
            items_of_row = [
                BatchItem(prompt, seed, like.settings, like.image, like.image_digest, like.loras, branches)
                for seed in (default_seeds if seeds is None else seeds)
            ]
            if items_of_row:
                check_text(items_of_row[0])
            items += items_of_row
        except (ValueError, TypeError, OSError) as error:
            bad.append(BadRow(f"{where}, line {row.line}", str(error)))
    return items, bad


def items_of_list(
    source: str | Path,
    file_format: str | None,
    defaults: Defaults,
    *,
    source_of: Callable[[str, str | None], RecognisedModel],
    check: Callable[[BatchItem], object],
    check_text: Callable[[BatchItem], object] = lambda _: None,
    keep_going: bool = False,
) -> tuple[list[BatchItem], list[BadRow]]:
    """The items of a list, at least one, and its bad rows.

    Args:
        source, file_format: see `rows.stream_rows`.
        defaults, source_of, check, check_text: see `items_from_rows`.
        keep_going: allow bad rows if the other rows can be made.

    Raises:
        BatchInputError: there are bad rows. ValueError: there are no rows. ValueError, OSError: see
            `rows.stream_rows`.
    """
    check_path("prompts", source)
    where = name_of(source)
    items, bad = items_from_rows(
        stream_rows(source, file_format),
        defaults,
        where=where,
        folder=Path() if str(source) == STANDARD_INPUT else Path(source).parent,
        source_of=source_of,
        check=check,
        check_text=check_text,
    )
    if not keep_going or not items:
        refuse_bad_rows(bad, len(items), where)
    return items, bad


def check_seeds(seeds: object) -> None:
    """Refuse anything but root seeds: TypeError, ValueError."""
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence):
        raise TypeError(f"seeds must be a list of root seeds, got {seeds!r:.60}; use [{seeds!r:.40}]")
    for seed in seeds:
        plain_root(seed)


def refuse_bad_rows(bad: Sequence[BadRow], num_items: int, where: str) -> None:
    """Raise BatchInputError if there are bad rows, ValueError if there is nothing to make."""
    if bad:
        raise BatchInputError(bad)
    if not num_items:
        raise ValueError(f"{where} contains no prompts")


def _parted(
    values: dict[str, Any],
) -> tuple[str, list[int] | None, tuple[Branch, ...], dict[str, Any]]:
    """A row's prompt, its seeds (None if it gives none), its branches, and its other values."""
    check_names(values)
    rest = dict(values)
    prompt, seed, branches = (rest.pop(name, None) for name in ("prompt", "seed", "branches"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt must be non-empty text, got {prompt!r:.60}")
    seeds = None if seed is None else [plain_root(each) for each in _seeds(seed)]
    return prompt, seeds, _branches(branches), rest


def _item_of(
    values: dict[str, Any],
    defaults: Defaults,
    folder: Path,
    preset_of_name: Callable[[str | Path], Preset],
    source_of: Callable[[str, str | None], RecognisedModel],
    known_loras: Callable[[tuple[tuple[str | Path, float], ...]], tuple[LoraToLoad, ...]],
    warn: Callable[[str], object],
) -> BatchItem:
    """An item without a prompt, from all that a row holds besides prompt and seed."""
    given: dict[str, Any] = {**(defaults.settings or {})}
    for name in filter(values.__contains__, SETTINGS):
        value = values[name]
        given[name] = SETTINGS[name].parse(value) if isinstance(value, str) else value
    wanted = Settings(**given)  # type: ignore[typeddict-item]
    preset = values.get("preset", defaults.preset)
    if preset is not None and not isinstance(preset, Preset):
        preset = preset_of_name(_text("preset", preset))

    def choose(chosen: Settings) -> Preset:
        return chosen_settings(preset, chosen, source_of)

    if values.get("image") is None:
        image, digest, settings = None, None, choose(wanted)
    else:
        image = real_path(folder / _text("image", values["image"]))
        first_frame = open_image(image)
        size = first_frame.height, first_frame.width
        settings = sized_by_image(first_frame, size, wanted, preset, choose)
        _check_size(image, in_clip_size(first_frame, settings), settings)
        digest = pixels_digest(first_frame)
    if preset is not None and (warning := misfit(preset, settings, source_of)) is not None:
        warn(warning)
    named = defaults.loras or {}
    if values.get("lora") is not None:
        named = named_loras(_lora_texts(values["lora"]), folder)
    loras = known_loras(tuple(named.items()))
    return BatchItem("", 0, settings, image, digest, loras)


def _check_size(path: Path, first_frame: Image, settings: Preset) -> None:
    """Refuse an image whose size is not the clip's."""
    if (first_frame.height, first_frame.width) != (settings.height, settings.width):
        raise ValueError(
            f"{path} must have the clip's height and width {settings.height} x {settings.width}, got "
            f"{first_frame.height} x {first_frame.width}; resize it first, or set fit to crop, pad "
            "or stretch"
        )


def _seeds(value: Any) -> list[int]:
    """One seed or several: an int, text (numbers separated by spaces), or a list of these."""
    several = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
    if not several:
        raise ValueError("seed must name at least one number")
    return [parse_root(seed) if isinstance(seed, str) else seed for seed in several]


def _branches(value: Any) -> tuple[Branch, ...]:
    """Branches, as UNIT:SEED: text (separated by spaces), or a list of these; none if there is no value."""
    texts = value.split() if isinstance(value, str) else [] if value is None else value
    is_list = isinstance(texts, list)
    if not is_list or not all(re.fullmatch(r"[0-9]{1,6}:[0-9]+", str(text)) for text in texts):
        raise ValueError(f"branches must be UNIT:SEED, such as 2:77, or a list of these, got {value!r:.60}")
    pairs = [text.split(":") for text in texts]
    return NoiseStreams(0, branches=[Branch(int(unit), parse_root(seed)) for unit, seed in pairs]).branches


def _lora_texts(value: Any) -> list[str]:
    """One LoRA or several, each as FILE or FILE:SCALE: text (separated by semicolons), or a list."""
    texts = value.split(";") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"lora must be FILE, FILE:SCALE, or a list of these, got {value!r:.60}")
    return [text.strip() for text in texts]


def _text(name: str, value: Any) -> str | Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{name} must be text, got {value!r:.60}")
    return value
