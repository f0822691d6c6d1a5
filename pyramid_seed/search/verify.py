"""`verify_search`: make the candidates of a search again, and say whether the winner was rightly chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from diffusers.image_processor import PipelineImageInput
from tqdm import tqdm

from ..checks import check_int
from ..clip import Clip
from ..environment import Difference, fingerprint_differences, kernel_differences
from ..pipelines.clip_pipeline import ClipPipeline
from ..provenance.manifest import geometry_of, read_verifiable
from ..provenance.sample import UnitSample, sample_units
from ..provenance.verify import Verification
from ..reproduce import Making, loaded_for, verify
from ..texts import counted
from .record import Candidate, ScorerRow, SearchRecord, check_record, read_record
from .remake import Remaker
from .rounds import made_of
from .run import CLIP_FIELDS
from .scorers import Scorer, score_of, scorer_of
from .tree import Decision, path_text

Verdict = Literal["proven", "robust", "undecided", "differs"]

_SAME_EVERYWHERE = ("weights", "noise", "file")
"""Stages of a clip that no other machine changes; the file is compared only if all frames are equal."""


@dataclass(frozen=True)
class DecisionCheck:
    """One round, with the scores found here.

    Attributes:
        margin: by how much the last kept candidate led the first dropped one in the record.
        difference: the largest change of a score here; infinite if one has no score on one side.
        verdict: "proven": nothing differs; "robust": no such change could swap two candidates across the
            margin; else "undecided".
    """

    margin: float | None
    difference: float
    verdict: Verdict


@dataclass(frozen=True)
class SearchVerification:
    """The outcome of verifying a search.

    Attributes:
        problems: what contradicts the record, whatever the machine; nothing more was made after these.
        clip: the winner's own verification; None if there are problems.
        differing: the candidates that come out differently here, and how.
        decisions: every round; empty if there are problems.
        kernels: fields of the environment that make other kernels run here.
        sample: which candidates were made again, by their places in the record, if not all.
    """

    problems: tuple[str, ...]
    clip: Verification | None = None
    differing: tuple[str, ...] = ()
    decisions: tuple[DecisionCheck, ...] = ()
    kernels: tuple[Difference, ...] = ()
    sample: UnitSample | None = None

    @property
    def verdict(self) -> Verdict:
        """Of all rounds the weakest; "differs" if something differs that should not here."""
        differs = None if self.clip is None else self.clip.difference
        if self.clip is None or (differs is not None and differs.stage in _SAME_EVERYWHERE):
            return "differs"
        if differs is None and not self.differing:
            return "proven"
        if not self.kernels:
            return "differs"
        return "undecided" if any(each.verdict == "undecided" for each in self.decisions) else "robust"

    @property
    def same(self) -> bool:
        """Whether the choice holds: proven, or robust where other kernels run."""
        return self.verdict in ("proven", "robust")


def verify_search(
    winner: str | Path,
    search: str | Path,
    *,
    scorer: str | Scorer | None = None,
    sample: int | None = None,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    pipeline: ClipPipeline | None = None,
    progress: bool = True,
    **making: Unpack[Making],
) -> SearchVerification:
    """Verify the winner of a search, and make its candidates again, each from its parent's units made here.

    Args:
        winner: the winner's file.
        search: the search's `search.json`.
        scorer: who scores; needed unless the record names measures, as a file must not choose what code or
            weights are loaded. Its name and digest must be the record's.
        sample: make only this many candidates again, chosen by the operating system's random numbers.
        model, image, loras, device, pipeline, making: see `regenerate`; processes are not allowed.
        progress: show progress bars on standard error.

    Raises:
        ValueError: the file holds no record, the scorer is another one, or as in `verify`. OSError: a file
            cannot be read.
    """
    record, manifest = read_record(search), read_verifiable(winner)
    if making.get("processes") is not None:
        raise ValueError("a search is verified by one process; run verify without a launcher")
    if sample is not None:
        check_int("sample", sample, 1, len(record.candidates))
    judge = _judge(record.scorer, scorer, manifest)
    try:
        rounds = check_record(record)
    except (ValueError, TypeError) as error:
        return SearchVerification((f"the record contradicts itself: {error}",))
    if problems := _problems(record, manifest):
        return SearchVerification(tuple(problems))
    where = {"model": model, "image": image, "loras": loras, "device": device, "pipeline": pipeline}
    clip = verify(winner, progress=progress, **where, **making)  # type: ignore[arg-type]
    if clip.difference is not None and clip.difference.stage in _SAME_EVERYWHERE:
        return SearchVerification((), clip)
    recipe, loaded, image = loaded_for(winner, making, **where)  # type: ignore[arg-type]
    chosen = None if sample is None else sample_units(len(record.candidates), sample)
    start = None if record.settings.start is None else record.settings.start.node()
    again = Remaker(recipe, loaded, image, making, start)
    differing: list[str] = []
    changes: dict[str, float] = {}
    for place in tqdm(
        range(len(record.candidates)) if chosen is None else chosen.units,
        desc="candidates",
        disable=not progress,
    ):
        row = record.candidates[place]
        made = again.made(row.node(row.path))
        score, _ = score_of(judge, made.frames, recipe.prompt)
        if (note := _difference(row, made, score)) is not None:
            differing.append(note)
            changes[row.path] = _change(row.score, score)
    kernels = _kernels(manifest, again)
    checks = tuple(decision_check(decision, changes) for decision in rounds)
    return SearchVerification((), clip, tuple(differing), checks, kernels, chosen)


def _judge(row: ScorerRow, scorer: str | Scorer | None, manifest: Mapping[str, Any]) -> Scorer:
    """The scorer of a record, or the one given, which must be the same."""
    if scorer is None and ":" in row.name:
        raise ValueError(
            f"the scores are those of {row.name!r:.80}; if you trust it, name it: --scorer {row.name:.80}"
        )
    named = row.name if scorer is None else scorer
    judge = scorer_of(named, geometry_of(manifest)) if isinstance(named, str) else named
    if (judge.name, judge.digest) != (row.name, row.digest):
        raise ValueError(
            f"the scorer must be {row.name!r:.60}, digest {row.digest!r:.20}, got {judge.name!r:.60}, "
            f"digest {judge.digest!r:.20}"
        )
    return judge


def _problems(record: SearchRecord, manifest: Mapping[str, Any]) -> list[str]:
    """What makes a clip another one than the winner of a record."""
    problems = []
    named = (manifest.get("search") or {}).get("merkle_root")
    if named != record.merkle_root:
        problems.append(
            f"the clip's manifest names {'no search' if named is None else f'another search, {named:.16}...'}"
        )
    won, clip = record.winner, made_of(manifest)
    for name in ("seed", "branches", "units", "frames"):
        if getattr(won, name) != getattr(clip, name):
            problems.append(f"the clip is not the winner: its {name} differ")
    for name in CLIP_FIELDS:
        if record.settings.clip.get(name) != manifest[name]:
            problems.append(f"the clip was made otherwise than the candidates: its {name} differ")
    if record.settings.prompt != manifest["prompt"]:
        problems.append("the clip has another prompt than the search")
    return problems


def _kernels(manifest: Mapping[str, Any], again: Remaker) -> tuple[Difference, ...]:
    """What may change bits between the record's machine and this one."""
    here = again.environment
    assert here is not None  # at least one candidate was made
    return tuple(kernel_differences(fingerprint_differences(manifest["environment"], here)))


