"""`run_search`: the best seed of a prompt, unit by unit; a few batches with a rule between them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import msgspec
from tqdm import tqdm

from ..api import opened_texts, parts_left_out, wanted_settings
from ..batch.launch import Launch, join_launch
from ..batch.summary import BatchSummary
from ..checks import check_path
from ..choices import AfterUse, AttentionPath, DeterminismLevel
from ..extras import check_extra
from ..files import without_new_folders
from ..geometry import PyramidGeometry
from ..media.video import write_video
from ..pipelines.first_frames import opened
from ..presets import Preset, Settings, load_preset, settings_listed, with_settings
from ..provenance.manifest import geometry_of, manifest_json, read_manifest, read_verifiable, recipe_of
from ..recipe import Recipe
from ..reproduce import folder_of
from ..run_options import RunOptions
from ..shared_pipeline import shared_pipeline
from ..texts import check_prompt, counted
from .page import write_page
from .record import RECORD_NAME, Made, ScorerRow, SearchRecord, SearchSettings, Tried, sealed, write_record
from .rounds import Rounds, UnfinishedError, exact_frames, leading, made_of
from .scorers import Scorer, score_of, scorer_of
from .tree import SCHEME, Decision, Node, Tree, decisions, ranked
from .tree import Path as TreePath

WINNER, PAGE = "winner.mp4", "search.html"

CLIP_FIELDS = (
    *("noise_scheme", "preset", "settings", "noise_device", "determinism", "attention", "compiled"),
    *("image_sha256", "model", "weights", "loras"),
)
"""What a record takes from the winner's manifest: how all candidates were made."""


@dataclass(frozen=True)
class SearchSummary:
    """The outcome of a search.

    Attributes:
        batch: the outcome of its last batch, see `BatchSummary`: if that is not complete, run it again.
        winner: the file of the best clip; None if the search is not complete, and in processes other than
            the main one.
        record: everything that was tried, see docs/search.md; None where there is no winner.
    """

    batch: BatchSummary
    winner: Path | None = None
    record: SearchRecord | None = None


