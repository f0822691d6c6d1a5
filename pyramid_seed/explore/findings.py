"""The findings of a sweep: the measures of its clips, and the effects of seeds and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ..media.frames import Frames
from .measured import MeasuredClip
from .measures import MEASURES, Values
from .outliers import outlier_reasons
from .prompts import Prompt
from .sample_size import PairedDifference, paired_difference
from .similarity import ssim
from .variance import VarianceShares, variance_shares

ValuesOfClips = Mapping[tuple[Prompt, int], Values]

MAX_PAIRS = 500
"""Up to 32 seeds, all pairs are compared; with more seeds, about this many pairs."""


@dataclass(frozen=True)
class Spread:
    """How a measure varies over the seeds of a prompt; `std` divides by n - 1."""

    mean: float
    std: float
    iqr: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class PromptFindings:
    """The effect of the seeds on one prompt.

    Attributes:
        prompt: the prompt.
        clips: by seed, in the sweep's order.
        reasons: why each clip stands out.
        similarity: mean SSIM over pairs of seeds (`compared_pairs`); None if there is only one seed.
        spreads: per measure; None if fewer than two clips have a value.
    """

    prompt: Prompt
    clips: tuple[MeasuredClip, ...]
    reasons: tuple[tuple[str, ...], ...]
    similarity: float | None
    spreads: Mapping[str, Spread | None]


@dataclass(frozen=True)
class Findings:
    """The findings of a sweep.

    Attributes:
        prompts: the findings of each prompt that has a clip.
        common_seeds: the seeds for which all prompts have a clip.
        shares: per measure, the shares of its variance; None if not defined.
        paired: per measure, its difference from another sweep; None if not defined.
    """

    prompts: tuple[PromptFindings, ...]
    common_seeds: tuple[int, ...]
    shares: Mapping[str, VarianceShares | None]
    paired: Mapping[str, PairedDifference | None] = field(default_factory=dict)


def findings_of(clips: Sequence[MeasuredClip]) -> Findings:
    """Evaluate the clips of a sweep.

    Args:
        clips: ordered by prompt and seed.
    """
    values = {(clip.prompt, clip.seed): clip.values for clip in clips}
    prompts, seeds = _prompts_and_seeds(values)
    is_large_enough = len(prompts) > 1 and len(seeds) > 1
    shares = {}
    for measure in MEASURES:
        table = _table(values, measure.name, prompts, seeds)
        shares[measure.name] = variance_shares(table) if table and is_large_enough else None
    by_prompt = tuple(
        _prompt_findings(prompt, [clip for clip in clips if clip.prompt == prompt]) for prompt in prompts
    )
    return Findings(by_prompt, seeds, shares)


def paired_differences(
    clips: Sequence[MeasuredClip], others: ValuesOfClips
) -> dict[str, PairedDifference | None]:
    """Each measure's difference from another sweep, for the prompts and seeds that both have.

    Args:
        clips: those of this sweep, which is B.
        others: the measures of the other sweep, which is A.
    """
    both = {(c.prompt, c.seed): c.values for c in clips if (c.prompt, c.seed) in others}
    prompts, seeds = _prompts_and_seeds(both)
    paired = {}
    for measure in MEASURES:
        a, b = (_table(values, measure.name, prompts, seeds) for values in (others, both))
        paired[measure.name] = paired_difference(a, b) if a and b and len(seeds) > 1 else None
    return paired


def _prompts_and_seeds(values: ValuesOfClips) -> tuple[list[Prompt], tuple[int, ...]]:
    """All prompts, and the seeds for which each prompt has a clip."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in values))
    seeds = dict.fromkeys(seed for _, seed in values)
    return prompts, tuple(s for s in seeds if all((prompt, s) in values for prompt in prompts))


def _table(
    values: ValuesOfClips, name: str, prompts: Sequence[Prompt], seeds: Sequence[int]
) -> list[list[float]] | None:
    """A measure, one row per prompt, one column per seed; None if a value is not defined."""
    table = []
    for prompt in prompts:
        row = [number for seed in seeds if (number := values[prompt, seed].get(name)) is not None]
        if len(row) < len(seeds):
            return None
        table.append(row)
    return table


def _prompt_findings(prompt: Prompt, clips: Sequence[MeasuredClip]) -> PromptFindings:
    values, lengths = [clip.values for clip in clips], [clip.num_frames for clip in clips]
    return PromptFindings(
        prompt=prompt,
        clips=tuple(clips),
        reasons=tuple(map(tuple, outlier_reasons(values, lengths))),
        similarity=pairwise_similarity([clip.sample for clip in clips]),
        spreads={measure.name: spread([clip.values[measure.name] for clip in clips]) for measure in MEASURES},
    )


def pairwise_similarity(samples: Sequence[Frames]) -> float | None:
    """Mean SSIM over pairs of clips, each the mean over their frames; None for fewer than two clips.

    Args:
        samples: (t, h, w, 3) uint8, all of one shape, at least 11x11.
    """
    similarities = [
        np.mean([ssim(*frames) for frames in zip(samples[a], samples[b], strict=True)])
        for a, b in compared_pairs(len(samples))
    ]
    return float(np.mean(similarities)) if similarities else None


def compared_pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of this many clips; beyond `MAX_PAIRS`, only pairs that are close on a circle of clips.

    Each clip is then in equally many pairs, whose number grows linearly with the clips, not quadratically.
    """
    pairs = list(combinations(range(count), 2))
    if len(pairs) <= MAX_PAIRS:
        return pairs
    return [
        (a, (a + step) % count) for step in range(1, max(1, MAX_PAIRS // count) + 1) for a in range(count)
    ]


def spread(values: Sequence[float | None]) -> Spread | None:
    """The spread of the defined values; None for fewer than two."""
    x = np.array([value for value in values if value is not None])
    if len(x) < 2:
        return None
    first, third = np.percentile(x, [25, 75])
    return Spread(
        mean=float(x.mean()),
        std=float(x.std(ddof=1)),
        iqr=float(third - first),
        lowest=float(x.min()),
        highest=float(x.max()),
    )
