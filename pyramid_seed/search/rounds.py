"""The candidates of a search as clips: each round is a batch, whose list the main process writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..batch.launch import Launch
from ..batch.run import run_batch
from ..batch.summary import BatchSummary
from ..explore.measured import shrink
from ..geometry import PyramidGeometry
from ..media.frames import Frames, frames_digest
from ..media.video import read_video
from ..presets import Preset
from ..provenance.manifest import read_manifest
from .record import BranchRow, Made, branch_rows
from .tree import Node
from .tree import Path as TreePath

CANDIDATES = "candidates"
_OVER = 2**31


class UnfinishedError(Exception):
    """A batch was stopped, or one of its clips has failed: there is nothing to decide."""

    def __init__(self, summary: BatchSummary) -> None:
        super().__init__("a round is not complete")
        self.summary = summary


@dataclass(frozen=True)
class Rounds:
    """Makes candidates on all processes of a launch.

    Attributes:
        folder: the search's.
        prompt, image: of every candidate; the image as an absolute path.
        geometry: the model's.
        settings: of the finished clip.
        options: further arguments of `run_batch`.
    """

    folder: Path
    prompt: str
    image: str | None
    geometry: PyramidGeometry
    settings: Preset
    options: Mapping[str, Any]

    def made(self, launch: Launch, nodes: Sequence[Node]) -> tuple[dict[TreePath, Path], float]:
        """Make the clips of nodes of one length: their files, and the seconds that all of them took.

        Raises:
            UnfinishedError: not all of them are there. Otherwise as `run_batch`.
        """
        with TemporaryDirectory() as folder:
            listed = Path(folder) / "round.jsonl"
            listed.write_text("".join(map(self._row, nodes)), encoding="utf-8")
            launch.count("rounds")
            summary = self._batch(listed, nodes[0].num_units)
        if summary.status:
            raise UnfinishedError(summary)
        paths = {(str(node.seed), branch_rows(node.branches)): node.path for node in nodes}
        files = {}
        for name in summary.digests:
            file = self.folder / CANDIDATES / name
            clip = made_of(read_manifest(file))
            files[paths[clip.seed, clip.branches]] = file
        return files, sum(summary.seconds.values())

    def follow(self, launch: Launch) -> BatchSummary:
        """Make clips with the main process until it is through; returns the outcome of the last batch."""
        summary, number = BatchSummary(is_main=False), 1
        while launch.wait_for("rounds", number, lambda: False, needed=(0,)) and not launch.count("over", 0):
            summary, number = self._batch(self.folder, 1), number + 1
        return summary

    def _batch(self, listed: Path, num_units: int) -> BatchSummary:
        """This process's part of a round; only the main one reads list and length."""
        settings = replace(self.settings, num_frames=self.geometry.num_frames(num_units))
        return run_batch(
            listed,
            self.folder / CANDIDATES,
            preset=settings,
            lossless=True,
            keep_units=True,
            **self.options,
        )

    def _row(self, node: Node) -> str:
        row: dict[str, Any] = {"prompt": self.prompt, "seed": node.seed}
        if node.branches:
            row["branches"] = [f"{branch.from_unit}:{branch.seed}" for branch in node.branches]
        if self.image is not None:
            row["image"] = self.image
        return json.dumps(row) + "\n"


@contextmanager
def leading(launch: Launch) -> Iterator[None]:
    """Let the other processes go when the main one is through, whatever happened."""
    try:
        yield
    finally:
        launch.count("over")
        launch.count("rounds", _OVER)
        launch.end(lambda: False)


def made_of(manifest: Mapping[str, Any]) -> Made:
    """A clip as a record holds it."""
    branches = tuple(BranchRow(**branch) for branch in manifest["branches"])
    digests = manifest["digests"]
    return Made(
        seed=manifest["seed"], branches=branches, units=tuple(digests["units"]), frames=digests["frames"]
    )


def exact_frames(file: Path) -> Frames:
    """The frames of a candidate as they were generated, (T, H, W, 3) uint8.

    Raises:
        ValueError: the file holds others than its manifest says.
    """
    manifest = read_manifest(file)
    frames = shrink(read_video(file)[0], manifest["file"]["scale"])
    if frames_digest(frames) != manifest["digests"]["frames"]:
        raise ValueError(f"{file} does not hold the frames that were generated; remove it and search again")
    return frames
