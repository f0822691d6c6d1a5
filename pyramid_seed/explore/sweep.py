"""`run_sweep`: the same prompts with many seeds, measured, and a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from tqdm import tqdm

from ..bars import bar_options
from ..batch.items import check_seeds
from ..batch.journal import Journal
from ..batch.run import run_batch
from ..batch.summary import BatchSummary
from ..checks import check_path
from ..choices import AfterUse, AttentionPath, DeterminismLevel
from ..extras import check_extra
from ..files import without_new_folders, write_file
from ..presets import Preset, Settings, settings_listed
from ..provenance.manifest import read_manifest
from ..run_options import RunOptions
from .findings import Findings, findings_of, paired_differences
from .measured import MeasuredClip, measured_clip
from .measures import Values
from .prompts import Prompt, read_prompts
from .report import check_report, write_report
from .tables import JSON_NAME, read_measures

CLIPS, REPORT = "clips", "report"


@dataclass(frozen=True)
class SweepSummary:
    """The outcome of a sweep.

    Attributes:
        batch: the outcome for its clips, see `BatchSummary`.
        report: the page; None if none was written: in processes other than the main one, after a signal, or
            if there are no clips.
        findings: the findings in the report; None if there is no report.
    """

    batch: BatchSummary
    report: Path | None = None
    findings: Findings | None = None


@settings_listed
def run_sweep(
    prompts: Sequence[str | Path],
    output: str | Path,
    *,
    seeds: Sequence[int] = tuple(range(16)),
    against: str | Path | None = None,
    preset: str | Path | Preset | None = None,
    device: str | None = None,
    noise_device: str = "cpu",
    determinism: DeterminismLevel = "strict",
    text_encoders: AfterUse = "keep",
    prompt_embeds: str | Path | None = None,
    attention: AttentionPath | None = None,
    compile: bool = False,
    workers: int | None = None,
    loras: Mapping[str | Path, float] | None = None,
    lossless: bool = False,
    num_processes: int | None = None,
    progress: bool = True,
    **settings: Unpack[Settings],
) -> SweepSummary:
    """Make a clip of every prompt with every seed, as `run_batch` does, then measure them and write a report.

    Existing clips are not made again. The main process rewrites the whole report: `report/index.html`,
    `contact_sheet.png`, `measures.csv` and `measures.json` (docs/seeds.md).

    Args:
        prompts: prompts as str, lists of prompts as Path (docs/batch.md; rows hold `prompt` and `image`).
        output: the folder for `clips` and `report`.
        seeds: root seeds; every prompt is made with all of them.
        against: the folder of another sweep with these prompts and seeds; the report then gives each
            measure's difference at equal seeds, this sweep minus that one.
        preset, num_processes, progress: see `run_batch`.
        device, noise_device, determinism, text_encoders, prompt_embeds, attention, compile, loras: see
            `run_batch`.
        lossless: keep every bit in the files; measures are then exact, and the page plays lossy copies.
        settings: values that replace the preset's for all clips, see below.

    Raises:
        BatchInputError, ValueError, OSError: as in `run_batch`; or there is no prompt, a seed is repeated,
            the extra `report` is not installed, or `against` has no measures or no clip in common. Nothing
            was made.
        FileExistsError: `report` holds something that no sweep wrote.
    """
    check_extra("report", "skimage", "cv2", "scipy", "matplotlib", "jinja2")
    check_path("output", output)
    if against is not None:
        check_path("against", against)
    output = Path(output)
    check_seeds(seeds)
    chosen = read_prompts(prompts)
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ValueError(f"seeds must be different numbers, at least one, got {list(seeds)}")
    others = None if against is None else _others(Path(against), chosen, seeds, lossless)
    check_report(output / REPORT)

    options = RunOptions(device, noise_device, determinism, attention, compile, workers, text_encoders)
    with _listed(output, chosen) as listed:
        summary = run_batch(
            listed,
            output / CLIPS,
            seeds=seeds,
            preset=preset,
            loras=loras,
            lossless=lossless,
            num_processes=num_processes,
            progress=progress,
            prompt_embeds=prompt_embeds,
            **options.arguments(),
            **settings,
        )
    if not summary.is_main or summary.signal is not None or not summary.digests:
        return SweepSummary(summary)

    clips, made_with = _measured(output / CLIPS, summary, chosen, seeds, progress)
    findings = findings_of(clips)
    if others is not None:
        findings = replace(findings, paired=paired_differences(clips, others))
    page = write_report(
        output / REPORT,
        findings,
        settings=made_with,
        against=None if against is None else str(against),
        failed=summary.failed,
    )
    return SweepSummary(summary, page, findings)


@contextmanager
def _listed(output: Path, prompts: Sequence[Prompt]) -> Iterator[Path]:
    """The list of a sweep's prompts, in its folder; removed if the batch is refused before it begins."""
    path = output / "prompts.jsonl"
    is_new = not path.exists()
    with without_new_folders(output):
        write_file(path, "".join(map(_row, prompts)), overwrite=True)  # every process writes the same text
        try:
            yield path
        except (ValueError, TypeError, OSError):
            if is_new and not (output / CLIPS).exists():
                path.unlink(missing_ok=True)
            raise


def _others(
    folder: Path, prompts: Sequence[Prompt], seeds: Sequence[int], lossless: bool
) -> Mapping[tuple[Prompt, int], Values]:
    others = read_measures(folder / REPORT / JSON_NAME, lossless=lossless)
    wanted = {(prompt, seed) for prompt in prompts for seed in seeds}
    if not wanted & others.keys():
        raise ValueError(f"{folder} has no clip of these prompts and seeds to compare with")
    return others


def _row(prompt: Prompt) -> str:
    image = {} if prompt.image is None else {"image": prompt.image}
    return json.dumps({"prompt": prompt.text, **image}) + "\n"


def _measured(
    folder: Path, summary: BatchSummary, prompts: Sequence[Prompt], seeds: Sequence[int], progress: bool
) -> tuple[list[MeasuredClip], Mapping[str, Any]]:
    """The clips of this sweep, ordered by prompt and seed, and how the first one was made."""
    with closing(Journal(folder).entries()) as recorded:
        entries = {
            (Prompt(entry["prompt"], entry["image"]), int(entry["seed"])): entry
            for entry in recorded.values()
            if entry["file"] in summary.digests
        }
    clips = []
    made_with: Mapping[str, Any] = {}
    made = [key for prompt in prompts for seed in seeds if (key := (prompt, seed)) in entries]
    for key in tqdm(made, desc="measuring", disable=not progress, **bar_options()):
        path = folder / entries[key]["file"]
        manifest = read_manifest(path)
        made_with = made_with or {**manifest["settings"], "loras": manifest["loras"]}
        clips.append(measured_clip(*key, path=path, manifest=manifest))
    return clips, made_with
