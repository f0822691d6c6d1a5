"""The settings that a model is made for: those in its folder, or those of a preset for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from .checkpoints.configs import naming, read_config
from .checkpoints.source import RecognisedModel
from .checks import check_choice
from .families import PUBLISHED_MODELS, family_of_saved
from .families.family import Family
from .presets import (
    SETTINGS,
    Preset,
    Settings,
    list_presets,
    load_preset,
    named_settings,
    preset_from_config,
    settings_of_model,
)
from .resources import resolve_model


def preset_of_model(source: RecognisedModel) -> Preset | None:
    """The settings that a model is made for; None if unknown.

    They are those in its model_index.json, as written by `save_pretrained`; else those of our first preset,
    by name, for this model: of the same name, or for a published one of the same family, variant and sizes.

    Raises:
        ValueError: the folder's settings are invalid; the message names file and setting.
    """
    if (saved := source.configs.get("model_index.json", {}).get("preset")) is not None:
        with naming(source.folder / "model_index.json"):
            return preset_from_config(saved, source.name)
    variant = source.transformer_variant
    fitting = (preset for preset in _presets() if _is_for(preset, source) and preset.variant == variant)
    return next(fitting, None)


def chosen_settings(
    preset: str | Path | Preset | None,
    settings: Settings,
    source_of: Callable[[str, str | None], RecognisedModel],
) -> Preset:
    """The settings of a clip: a preset's, a model's own or the default's, with some values replaced.

    Args:
        preset: a preset, its name or file; None: the model's own settings, see `preset_of_model`, if the
            values name a model, else those of `DEFAULT_PRESET`.
        settings: the values.
        source_of: reads which model it is, from its name and variant; not called for a published one, whose
            settings are known before anything is downloaded.

    Raises:
        TypeError, ValueError: as `with_settings`; or no preset knows the model and settings are missing; the
            message names them.
    """
    if (named := named_settings(preset, settings)) is not None:
        return named
    model, variant = SETTINGS["model"].decode(settings["model"]), settings.get("variant")
    if model in PUBLISHED_MODELS and not Path(model).is_dir():
        presets = {each.variant: each for each in _presets() if each.model == model}
        if variant not in presets:
            check_choice(f"variant of {model}", variant, tuple(map(str, presets)))
        return settings_of_model(model, presets[variant], settings)
    source = source_of(model, variant)
    own, num_stages = preset_of_model(source), source.geometry.num_stages
    return settings_of_model(source.description, own, settings, num_stages)


def misfit(
    preset: Preset, settings: Preset, source_of: Callable[[str, str | None], RecognisedModel]
) -> str | None:
    """A message if a preset is of another family or variant than the model; None if it fits, or is unknown.

    Args:
        preset: as named, with the model that it is for.
        settings: the clip's, with the name and the variant of the model that it uses.
        source_of: reads which model that is, from its name and variant, if it is another one.
    """
    if (preset.model, preset.variant) == (settings.model, settings.variant):
        return None
    source = source_of(settings.model, settings.variant)
    own = preset_of_model(source)
    family = _family_of(preset.model)
    is_of_family = family in (None, source.family)
    if is_of_family and (own is None or own.name == preset.name or own.variant == preset.variant):
        return None
    variant = "" if preset.variant is None else f", variant {preset.variant}"
    advice = "" if own is None else f", for which there is preset {own.name}"
    return f"preset {preset.name} is for {preset.model}{variant}; the model is {source.description}{advice}"


def _is_for(preset: Preset, source: RecognisedModel) -> bool:
    if preset.model == source.name:
        return True
    return PUBLISHED_MODELS.get(preset.model) is source.family and _has_published_sizes(source)


def _has_published_sizes(source: RecognisedModel) -> bool:
    if source.layout == "diffusers":
        config: Mapping[str, Any] = source.configs["transformer/config.json"]
    else:
        config = source.transformer_config()
    sizes = signature(source.family.transformer_class).parameters.values()
    as_lists = json.loads(json.dumps({size.name: size.default for size in sizes}))
    return all(config.get(name) == value for name, value in as_lists.items())


def _family_of(model: str) -> Family | None:
    """The family of a published or embedded model; None for others, which would have to be read."""
    if not model.startswith("embedded:"):
        return PUBLISHED_MODELS.get(model)
    folder = Path(resolve_model(model))
    return family_of_saved(read_config(folder / "model_index.json"), str(folder))


@cache
def _presets() -> tuple[Preset, ...]:
    return tuple(map(load_preset, list_presets()))
