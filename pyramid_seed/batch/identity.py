"""A clip's identity is its content: what it is made from, and nothing about how the work is divided."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

from ..choices import DEFAULT_PATH, AttentionPath
from ..files import slug
from ..geometry import ImageRole
from ..loading import LoraToLoad
from ..noise import SCHEME, Branch
from ..presets import SETTINGS, Preset
from .items import BatchItem

KEY_LENGTH = 16
"""Hexadecimal digits of a key in file names: 64 bits."""

_WORDS_LENGTH = 48
_PLACES = ("model", "variant")  # their weights count instead

SharedContent: TypeAlias = tuple[str, str, str]
"""Canonical JSON before the prompt, between prompt and seed, and after the seed."""


@dataclass(frozen=True, slots=True)
class Job:
    """An item with its identity.

    Attributes:
        item: what to make.
        key: SHA-256 (hex) of its content.
        steps: transformer steps per unit, 0 for an encoded image.
        beginnings: the keys of its beginnings of 1, 2, ... units, from whose kept units it may go on; its own
            are then kept as well. None: units are kept only until the clip is finished.
        frames_per_unit: latent frames of a unit.
        attention: how the model computes attention unless told otherwise.
    """

    item: BatchItem
    key: str
    steps: tuple[int, ...]
    beginnings: tuple[str, ...] | None = None
    frames_per_unit: int = 1
    attention: AttentionPath = DEFAULT_PATH

    @property
    def id(self) -> str:
        """The key, shortened for file names."""
        return self.key[:KEY_LENGTH]

    @property
    def image_role(self) -> ImageRole:
        """What an image is to the clip, if it begins with one."""
        return "history" if self.steps[0] else "unit"

    @property
    def file(self) -> str:
        """The clip's file name."""
        return f"{slug(self.item.prompt, _WORDS_LENGTH)}_seed{self.item.seed}_{self.id}.mp4"

    @property
    def cost(self) -> int:
        """Steps times pixels: a measure of the time it takes."""
        return sum(self.steps) * self.item.settings.height * self.item.settings.width


def shared_content(item: BatchItem, weights: str, **run: str | bool) -> SharedContent:
    """Everything that determines a clip except prompt, seed and branches; many items share it.

    The model's weights count, not their location, and the meaning of settings, not their spelling: one number
    of steps for both kinds of units equals that number given twice.

    Args:
        item: what to make.
        weights: see `checkpoints.digests.weights_key`.
        run: whatever else in the run changes the clip or its file: noise device, determinism, lossless.
    """
    meaning = _meaning(item.settings)
    settings = {name: getattr(meaning, name) for name in SETTINGS if name not in _PLACES}
    for name in ("fit", "shards"):  # omitted, as in folders of earlier versions
        if settings[name] is None:
            del settings[name]
    content = {
        "scheme": SCHEME,
        "prompt": None,
        "seed": None,
        "settings": settings,
        "image": item.image_digest,
        "weights": weights,
        "run": run,
        # Omitted if there are none, as in folders of earlier versions.
        **({"loras": [[lora.sha256, lora.scale] for lora in item.loras]} if item.loras else {}),
    }
    before, _, behind = _canonical(content).partition('"prompt":null')
    between, _, after = behind.partition('"seed":null')
    return before + '"prompt":', between + '"seed":"', '"' + after


def key_of(item: BatchItem, shared: SharedContent) -> str:
    """SHA-256 (hex) of everything that determines an item's clip, given its `shared_content`."""
    before, between, after = shared
    if item.branches:  # omitted if there are none, as in folders of earlier versions; first in the alphabet
        branches = [[branch.from_unit, str(branch.seed)] for branch in item.branches]
        before = f'{{"branches":{_canonical(branches)},{before[1:]}'
    text = f"{before}{_canonical(item.prompt)}{between}{item.seed}{after}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def beginning_keys(item: BatchItem, shared: Sequence[SharedContent]) -> tuple[str, ...]:
    """The keys of an item's beginnings of 1, 2, ... units: the branches begun by then, and fewer frames.

    Args:
        item: the whole clip.
        shared: the `shared_content` of each beginning.
    """
    return tuple(
        key_of(replace(item, branches=tuple(b for b in item.branches if b.from_unit < units)), content)
        for units, content in enumerate(shared, start=1)
    )


def in_order(jobs: Iterable[Job], key: Callable[[Job], Any] = attrgetter("key")) -> list[Job]:
    """The order to take jobs in: by model and LoRAs, the longest jobs first, then by `key`."""
    # Jobs with equal settings share one object; an image that is unit 0 takes no steps.
    alike: dict[tuple[int, tuple[LoraToLoad, ...], tuple[int, ...]], list[Job]] = {}
    for job in jobs:
        alike.setdefault((id(job.item.settings), job.item.loras, job.steps), []).append(job)
    totals: dict[tuple[str, ...], int] = {}
    by_rank: dict[tuple[tuple[str, ...], int], list[Job]] = {}
    for group in alike.values():
        model = _model_of(group[0])
        totals[model] = totals.get(model, 0) + group[0].cost * len(group)
        by_rank.setdefault((model, group[0].cost), []).extend(group)
    ranks = sorted(by_rank, key=lambda rank: (-totals[rank[0]], rank[0], -rank[1]))
    return [job for rank in ranks for job in sorted(by_rank[rank], key=key)]


def jobs_to_json(jobs: Sequence[Job]) -> str:
    """Jobs as text for other processes; what jobs share is written once."""
    places: dict[tuple[object, ...], int] = {}
    shared: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for job in jobs:
        item = job.item
        like = id(item.settings), item.image, item.image_digest, item.loras, job.steps
        place = places.setdefault(like, len(shared))
        if place == len(shared):
            shared.append(asdict(job))
        branches = [[branch.from_unit, branch.seed] for branch in item.branches]
        rows.append([place, item.prompt, item.seed, branches, job.key, job.beginnings])
    return json.dumps({"shared": shared, "jobs": rows}, default=str)


def jobs_from_json(text: str) -> list[Job]:
    """The jobs that `jobs_to_json` wrote."""
    values = json.loads(text)
    shared = msgspec.convert(values["shared"], list[Job], dec_hook=lambda kind, value: kind(value))
    jobs = []
    for place, prompt, seed, branches, key, beginnings in values["jobs"]:
        parted = tuple(Branch(*branch) for branch in branches)
        item = replace(shared[place].item, prompt=prompt, seed=seed, branches=parted)
        known = None if beginnings is None else tuple(beginnings)
        jobs.append(replace(shared[place], item=item, key=key, beginnings=known))
    return jobs


def _model_of(job: Job) -> tuple[str, ...]:
    settings = job.item.settings
    loras = (f"{lora.sha256}:{lora.scale}" for lora in job.item.loras)
    return settings.model, settings.variant or "", settings.dtype, *loras


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _meaning(settings: Preset) -> Preset:
    """The settings with every default filled in, and all numbers of one type."""
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
