"""`run_monitor`: the same sweep for every checkpoint, and whether its measures stay where they were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Unpack

from ..batch.items import check_seeds
from ..checkpoints.digests import weights_key
from ..checkpoints.source import recognise_model
from ..checks import check_kinds, check_path
from ..choices import AfterUse, AttentionPath, DeterminismLevel
from ..extras import check_extra
from ..media.images import open_image, pixels_digest
from ..model_presets import chosen_settings
from ..pipelines.encoded_texts import ENCODER_PARTS
from ..presets import SETTINGS, Preset, Settings, settings_listed
from ..provenance.manifest import read_manifest
from ..run_options import RunOptions
from .bands import Band, bands, departures
from .findings import Findings
from .history import Checkpoint, check_sweep, read_history, with_checkpoint, write_history
from .history_page import write_page
from .measures import MEASURES
from .prompts import read_prompts
from .sweep import SweepSummary, run_sweep


@dataclass(frozen=True)
class MonitorSummary:
    """The outcome for a checkpoint.

    Attributes:
        sweep: that of its sweep.
        checkpoint: its line of the history; None if none was written: in processes other than the main one,
            or if clips are missing.
        bands: per measure, where it was expected; without those of too few earlier checkpoints.
        page: the history's page; None if there is no line.
    """

    sweep: SweepSummary
    checkpoint: Checkpoint | None = None
    bands: Mapping[str, Band] = field(default_factory=dict)
    page: Path | None = None

    @property
    def departures(self) -> dict[str, float]:
        """The measures that left their bands, with their values."""
        return {} if self.checkpoint is None else departures(self.checkpoint.values, self.bands)

    @property
    def status(self) -> int:
        """Exit status: 0 nothing left its band, 1 a measure did, 2 clips are missing, 128 + n a signal."""
        batch = self.sweep.batch
        if batch.is_main and batch.signal is None and self.checkpoint is None:
            return 2
        return batch.status or int(bool(self.departures))


@settings_listed
def run_monitor(
    prompts: Sequence[str | Path],
    output: str | Path,
    *,
    seeds: Sequence[int] = tuple(range(4)),
    label: str | None = None,
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
) -> MonitorSummary:
    """Sweep a checkpoint, add its measures to a history, and judge them by it (docs/monitor.md).

    The same weights are one checkpoint, however often they are swept: the later sweep's line takes the place
    of the earlier one's. A run that was killed continues when it is repeated, and leaves no part of a line.

    Args:
        prompts, loras: as in `run_sweep`; LoRAs are part of the checkpoint.
        output: the folder for `history.csv`, `history.json` and `history.html`, and for the sweep's `clips`
            and `report`, which is that of the latest checkpoint.
        seeds: root seeds; every prompt is made with all of them.
        label: what the checkpoint is called; default: the last part of its model's name, and its LoRAs'.
        preset, device, noise_device, determinism, text_encoders, prompt_embeds, attention, compile, workers,
            lossless, num_processes, progress: see `run_sweep`.
        settings: values that replace the preset's, see below; `model` is the checkpoint.

    Raises:
        BatchInputError, ValueError, OSError: as in `run_sweep`; or the folder has the history of other
            prompts, seeds or settings, or one that cannot be read. Nothing was made.
    """
    check_extra("report", "skimage", "cv2", "scipy", "matplotlib", "jinja2")
    check_path("output", output)
    check_kinds(label=(label, str))
    check_seeds(seeds)
    folder = Path(output)
    chosen = _chosen(preset, settings)
    options = RunOptions(device, noise_device, determinism, attention, compile, workers, text_encoders)
    options.check()
    how = {name: getattr(options, name) for name in ("noise_device", "determinism", "attention")}
    sweep = _fixed(prompts, seeds, chosen, {**how, "compile": bool(compile), "lossless": bool(lossless)})
    check_sweep(folder, sweep)
    read_history(folder)  # a damaged one is refused before any work
    summary = run_sweep(
        prompts,
        folder,
        seeds=seeds,
        preset=preset,
        prompt_embeds=prompt_embeds,
        loras=loras,
        lossless=lossless,
        num_processes=num_processes,
        progress=progress,
        **options.arguments(),
        **settings,
    )
    if summary.findings is None or summary.batch.status:
        return MonitorSummary(summary)
    named = _name(chosen.model, loras or {}) if label is None else label
    checkpoint = _checkpoint(named, summary.findings)
    history = with_checkpoint(read_history(folder), checkpoint)
    write_history(folder, sweep, history)
    place = [each.weights for each in history].index(checkpoint.weights)
    expected = bands([each.values for each in history[:place]])
    return MonitorSummary(summary, checkpoint, expected, write_page(folder, history, sweep))


def _chosen(preset: str | Path | Preset | None, settings: Settings) -> Preset:
    """The settings of every clip, except what follows from a first frame's size."""
    return chosen_settings(
        preset,
        settings,
        lambda model, variant: recognise_model(model, variant=variant, without=ENCODER_PARTS),
    )


def _fixed(
    prompts: Sequence[str | Path], seeds: Sequence[int], chosen: Preset, how: Mapping[str, Any]
) -> dict[str, Any]:
    """What is the same for all checkpoints of a history, in JSON types."""
    values = {name: getattr(chosen, name) for name in SETTINGS if name != "model"}
    images = {
        each: each.image and pixels_digest(open_image(Path(each.image))) for each in read_prompts(prompts)
    }
    sweep = {
        "prompts": [{"prompt": each.text, "image_sha256": digest} for each, digest in images.items()],
        "seeds": [str(seed) for seed in seeds],
        **how,
        "settings": values,
    }
    return json.loads(json.dumps(sweep))  # tuples as lists, as in a file


def _name(model: str, loras: Mapping[str | Path, float]) -> str:
    path = Path(model).expanduser()
    return " + ".join([path.resolve().name if path.is_dir() else model, *(Path(file).name for file in loras)])


def _checkpoint(label: str, findings: Findings) -> Checkpoint:
    """The line of a checkpoint, from a sweep without gaps."""
    clips = [clip for prompt in findings.prompts for clip in prompt.clips]
    manifest = read_manifest(clips[0].path)
    loras = ({"file": f"LoRA at {row['scale']}", "sha256": row["sha256"]} for row in manifest["loras"])
    return Checkpoint(
        label=label,
        weights=weights_key([*manifest["weights"], *loras]),
        values={each.name: _mean([clip.values[each.name] for clip in clips]) for each in MEASURES},
        shares=findings.shares,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None if a value is not defined: the mean over the others would be that of other clips."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if len(defined) == len(values) else None
