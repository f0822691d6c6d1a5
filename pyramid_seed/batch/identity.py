"""A clip's identity is its content: what it is made from, and nothing about how the work is shared out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import msgspec

from ..files import slug
from ..noise import SCHEME
from ..presets import SETTINGS, Preset
from .items import BatchItem

KEY_LENGTH = 16
"""Hexadecimal digits of a key in names of files: 64 bits."""

_WORDS_LENGTH = 48
_PLACES = ("model", "variant")  # whose weights count


@dataclass(frozen=True)
class Job:
    """An item with its identity.

    Attributes:
        item: what to make.
        key: SHA-256 (hex) of its content.
        steps: transformer steps of each unit, 0 for an encoded image.
    """

    item: BatchItem
    key: str
    steps: tuple[int, ...]

    @property
    def id(self) -> str:
        """The key, short enough for names."""
        return self.key[:KEY_LENGTH]

    @property
    def file(self) -> str:
        """The clip's file name."""
        return f"{slug(self.item.prompt, _WORDS_LENGTH)}_seed{self.item.seed}_{self.id}.mp4"

    @property
    def cost(self) -> int:
        """Steps times pixels: what is longer takes longer."""
        return sum(self.steps) * self.item.settings.height * self.item.settings.width


def content_key(item: BatchItem, weights: str, **run: str | bool) -> str:
    """SHA-256 (hex) of what a clip is a function of.

    The model's weights count, not where they lie; of settings, what they mean: a number of steps that stands
    for both kinds of units is equal to that number given twice.

    Args:
        item: what to make.
        weights: see `checkpoints.digests.weights_key`.
        run: whatever else of the run changes the clip or its file: noise device, determinism, lossless.
    """
    meaning = _meaning(item.settings)
    settings = {name: getattr(meaning, name) for name in SETTINGS if name not in _PLACES}
    for name in ("fit", "shards"):  # as in folders of earlier versions
        if settings[name] is None:
            del settings[name]
    content = {
        "scheme": SCHEME,
        "prompt": item.prompt,
        "seed": str(item.seed),
        "settings": settings,
        "image": item.image_digest,
        "weights": weights,
        "run": run,
        # Only where there are any, as in folders of earlier versions.
        **({"loras": [[lora.sha256, lora.scale] for lora in item.loras]} if item.loras else {}),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """The order to take jobs in: model by model, with its LoRAs, and the longest first."""

    def model_of(job: Job) -> tuple[str, ...]:
        settings = job.item.settings
        loras = (f"{lora.sha256}:{lora.scale}" for lora in job.item.loras)
        return settings.model, settings.variant or "", settings.dtype, *loras

    totals: dict[tuple[str, ...], int] = {}
    for job in jobs:
        totals[model_of(job)] = totals.get(model_of(job), 0) + job.cost
    return sorted(jobs, key=lambda job: (-totals[model_of(job)], model_of(job), -job.cost, job.key))


def jobs_to_json(jobs: Sequence[Job]) -> str:
    """Jobs as text, for other processes."""
    return json.dumps([asdict(job) for job in jobs], default=str)


def jobs_from_json(text: str) -> list[Job]:
    """The jobs that `jobs_to_json` wrote."""
    return msgspec.convert(json.loads(text), list[Job], dec_hook=lambda kind, value: kind(value))


def _meaning(settings: Preset) -> Preset:
    """The settings with every default written out, and numbers of one type."""
    later = settings.video_num_inference_steps
    later_scale = settings.video_guidance_scale
    decay = settings.guidance_decay
    return replace(
        settings,
        fps=float(settings.fps),
        guidance_scale=float(settings.guidance_scale),
        video_guidance_scale=float(settings.guidance_scale if later_scale is None else later_scale),
        video_num_inference_steps=settings.num_inference_steps if later is None else later,
        guidance_decay=None if decay is None else float(decay),
        min_guidance_scale=float(settings.min_guidance_scale),
    )