@settings_listed
def run_search(
    prompt: str | None,
    output: str | Path,
    *,
    scorer: str | Scorer,
    num_candidates: int = 8,
    keep: int | None = None,
    branching: int = 4,
    at: Sequence[int] = (),
    seed: int | None = None,
    extend: str | Path | None = None,
    image: str | Path | None = None,
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
) -> SearchSummary:
    """Try seeds unit by unit, keep the best, and finish the winner; every process makes the same call.

    Candidates are made up to the numbers of units in `at`, scored from their exact frames, and all but the
    best are dropped. Each survivor's children go on from its units with seeds of their own. What exists is
    not made again, so a search that was stopped or killed is continued by the same call.

    Args:
        prompt: what to show; None with `extend`: the clip's own.
        output: the folder for `winner.mp4`, `search.json`, `search.html` and `candidates`.
        scorer: see `scorers.scorer_of`, or an object with `score(frames, prompt)`, see `scorers.Scorer`.
        num_candidates: how many the first round has: the width of the tree.
        keep: how many survive a round; default: 2, or 1 of 1. Of the last round, one survives.
        branching: children of each survivor.
        at: numbers of units at which candidates are compared, rising; default: once, when half of the units
            are made: best of N on a short beginning.
        seed: the search's root seed, see `tree.child_root`; default: 0, or that of the clip to extend.
        extend: a saved clip; all candidates begin with it, and it is made again once. Its settings, noise
            device, determinism and attention are used, and `num_frames` is needed.
        image: the file of an image to begin with, see `generate`. With Pyramid Flow it is the first unit, so
            that no comparison is possible after that one alone.
        preset, loras, num_processes, progress: see `run_batch`.
        device, noise_device, determinism, text_encoders, prompt_embeds, attention, compile, workers: see
            `run_batch`.
        lossless: keep every bit in the winner's file; those of candidates always do.
        settings: values that replace the preset's, see below.

    Raises:
        BatchInputError, ValueError, TypeError, OSError: as in `run_batch`; or a number or the scorer does not
            fit. Nothing was made.
        ValueError: no candidate of a round has a score; or the clip to extend comes out differently here.
    """
    check_path("output", output)
    output = Path(output)
    options = RunOptions(device, noise_device, determinism, attention, compile, workers, text_encoders)
    options.check()
    check_extra("report", "jinja2")
    asked = _Asked(prompt, preset, settings, image, options)
    subject = _new_clip(asked, prompt_embeds) if extend is None else _longer_clip(extend, asked)
    start, geometry = subject.start, subject.geometry
    units = geometry.num_units(subject.settings.num_frames)
    half = start.num_units + -(-(units - start.num_units) // 2)
    keep = min(2, num_candidates) if keep is None else keep
    root = start.seed if seed is None else seed
    tree = Tree(root, num_candidates, keep, branching, tuple(at) or (half,), units, start)
    if image is not None and geometry.image_role == "unit" and tree.at[0] == 1:
        raise ValueError("at must begin at 2 or later with an image, which is the first unit; got 1, use 2")
    judge = scorer_of(scorer, geometry) if isinstance(scorer, str) else scorer

    making = subject.options.arguments() | {"prompt_embeds": prompt_embeds, "loras": loras}
    making |= {"num_processes": num_processes, "progress": progress}
    if image is not None:  # otherwise it would give the size
        making |= {"height": subject.settings.height, "width": subject.settings.width}
    first = None if image is None else str(Path(image).absolute())
    rounds = Rounds(output, subject.prompt, first, geometry, subject.settings, making)
    launch = join_launch(num_processes)
    with launch.alive():
        if not launch.is_main:
            return SearchSummary(rounds.follow(launch))
        with leading(launch), without_new_folders(output):
            output.mkdir(parents=True, exist_ok=True)
            search = _Search(rounds, tree, judge, launch, subject.original, progress)
            try:
                record = search.run(lossless)
            except UnfinishedError as unfinished:
                return SearchSummary(unfinished.summary)
            return SearchSummary(BatchSummary(), output / WINNER, record)


@dataclass(frozen=True)
class _Asked:
    """What a search was asked for, see `run_search`."""

    prompt: str | None
    preset: str | Path | Preset | None
    settings: Settings
    image: str | Path | None
    options: RunOptions


@dataclass(frozen=True)
class _Subject:
    """What a search is to make: a prompt's clip, or a longer one of a clip that is there."""

    prompt: str
    settings: Preset
    geometry: PyramidGeometry
    options: RunOptions
    start: Node
    original: Mapping[str, Any] | None = None


def _new_clip(asked: _Asked, prompt_embeds: str | Path | None) -> _Subject:
    prompt, preset = asked.prompt, asked.preset
    if prompt is None:
        raise ValueError("prompt is missing; give one, or a clip to extend")
    check_prompt(prompt)
    loaded = preset if preset is None or isinstance(preset, Preset) else load_preset(preset)
    without = parts_left_out(asked.options.text_encoders, opened_texts(prompt_embeds))
    wanted, _, source = wanted_settings(loaded, asked.settings, opened(asked.image), None, without)
    source = source or shared_pipeline.source(wanted.model, wanted.variant, without)
    return _Subject(prompt, wanted, source.geometry, asked.options, Node())


def _longer_clip(clip: str | Path, asked: _Asked) -> _Subject:
    manifest = read_verifiable(clip)
    recipe, settings = recipe_of(manifest), asked.settings
    _check_extended(recipe, asked)
    own = Settings(model=folder_of(clip, settings.get("model")), num_frames=settings["num_frames"])
    clips_own: dict[str, Any] = {
        "noise_device": recipe.noise_device,
        "determinism": recipe.determinism,
        "attention": recipe.attention,
        "compile": recipe.compiled,
    }
    for name, value in clips_own.items():
        if (given := getattr(asked.options, name)) not in (value, getattr(RunOptions(), name)):
            raise ValueError(f"the clip to extend has its own {name}, {value!r}, got {given!r}; leave it out")
    start = Node((), manifest["geometry"]["num_units"], recipe.seed, recipe.branches)
    wanted, options = with_settings(recipe.settings, own), replace(asked.options, **clips_own)
    return _Subject(recipe.prompt, wanted, geometry_of(manifest), options, start, manifest)


def _check_extended(recipe: Recipe, asked: _Asked) -> None:
    """Refuse what contradicts a clip that is extended, and clips that batches cannot make again."""
    settings = asked.settings
    if asked.prompt not in (None, recipe.prompt):
        raise ValueError(
            f"the clip to extend has its own prompt, {recipe.prompt!r:.60}; leave out another one"
        )
    if asked.preset is not None or set(settings) - {"num_frames", "model"} or "num_frames" not in settings:
        raise ValueError("a clip is extended with its own settings: give num_frames and no other")
    if settings["num_frames"] <= (had := recipe.settings.num_frames):
        got = settings["num_frames"]
        raise ValueError(f"num_frames must be above {had}, those of the clip to extend, got {got}")
    for name in ("cache", "quantization", "vae_tiling"):
        if getattr(recipe, name) is not None:
            raise ValueError(f"the clip to extend was made with {name}, which a batch cannot set up")
    if recipe.video_frames is not None:
        raise ValueError("the clip to extend goes on from a video, which a batch cannot be given")
    if (recipe.image_digest is None) != (asked.image is None):
        raise ValueError("give the image that the clip to extend was made from, and only then")


@dataclass
class _Search:
    """A search in its main process."""

    rounds: Rounds
    tree: Tree
    scorer: Scorer
    launch: Launch
    original: Mapping[str, Any] | None
    progress: bool
    pace: float | None = None  # seconds of one process per unit, as the last batch has shown

    def run(self, lossless: bool) -> SearchRecord:
        """Make, score and drop candidates; finish the best, and write it, the page and the record."""
        tried: dict[TreePath, Tried] = {}
        files: dict[TreePath, Path] = {}
        self._tell(budget_text(self.tree))
        start = self._start()
        self._tell_time(0)

        def scores_of(nodes: Sequence[Node]) -> dict[TreePath, float | None]:
            turn = len(nodes[0].path) - 1
            count = self.tree.rounds[turn][1]
            first = nodes[: self.launch.world_size]
            if self.pace is None and len(first) < len(nodes):  # they tell how long the search will take
                self._made(first, count)
                self._tell_time(len(first))
            made = self._made(nodes, count)
            files.update(made)
            for node in tqdm(nodes, desc="scoring", unit="clip", disable=not self.progress, leave=False):
                tried[node.path] = self._tried(made[node.path])
            scores = {node.path: tried[node.path].score for node in nodes}
            self._tell(round_text(self.tree, self.launch.world_size, turn, scores, self.pace))
            return scores

        decided = decisions(self.tree, scores_of)
        best = self.tree.finished(decided[-1].kept[0])
        (file,) = self._made([best], self.tree.num_units - self.tree.at[-1]).values()
        manifest = read_manifest(file)
        record = self._record(decided, tried, start, manifest)
        folder = self.rounds.folder
        write_winner(folder / WINNER, file, record.merkle_root, lossless=lossless)
        write_page(folder / PAGE, record, decided, files, file)
        write_record(folder / RECORD_NAME, record)
        return record

    def _made(self, nodes: Sequence[Node], num_units: int) -> dict[TreePath, Path]:
        """The files of nodes, each of which has so many units of its own."""
        files, seconds = self.rounds.made(self.launch, nodes)
        if seconds and num_units:
            self.pace = seconds / (len(nodes) * num_units)
        return files

    def _start(self) -> Made | None:
        """The clip that the search extends, made again; its units are kept for the candidates."""
        if self.original is None:
            return None
        (file,) = self._made([self.tree.start], self.tree.start.num_units).values()
        made = made_of(read_manifest(file))
        if made != made_of(self.original):
            raise ValueError(
                "making the clip again gives another clip here, so it cannot be extended; pyramid-seed "
                "verify says what differs"
            )
        return made

    def _tried(self, file: Path) -> Tried:
        score, error = score_of(self.scorer, exact_frames(file), self.rounds.prompt)
        return Tried(**msgspec.structs.asdict(made_of(read_manifest(file))), score=score, error=error)

    def _record(
        self,
        decided: Sequence[Decision],
        tried: Mapping[TreePath, Tried],
        start: Made | None,
        manifest: Mapping[str, Any],
    ) -> SearchRecord:
        tree = self.tree
        settings = SearchSettings(
            scheme=SCHEME,
            prompt=self.rounds.prompt,
            seed=str(tree.root),
            width=tree.width,
            keep=tree.keep,
            branching=tree.branching,
            at=tree.at,
            num_units=tree.num_units,
            start=start,
            clip={name: manifest[name] for name in CLIP_FIELDS},
        )
        scorer = ScorerRow(name=self.scorer.name, version=self.scorer.version, digest=self.scorer.digest)
        return sealed(settings, scorer, decided, tried, made_of(manifest), WINNER)

    def _tell_time(self, num_made: int) -> None:
        if self.pace is not None:
            self._tell(time_text(self.tree, self.launch.world_size, num_made, self.pace))

    def _tell(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)


def write_winner(path: Path, candidate: Path, merkle_root: str, *, lossless: bool) -> None:
    """Write the finished candidate as a usual clip, whose manifest names the search that it has won."""
    manifest = read_manifest(candidate)
    settings = manifest["settings"]
    shown = {"ending": ".mp4", "scale": settings["scale"], "lossless": lossless}
    comment = manifest_json(manifest | {"file": shown, "search": {"merkle_root": merkle_root}})
    write_video(
        path,
        exact_frames(candidate),
        settings["fps"],
        comment=comment,
        scale=settings["scale"],
        lossless=lossless,
        overwrite=True,
    )


def budget_text(tree: Tree) -> str:
    """What a search will make, and what best of N would cost, on one line."""
    rounds = " + ".join(f"{count} x {length}" for count, length in tree.rounds)
    rest = tree.num_units - tree.at[-1]
    whole = tree.num_units - tree.start.num_units
    number = sum(count for count, _ in tree.rounds)
    return (
        f"budget: {counted(tree.cost, 'unit')} ({rounds}{f' + {rest}' if rest else ''}), as many as best of "
        f"{tree.cost / whole:.3g} whole clips makes; best of all {number} would make {number * whole}"
    )


def time_text(tree: Tree, num_processes: int, num_made: int, pace: float) -> str:
    """How long a search takes whose first candidates are made, at a pace in seconds of a process per unit."""
    number = sum(count for count, _ in tree.rounds)
    whole = -(-number // num_processes) * (tree.num_units - tree.start.num_units)
    left = tree.units_in_turn(num_processes, 0, num_made)
    return (
        f"time: about {left * pace:.0f} s left, at the pace so far; best of all {number} would take "
        f"{whole * pace:.0f} s"
    )


def round_text(
    tree: Tree, num_processes: int, turn: int, scores: Mapping[TreePath, float | None], pace: float | None
) -> str:
    """What a round has shown, and how long the rest will take at that pace, see `time_text`."""
    best = ranked(scores)
    shown = f"best {best[0][0]:.6g}, worst {best[-1][0]:.6g}" if best else "no score"
    failed = f", {len(scores) - len(best)} without a score" if len(best) < len(scores) else ""
    left = None if pace is None else tree.units_in_turn(num_processes, turn + 1) * pace
    time_left = "" if left is None else f"; about {left:.0f} s left"
    return (
        f"round {turn + 1} of {len(tree.at)}: {counted(len(scores), 'candidate')}, {shown}{failed}{time_left}"
    )
