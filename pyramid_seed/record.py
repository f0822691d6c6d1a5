"""A golden record of a clip, to see whether a later clip is still the same: its manifest, some of its frames.

`style.json` is the manifest, with what is needed to read `style.png`: these frames, lossless, side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np

from .environment import Difference, kernel_differences
from .files import check_free, replacing
from .keying.clip import KeyedClip
from .keying.diff import KeyedDiff, diff_keyed
from .keying.manifest import is_keyed, read_any_manifest
from .media.contact_sheet import evenly_spaced, image_grid
from .media.frames import Frames, absolute_difference, amplified, frames_digest, gain_for
from .media.images import read_image
from .media.video import write_image
from .provenance.diff import ManifestDiff, Step, diff_manifests, first_difference
from .provenance.manifest import without_timings

MAX_LEVELS, MAX_MEAN = 1, 1e-3
"""Default bounds where other kernels run, in grey levels of 255: float32 showed at most one level, in at most
5 values of 100,000; a number format with fewer bits goes far beyond them."""

_COLUMNS = 6
_MAX_PIXELS, _MIN_FRAMES = 2**18, 3  # of the frames kept: as many as fit, but at least three


class ClipLike(Protocol):
    """A clip, such as `Clip`."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """How it was made and what came out, see docs/manifest.md."""
        ...

    @property
    def frames(self) -> Frames:
        """(T, H, W, 3) uint8."""
        ...


Recordable: TypeAlias = ClipLike | KeyedClip
"""A clip that `generate` made, or one of any other pipeline that `keyed` made."""


@dataclass(frozen=True, eq=False)
class Record:
    """The kept parts of a clip.

    Attributes:
        manifest: its manifest without timings.
        indices: the indices of the kept frames.
        frames: these frames, (n, H, W, 3) uint8.
    """

    manifest: Mapping[str, Any]
    indices: tuple[int, ...]
    frames: Frames


class _Kept(msgspec.Struct):
    """What a record's manifest adds: which frames are in the picture, and their SHA-256."""

    frames: list[int]
    sha256: str


@dataclass(frozen=True)
class RecordComparison:
    """How a clip compares with a record.

    Attributes:
        manifests: the record's and the clip's.
        moved: the first result that differs, in causal order, beginning with those that are equal everywhere
            (weights, noise); None if none does.
        kernels: fields of the environment that make other kernels run here.
        bounds: the largest and the mean difference that other kernels may make, in levels of 255.
        largest, mean, share: for the recorded frames, the largest and the mean difference in levels, and the
            share of values that differ; None if the number or size of the frames differs.
    """

    manifests: ManifestDiff | KeyedDiff
    moved: Step | None
    kernels: tuple[Difference, ...]
    bounds: tuple[float, float]
    largest: int | None
    mean: float | None
    share: float | None

    @property
    def is_within_bounds(self) -> bool:
        """Whether other kernels run here, and only what these may change differs."""
        return (
            bool(self.kernels)
            and (self.moved is None or self.moved.stage not in ("weights", "noise"))
            and self.largest is not None
            and self.mean is not None
            and self.largest <= self.bounds[0]
            and self.mean <= self.bounds[1]
        )

    @property
    def is_same(self) -> bool:
        """Whether the clip passes: bit for bit, or within the bounds where other kernels run."""
        return self.moved is None or self.is_within_bounds

    def __str__(self) -> str:
        """What was compared and the result; for a clip that fails, everything that may explain it."""
        if self.moved is None:
            return "the same, bit for bit"
        kernels = ", ".join(f"{each.field} ({each.a} then, {each.b} now)" for each in self.kernels)
        bounds = f"bounds: {self.bounds[0]:g}, mean {self.bounds[1]:g}"
        if self.is_within_bounds:
            return f"within bounds, as other kernels run here: {kernels}; {self._pixels} ({bounds})"
        lines = [f"the first stage that moved is {self.moved.stage}, {self.moved.note}", self._pixels]
        lines += [f"beyond what other kernels may change ({bounds})"] if kernels else []
        for name in ("settings", "environment"):
            fields: Sequence[Difference] = getattr(self.manifests, name)
            lines += [f"{name}: {each}" for each in fields]
        if not self.manifests.settings and not self.manifests.environment:
            lines.append("nothing recorded explains it: the code has changed, or the weights in memory")
        return "\n".join(lines)

    @property
    def _pixels(self) -> str:
        if self.share is None:
            return "the number or size of the frames differs"
        if self.share == 0:
            return "the recorded frames are equal"
        values = f"{100_000 * self.share:.1f} of 100,000 values of the recorded frames differ"
        return f"{values}, by at most {self.largest} of 255 levels, {self.mean:.2g} on average"


