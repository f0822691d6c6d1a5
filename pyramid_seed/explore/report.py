"""The report of a sweep: a folder with a page, a contact sheet, and all measures as CSV and JSON."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..files import replacing
from ..media.video import read_video, write_image, write_video
from ..pages import data_url, page_template
from ..version import __version__
from .findings import Findings
from .labelled_sheet import labelled_sheet
from .measured import MeasuredClip, sample_times
from .measures import MEASURES
from .sample_size import SHARE, seeds_for_share
from .tables import CSV_NAME, JSON_NAME, findings_csv, findings_json
from .variance import chance_shares

PAGE_NAME, SHEET_NAME = "index.html", "contact_sheet.png"
COPIES = "clips"
NAMES = (PAGE_NAME, SHEET_NAME, CSV_NAME, JSON_NAME, COPIES)

EMBEDDED_BYTES = 64 * 2**20
"""Clips up to this total size are embedded in the page; larger ones stay beside it."""


def check_report(folder: Path) -> None:
    """Raise FileExistsError if a report's folder holds anything that does not belong to a report."""
    if folder.exists() and not (folder.is_dir() and all(file.name in NAMES for file in folder.iterdir())):
        raise FileExistsError(
            f"{folder} holds other things than a sweep's report; move it, or sweep elsewhere"
        )


def write_report(
    folder: Path,
    findings: Findings,
    *,
    settings: Mapping[str, Any],
    against: str | None,
    failed: Mapping[str, str],
    embedded_bytes: int = EMBEDDED_BYTES,
) -> Path:
    """Write or replace the folder, whole or not at all; returns the page's path.

    Args:
        folder: the report's folder, beside the clips' folder.
        findings: the sweep's findings; the clips' files are in one folder beside the report's.
        settings: the clips', as in their manifests, and optionally "loras".
        against: the folder of the other sweep, if there was one.
        failed: reasons, by clip name.
        embedded_bytes: embed the clips in the page if their total size is no larger.

    Raises:
        FileExistsError: the folder holds something else.
    """
    check_report(folder)
    clips = [clip for prompt_findings in findings.prompts for clip in prompt_findings.clips]
    clips_folder = f"../{clips[0].path.parent.name}"
    about: dict[str, Any] = {
        "settings": settings,
        "lossless": all(clip.is_lossless for clip in clips),
        "against": against,
        "failed": failed,
    }
    with replacing(folder, overwrite=True) as temporary:
        temporary.mkdir()
        tree = findings_json(findings, clips_folder=clips_folder, **about)
        (temporary / JSON_NAME).write_text(tree, encoding="utf-8")
        rows = findings_csv(findings, clips_folder)
        # A lone surrogate, from an undecodable command-line argument, has no UTF-8 form.
        (temporary / CSV_NAME).write_text(rows, encoding="utf-8", errors="backslashreplace", newline="")
        write_image(temporary / SHEET_NAME, _sheet(findings))
        files = {clip.path: _playable(clip, temporary / COPIES) for clip in clips}
        if sum(file.stat().st_size for file in files.values()) <= embedded_bytes:
            sources = {path: data_url("video/mp4", file.read_bytes()) for path, file in files.items()}
            shutil.rmtree(temporary / COPIES, ignore_errors=True)
        else:
            folders = {path: COPIES if file != path else clips_folder for path, file in files.items()}
            sources = {path: f"{folders[path]}/{quote(path.name)}" for path in files}
        page = _page(findings, sources, about)
        (temporary / PAGE_NAME).write_text(page, encoding="utf-8", errors="backslashreplace")
    return folder / PAGE_NAME


def _playable(clip: MeasuredClip, copies: Path) -> Path:
    """A file that browsers can play: the clip's own, or a lossy copy in a folder."""
    if not clip.is_lossless:
        return clip.path
    copy = copies / clip.path.name
    write_video(copy, *read_video(clip.path))
    return copy


def report_template(name: str) -> Any:
    """A page's template in this folder."""
    filters: dict[str, Callable[[Any], str]] = {
        "number": _number,
        "percent": lambda share: f"{100 * share:.1f} %",
        "spaced": lambda name: name.replace("_", " "),
    }
    return page_template(Path(__file__).parent / name, filters=filters)


def _page(findings: Findings, sources: Mapping[Path, str], about: Mapping[str, Any]) -> str:
    num_prompts, num_seeds = len(findings.prompts), len(findings.common_seeds)
    is_table = num_prompts > 1 and num_seeds > 1
    return report_template("report.html.jinja").render(
        findings=findings,
        measures=MEASURES,
        sources=sources,
        is_embedded=all(source.startswith("data:") for source in sources.values()),
        chance=chance_shares(num_prompts, num_seeds) if is_table else None,
        needed=_needed(findings),
        share=SHARE,
        version=__version__,
        **about,
    )


def _needed(findings: Findings) -> dict[str, tuple[int, int] | None]:
    """Number of seeds for each measure, see `seeds_for_share`; None if a share is meaningless."""
    signed = {measure.name for measure in MEASURES if measure.is_signed}
    return {
        name: None if paired is None or name in signed else seeds_for_share(paired)
        for name, paired in findings.paired.items()
    }


def _sheet(findings: Findings) -> Any:
    blocks = [
        (str(prompt_findings.prompt), [(f"seed {clip.seed}", clip.sample) for clip in prompt_findings.clips])
        for prompt_findings in findings.prompts
    ]
    times = sample_times(findings.prompts[0].clips[0].num_frames)
    return labelled_sheet(blocks, [f"frame {time}" for time in times])


def _number(value: float | None) -> str:
    """Three digits, never an exponent for a whole number; a dash if not defined."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"
