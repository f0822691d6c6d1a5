"""`pyramid-seed verify`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_clip, check_readable, sidecar_path
from ..texts import printable
from .options import (
    Commands,
    add_again_options,
    add_trust,
    again_options,
    given_from,
    named_path,
    open_image,
    say,
    say_start,
    say_step,
    told_counts,
)
from .process import made_together

if TYPE_CHECKING:
    from ..pieces.processes import Processes
    from ..provenance.verify import Verification

_RESULTS = {"match": "match", "differs": "differ", "failed": "could not be made again"}
"""The possible results for a clip, and the words for counting several of them."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify",
        help="make a clip again and compare",
        description="Make a clip again from its manifest and compare: weights, text, noise, units, decoded "
        "chunks, frames, and the pixels in the file. Answers MATCH or the first difference.",
        epilog="exit status: 0 the same clip, 1 it differs, 2 it could not be made again; of several clips "
        "the highest",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "clips",
        type=named_path,
        metavar="CLIP",
        nargs="+",
        help="a clip with a manifest, in it or beside it; a folder stands for all .mp4 files in it",
    )
    parser.add_argument("--json", action="store_true", help="print one list of all clips, for programs")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--noise-only", action="store_true", help="only draw the noise again: needs no weights, takes seconds"
    )
    extent.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="make only N random units again, from the latents that --keep-latents wrote beside CLIP, and "
        "decode all of these latents; prints the chance that a forged unit would have been found",
    )
    parser.add_argument(
        "--search",
        type=Path,
        metavar="FILE",
        help="the search.json of the search that CLIP has won: make its candidates again, or --sample N of "
        "them, and prove the choice",
    )
    parser.add_argument(
        "--scorer", metavar="S", help="with --search: who gave the scores, unless it was measures"
    )
    add_trust(parser)
    add_again_options(parser)


@made_together
def run(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed verify`."""
    if options.search is not None or options.scorer is not None:
        return _verify_search(options, processes)
    clips = [clip for path in options.clips for clip in clips_of(path)]
    is_single = clips == options.clips and len(clips) == 1
    if is_single:
        check_clip(clips[0])
    say_start(options)
    given = given_from(options)
    rows, status = [], 0
    for clip in clips:
        try:
            verification = _verified(clip, options, given, processes)
        except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
            if is_single:
                raise
            rows.append({"clip": str(clip), "result": "failed", "note": str(error)})
            status = 2
        else:
            rows.append(_row(clip, verification))
            status = max(status, 0 if verification.same else 1)
            if is_single and not options.json:
                _tell(verification, options)
        if not is_single and not options.json:
            _tell_row(rows[-1])
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not is_single:
        counts = Counter(row["result"] for row in rows)
        say("clips", told_counts({words: counts[result] for result, words in _RESULTS.items()}))
    return status


def _verify_search(options: argparse.Namespace, processes: Processes | None) -> int:
    """`pyramid-seed verify CLIP --search FILE`."""
    if options.search is None:
        raise ValueError("--scorer is for --search; name the search's search.json")
    if len(options.clips) > 1 or options.noise_only:
        raise ValueError("--search is about one clip, its winner, and needs its model; leave out the rest")
    check_clip(options.clips[0])
    check_readable(options.search)
    say_start(options)
    if options.video is not None:
        raise ValueError("the clips of a search go on from no video; leave out --video")
    image = open_image(options.image)

    from ..search.verify import sample_text, verify_search

    found = verify_search(
        options.clips[0],
        options.search,
        scorer=options.scorer,
        sample=options.sample,
        image=image,
        processes=processes,
        **again_options(options),
    )
    if options.json:
        row = {"clip": str(options.clips[0]), "result": found.verdict}
        notes = {"problems": found.problems, "differing": found.differing}
        print(json.dumps([row | {name: list(value) for name, value in notes.items() if value}], indent=2))
        return 0 if found.same else 1
    for step in () if found.clip is None else found.clip.steps:
        say_step(step)
    for note in (*found.problems, *found.differing):
        say("search", note)
    for number, decision in enumerate(found.decisions, start=1):
        lead = "all kept" if decision.margin is None else f"margin {decision.margin:.6g}"
        say(f"round {number}", f"{decision.verdict}: {lead}, scores differ by {decision.difference:.6g}")
    for difference in found.kernels:
        say("environment", difference)
    if found.sample is not None:
        say("sample", sample_text(found.sample))
    extent = "" if found.sample is None else ", as far as the sample goes"
    print(f"{found.verdict.upper()}{extent}")
    return 0 if found.same else 1


def clips_of(path: Path) -> list[Path]:
    """The clips that a path stands for: all .mp4 files of a folder, unless the folder is itself a clip.

    Raises:
        ValueError: a folder has no clips.
    """
    if not path.is_dir():
        return [path]

    if sidecar_path(path).is_file():
        return [path]
    clips = sorted(
        clip for clip in path.rglob("*.mp4") if not any(part.startswith(".") for part in clip.parts)
    )
    if not clips:
        raise ValueError(f"there is no .mp4 in the folder {path}; name a clip, or a folder of clips")
    return clips


def _verified(
    clip: Path, options: argparse.Namespace, given: Mapping[str, Any], processes: Processes | None
) -> Verification:
    if options.noise_only:
        from ..provenance.verify import verify_noise_of_file

        return verify_noise_of_file(clip, options.trust)

    from ..reproduce import verify

    return verify(
        clip,
        sample=options.sample,
        trust=options.trust,
        **given,
        processes=processes,
        **again_options(options),
    )


def _row(clip: Path, verification: Verification) -> dict[str, str]:
    """The result for a clip, for programs."""
    row = {"clip": str(clip), "result": "match" if verification.same else "differs"}
    for step in verification.steps:
        if step.stage == "signature" and step.status != "differs":
            row["signature"] = f"{step.status}: {step.note}"
    if (difference := verification.difference) is not None:
        row |= {"stage": difference.stage, "note": difference.note}
    return row


def _tell_row(row: Mapping[str, str]) -> None:
    """Print one line of many."""
    where = f"{row['stage']}: " if "stage" in row else ""
    note = f": {where}{row['note']}" if "note" in row else ""
    print(printable(f"{row['result'].upper():7} {row['clip']}{note}"), flush=True)


def _tell(verification: Verification, options: argparse.Namespace) -> None:
    for step in verification.steps:
        say_step(step)
    difference = verification.difference
    if difference is None:
        if verification.sample is not None:
            say("sample", verification.sample)
        print(f"MATCH{_extent(options)}")
        return
    print(printable(f"DIFFERS first in {difference.stage}: {difference.note}"))
    for change in verification.environment:
        say("environment", change)


def _extent(options: argparse.Namespace) -> str:
    """How much of the clip was made again, if not all."""
    if options.noise_only:
        return ", as far as the noise goes"
    return "" if options.sample is None else ", as far as the sample goes"
