"""`encode_list`: encode the texts of a list, so that the batch then needs no text encoders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Unpack

from ..api import check_request
from ..checkpoints.source import recognise_model
from ..choices import DeterminismLevel
from ..pipelines.encoded_texts import PARTS_WITHOUT_TEXT, EncodedTexts
from ..presets import Preset, Settings, settings_listed
from ..run_options import RunOptions
from ..shared_pipeline import shared_pipeline
from .items import BatchItem, Defaults, items_of_list
from .rows import name_of


@settings_listed
def encode_list(
    prompts: str | Path,
    *,
    file_format: str | None = None,
    preset: str | Path | Preset | None = None,
    device: str | None = None,
    determinism: DeterminismLevel = "strict",
    progress: bool = True,
    **settings: Unpack[Settings],
) -> EncodedTexts:
    """Encode the prompts and negative prompts of a list, each text alone and once.

    Only the model's text encoders are loaded. With the same list, preset and settings, `run_batch` finds all
    its texts in the result.

    Args:
        prompts, file_format, preset, settings: see `run_batch`; all rows must use one model.
        device: where the texts are encoded; default: the accelerator if there is one, else the CPU.
        determinism: "strict" or "relaxed".
        progress: show a progress bar on standard error.

    Raises:
        BatchInputError: some rows are bad, all listed; nothing was encoded.
        ValueError: the list cannot be read, is empty, or names several models, dtypes or text lengths.
        OSError: the list cannot be read.
    """
    RunOptions(device, determinism=determinism).check()
    source_of = cache(
        lambda model, variant: recognise_model(model, variant=variant, without=PARTS_WITHOUT_TEXT)
    )

    def check(item: BatchItem) -> None:
        check_request(
            source_of(item.settings.model, item.settings.variant).geometry, item.prompt, item.settings
        )

    items, _ = items_of_list(
        prompts, file_format, Defaults(preset, settings), source_of=source_of, check=check
    )
    first = items[0].settings
    for item in items:
        for name in ("model", "variant", "dtype", "max_sequence_length"):
            here, there = getattr(first, name), getattr(item.settings, name)
            if here != there:
                raise ValueError(
                    f"all rows of {name_of(prompts)} must have the same {name}, got {here} and {there}; put "
                    "them into separate lists"
                )
    texts = [
        text
        for item in items
        for text in (item.prompt + item.settings.prompt_suffix, item.settings.negative_prompt)
    ]
    return shared_pipeline.encoded(texts, first, device, determinism, progress)
