"""Measure the figures of docs/seeds.md and write them there.

`PYTHONPATH=. python scripts/seed_figures.py FOLDER` makes two sweeps of 64 clips with the embedded model in
FOLDER, some 10 minutes on one core. Run again, it makes only what is missing.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from determinism_table import with_part

from pyramid_seed import environment_fingerprint, run_sweep
from pyramid_seed.explore.findings import Findings
from pyramid_seed.explore.measured import measured_clip
from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.sample_size import SHARE, PairedDifference, seeds_for_share
from pyramid_seed.explore.variance import VarianceShares
from pyramid_seed.media.video import read_video, write_video
from pyramid_seed.provenance.manifest import read_manifest

PAGE = Path(__file__).parents[1] / "docs" / "seeds.md"
BEGIN = "<!-- figures: written by scripts/seed_figures.py -->\n"
END = "<!-- end of figures -->\n"

PROMPTS = (
    "a red circle moves to the right on a white background",
    "a blue square moves down on a black background",
    "a green triangle grows on a grey background",
    "a yellow circle shrinks on a black background",
)
SEEDS = range(16)
USUAL, OTHER = (2.0, 1.5), (3.0, 3.0)
"""Guidance scales of the two sweeps, of the first unit and of the later ones."""


def codec_errors(usual: Findings) -> dict[str, float]:
    """What a usual, lossy file changes in each measure: the largest deviation over a clip of each prompt."""
    errors: dict[str, list[float]] = {}
    for exact in (prompt.clips[0] for prompt in usual.prompts):
        manifest = read_manifest(exact.path)
        frames, fps = read_video(exact.path)
        with tempfile.TemporaryDirectory() as folder:
            lossy = Path(folder) / "lossy.mp4"
            write_video(lossy, frames, fps)
            values = measured_clip(exact.prompt, exact.seed, path=lossy, manifest=manifest).values
        for name, true in exact.values.items():
            if true is not None and (value := values[name]) is not None:
                errors.setdefault(name, []).append(abs(value - true))
    return {name: max(deviations) for name, deviations in errors.items()}


def figures(usual: Findings, other: Findings, errors: Mapping[str, float], machine: str) -> str:
    """The tables, as Markdown.

    Args:
        usual: of the sweep with the usual settings.
        other: of the one with another setting, against the usual one.
        errors: see `codec_errors`.
        machine: what they were made on.
    """
    shares = [
        [f"`{name}`", *_spread(usual, name), _number(errors.get(name)), *_percent(share)]
        for name, share in usual.shares.items()
        if share is not None
    ]
    similar = [[prompt.prompt.text, _number(prompt.similarity)] for prompt in usual.prompts]
    paired = [
        [f"`{measure.name}`", *_difference(difference, measure.is_signed)]
        for measure in MEASURES
        if (difference := other.paired[measure.name]) and difference.std > 0
    ]
    return "\n".join(
        [
            f"{len(usual.prompts)} prompts, {len(usual.common_seeds)} seeds. {machine}",
            "",
            *_table(
                ["measure", "mean", "std over seeds", "lossy file", "prompt", "seed", "interaction"], shares
            ),
            "",
            *_table(["prompt", "SSIM of two seeds, mean over all pairs"], similar),
            "",
            f"Guidance {_scales(OTHER)} minus guidance {_scales(USUAL)} (of the first unit, then of the "
            f"later ones), and the seeds per setting that it takes to see a difference of {100 * SHARE:g} % "
            "of the mean:",
            "",
            *_table(
                [
                    "measure",
                    "difference",
                    "95 % interval",
                    "std over seeds",
                    "std of the pairs",
                    "correlation",
                    "seeds, unpaired",
                    "seeds, paired",
                ],
                paired,
            ),
        ]
    )


def _spread(findings: Findings, name: str) -> list[str]:
    spreads = [spread for prompt in findings.prompts if (spread := prompt.spreads[name])]
    mean = sum(spread.mean for spread in spreads) / len(spreads)
    return [_number(mean), _number(math.sqrt(sum(spread.std**2 for spread in spreads) / len(spreads)))]


def _percent(shares: VarianceShares) -> list[str]:
    return [f"{100 * share:.1f} %" for share in (shares.prompt, shares.seed, shares.interaction)]


def _difference(paired: PairedDifference, is_signed: bool) -> list[str]:
    needed = None if is_signed else seeds_for_share(paired)
    return [
        _number(paired.difference),
        f"{_number(paired.low)} to {_number(paired.high)}",
        _number(paired.std),
        _number(paired.std_paired),
        "-" if paired.correlation is None else f"{paired.correlation:.2f}",
        *(["-", "-"] if needed is None else map(str, needed)),
    ]


def _scales(guidance: tuple[float, float]) -> str:
    return f"{guidance[0]:g}, {guidance[1]:g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def with_figures(page: str, text: str) -> str:
    """The page with these figures. ValueError if the page has no place for them."""
    return with_part(page, f"{text}\n", BEGIN, END)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the figures of docs/seeds.md and write them there.")
    parser.add_argument("folder", type=Path, help="where the two sweeps are made")
    folder: Path = parser.parse_args().folder
    usual = run_sweep(
        PROMPTS,
        folder / "usual",
        seeds=SEEDS,
        device="cpu",
        lossless=True,
        guidance_scale=USUAL[0],
        video_guidance_scale=USUAL[1],
    )
    if usual.findings is None:  # stopped
        return
    other = run_sweep(
        PROMPTS,
        folder / "other",
        seeds=SEEDS,
        device="cpu",
        lossless=True,
        against=folder / "usual",
        guidance_scale=OTHER[0],
        video_guidance_scale=OTHER[1],
    )
    if other.findings is None:
        return
    here = environment_fingerprint()
    packages = here["packages"]
    machine = f"{here['cpu']['name']}, {here['python']}, torch {packages['torch']}."
    text = figures(usual.findings, other.findings, codec_errors(usual.findings), machine)
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
