"""The findings of a sweep as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..texts import parse_json, read_bounded
from ..version import __version__
from .findings import Findings, PromptFindings
from .measures import MEASURES, Values
from .prompts import Prompt

SCHEMA, SCHEMA_VERSION = "pyramid-seed/sweep", 2
_READABLE = (1, 2)
"""Version 1 differs in the name of the interaction's share, which is not read."""

_FORMULA = re.compile(r"\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_MAX_BYTES = 256 * 2**20  # some 100,000 clips

JSON_NAME, CSV_NAME = "measures.json", "measures.csv"


def findings_json(
    findings: Findings,
    *,
    settings: Mapping[str, Any],
    lossless: bool,
    against: str | None,
    failed: Mapping[str, str],
    clips_folder: str,
) -> str:
    """All findings as JSON; undefined values are null, and seeds are text, as in manifests.

    Args:
        findings: the sweep's findings.
        settings: the clips' settings, as in their manifests.
        lossless: whether the clips were measured without a codec's loss.
        against: the other sweep, if there was one.
        failed: reasons, by clip name.
        clips_folder: the clips' folder, relative to the report's.
    """
    tree = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "settings": dict(settings),
        "lossless": lossless,
        "measures": [asdict(measure) for measure in MEASURES],
        "clips": [row for prompt in findings.prompts for row in _clip_rows(prompt, clips_folder)],
        "between_seeds": [
            {
                "prompt": each.prompt.text,
                "image": each.prompt.image,
                "pairwise_ssim": each.similarity,
                "spread": _plain(each.spreads),
            }
            for each in findings.prompts
        ],
        "variance": {
            "prompts": len(findings.prompts),
            "seeds": [str(seed) for seed in findings.common_seeds],
            "shares": _plain(findings.shares),
        },
        "paired": {"against": against, "differences": _plain(findings.paired)},
        "failed": dict(failed),
    }
    return json.dumps(tree, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _plain(by_measure: Mapping[str, Any]) -> dict[str, dict[str, float] | None]:
    return {name: found and asdict(found) for name, found in by_measure.items()}


def findings_csv(findings: Findings, clips_folder: str) -> str:
    """One line per clip; the cell of an undefined value is empty."""
    columns = ["prompt", "image", "seed", "file", "digest", "num_frames"]
    names = [measure.name for measure in MEASURES]
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its line ends are RFC 4180's; it quotes a text that holds one of them
    writer.writerow([*columns, *names, "outlier"])
    for prompt_findings in findings.prompts:
        for row in _clip_rows(prompt_findings, clips_folder):
            values = [row["measures"][name] for name in names]
            texts = [no_formula(row[name]) for name in columns]
            writer.writerow([*texts, *values, "; ".join(row["outlier"])])
    return text.getvalue()


def no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would evaluate gets an apostrophe in front (OWASP, "CSV Injection")."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _clip_rows(prompt_findings: PromptFindings, clips_folder: str) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt_findings.prompt.text,
            "image": prompt_findings.prompt.image,
            "seed": str(clip.seed),
            "file": f"{clips_folder}/{clip.path.name}",
            "digest": clip.digest,
            "num_frames": clip.num_frames,
            "measures": clip.values,
            "outlier": list(reasons),
        }
        for clip, reasons in zip(prompt_findings.clips, prompt_findings.reasons, strict=True)
    ]


def read_measures(path: Path, *, lossless: bool) -> dict[tuple[Prompt, int], Values]:
    """The measures of every clip in a sweep's JSON, by prompt and seed.

    Args:
        path: the file.
        lossless: whether they will be compared with measures of lossless files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not written by `findings_json`, or it measures the other kind of files.
    """
    try:
        tree = parse_json(read_bounded(path, _MAX_BYTES, "the measures").decode("utf-8"))
        if tree["schema"] != SCHEMA or tree["schema_version"] not in _READABLE:
            raise ValueError(f"its schema is {tree['schema']!r}, version {tree['schema_version']!r}")
        measures = {
            (Prompt(row["prompt"], row["image"]), int(row["seed"])): row["measures"] for row in tree["clips"]
        }
        is_lossless: bool = tree["lossless"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} holds no measures of a sweep of this version: {error!r}") from error
    if is_lossless != lossless:
        kinds = ("lossy", "lossless")
        raise ValueError(
            f"{path} has measures of {kinds[is_lossless]} files and this sweep makes {kinds[lossless]} ones; "
            "use --lossless for both or for none"
        )
    return measures