def _change(there: float | None, here: float | None) -> float:
    """By how much a score has changed; infinite if there is none on one side alone."""
    if there is None or here is None:
        return 0.0 if there == here else math.inf
    return abs(here - there)


def _difference(row: Candidate, made: Clip, score: float | None) -> str | None:
    """How a candidate made again differs from its row; None if it does not."""
    here = made_of(made.manifest)
    for unit, (there, found) in enumerate(zip(row.units, here.units, strict=True)):
        if there != found:
            return f"candidate {row.path}: unit {unit} comes out differently"
    if row.frames != here.frames:
        return f"candidate {row.path}: its frames come out differently"
    if row.score != score:
        return f"candidate {row.path}: its score is {score}, the record says {row.score}"
    return None


def decision_check(decision: Decision, changes: Mapping[str, float]) -> DecisionCheck:
    """A round, given by how much scores have changed here."""
    here = [changes[path] for node in decision.nodes if (path := path_text(node.path)) in changes]
    difference = max(here, default=0.0)
    if not here:
        return DecisionCheck(decision.margin, difference, "proven")
    # Both of two candidates may have moved, towards each other.
    is_robust = math.isfinite(difference) and (decision.margin is None or decision.margin > 2 * difference)
    return DecisionCheck(decision.margin, difference, "robust" if is_robust else "undecided")


def sample_text(sample: UnitSample) -> str:
    """Which candidates were made again, and the chance that a forged one is among them, in words."""
    which = f"{counted(len(sample.units), 'candidate')} of {sample.num_units}"
    return f"{which}; chance of catching one forged candidate: {sample.chance():.1%}"