def record_of(clip: Recordable) -> Record:
    """The kept parts of a clip: all its frames, or as many, evenly spaced, as make a small picture."""
    manifest, frames = _parts(clip)
    count = max(_MIN_FRAMES, _MAX_PIXELS // frames[0, ..., 0].size)
    indices = range(len(frames)) if count >= len(frames) else evenly_spaced(len(frames), count)
    return Record(without_timings(manifest), tuple(indices), frames[list(indices)])


def picture_path(path: Path) -> Path:
    """The path of a record's frames: `style.json` has `style.png`."""
    return path.with_suffix(".png")


def write_record(path: Path, record: Record, *, overwrite: bool = False) -> None:
    """Write a record; `path` is its .json.

    Raises:
        ValueError, FileExistsError: see `check_record_path`.
    """
    check_record_path(path, overwrite=overwrite)
    kept = {"frames": list(record.indices), "sha256": frames_digest(record.frames)}
    with replacing(path, overwrite=overwrite) as temporary:
        sheet = image_grid(record.frames, _COLUMNS, gap=0)
        write_image(picture_path(path), sheet, overwrite=overwrite)
        # In lines, unlike other manifests, so that people see what changed between two versions.
        text = json.dumps({**record.manifest, "record": kept}, indent=1, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """Read a record that `write_record` wrote.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: it is not a record, or its frames are not those that were written.
    """
    _check_ending(path)
    manifest = read_any_manifest(path)
    try:
        kept = msgspec.convert(manifest.pop("record", None), _Kept)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} is a manifest and no record: {error}; make one with `record`") from error
    num_frames, height, width = (manifest["settings"][name] for name in ("num_frames", "height", "width"))
    if kept.frames != sorted(set(kept.frames) & set(range(num_frames))):
        raise ValueError(f"{path}: record.frames must rise, within the clip's {num_frames}; make one anew")
    sheet = read_image(picture := picture_path(path))
    cells = [
        sheet[top : top + height, left : left + width]
        for top in range(0, len(sheet) - height + 1, height)
        for left in range(0, sheet.shape[1] - width + 1, width)
    ][: len(kept.frames)]
    if len(cells) != len(kept.frames) or not cells or frames_digest(np.stack(cells)) != kept.sha256:
        raise ValueError(f"{picture} does not hold the frames of {path.name}; make both anew")
    return Record(manifest, tuple(kept.frames), np.stack(cells))


def renew_record(path: Path, clip: Recordable) -> str:
    """Write the record of a clip, replacing an existing one; returns what has changed."""
    try:
        was = str(compare_with_record(read_record(path), clip))
    except FileNotFoundError:
        was = "new"
    except ValueError as error:
        was = f"new: {error}"
    write_record(path, record_of(clip), overwrite=True)
    return f"written; was {was}"


def compare_with_record(
    record: Record, clip: Recordable, *, max_levels: float = MAX_LEVELS, max_mean: float = MAX_MEAN
) -> RecordComparison:
    """Compare a clip with a record: bit for bit, and by how far its frames are off.

    Args:
        record: the earlier clip.
        clip: the clip now.
        max_levels, max_mean: the largest and the mean difference of the recorded frames, in levels of 255,
            allowed where other kernels run.

    Raises:
        ValueError: only one of the two was made by `keyed`, or the clip has no frames.
    """
    manifest, frames = _parts(clip)
    manifests = diff_records(record.manifest, manifest)
    everywhere = (step for step in manifests.steps if step.stage in ("weights", "noise"))
    moved = first_difference(everywhere) or first_difference(manifests.steps)
    sizes = [each["settings"] for each in (record.manifest, manifest)]
    if any(sizes[0][name] != sizes[1][name] for name in ("num_frames", "height", "width")):
        was, now = ("{num_frames} of {height}x{width}".format_map(size) for size in sizes)
        moved = moved or Step("frames", "differs", f"{was} then, {now} now")
        largest = mean = share = None
    else:
        difference = absolute_difference(record.frames, frames[list(record.indices)])
        if moved is not None and moved.stage == "frames" and difference.any():
            first = record.indices[int(difference.any(axis=(1, 2, 3)).argmax())]
            moved = replace(moved, note=f"{moved.note}, of the recorded ones first in frame {first}")
        largest, mean = int(difference.max()), float(difference.mean())
        share = np.count_nonzero(difference) / difference.size
    return RecordComparison(
        manifests,
        moved,
        tuple(kernel_differences(manifests.environment)),
        (max_levels, max_mean),
        largest,
        mean,
        share,
    )


def diff_records(a: Mapping[str, Any], b: Mapping[str, Any]) -> ManifestDiff | KeyedDiff:
    """All differences between two manifests of one kind; ValueError if only one clip was made by `keyed`."""
    if is_keyed(a) != is_keyed(b):
        raise ValueError("one of the two clips was made by keyed() and one was not; write the record anew")
    return diff_keyed(a, b) if is_keyed(a) else diff_manifests(a, b)


def write_side_by_side(path: Path, record: Record, clip: Recordable) -> None:
    """Write a picture of the record's frames, the clip's frames now, and their difference, in three rows.

    The difference is shown as strongly as possible without clipping; it is left out if sizes differ.
    """
    _, frames = _parts(clip)
    chosen = sorted(set(evenly_spaced(len(record.indices), _COLUMNS)))
    then, shown = record.frames[chosen], [record.indices[each] for each in chosen]
    now = frames[[min(index, len(frames) - 1) for index in shown]]
    if then.shape != now.shape:
        write_image(path, image_grid(now, len(now)), overwrite=True)
        return
    gain = gain_for(int(absolute_difference(then, now).max()))
    rows = [*then, *now, *amplified(then, now, gain)]
    write_image(path, image_grid(rows, len(chosen)), overwrite=True)


def check_record_path(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a path at which a record cannot be written.

    Raises:
        ValueError: it does not end in .json.
        FileExistsError: one of its files exists.
    """
    _check_ending(path)
    for file in (path, picture_path(path)):
        check_free(file, overwrite=overwrite)


def _parts(clip: Recordable) -> tuple[Mapping[str, Any], Frames]:
    """Manifest and frames of a clip of either kind; ValueError if it has no frames."""
    if not isinstance(clip, KeyedClip):
        return clip.manifest, clip.frames
    if clip.frames is None:
        raise ValueError('the clip has no frames to record; call the pipeline with output_type="np"')
    return clip.manifest(), clip.frames


def _check_ending(path: Path) -> None:
    if path.suffix.lower() != ".json":
        raise ValueError(f"a record must end in .json, got {path.name!r}; use {path.stem}.json")
