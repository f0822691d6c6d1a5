"""Sizes and counts of a clip: pixels and latents, units, stages of the pyramid, history of a unit.

All are whole numbers. This module does not use tensors, and rounds nothing: a value that does not fit raises
an error that names the nearest values that do.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from .checks import check_int

ImageRole: TypeAlias = Literal["unit", "history"]
"""What an image is to the clip that begins with it: its unit 0, encoded, or what stands before unit 0."""


@dataclass(frozen=True)
class HistoryClip:
    """Consecutive past latent frames `[start, stop)`, given at the resolution of `stage`."""

    stage: int
    start: int
    stop: int


@dataclass(frozen=True)
class LatentShape:
    """Shape of the latents of one unit of one clip, and of its pyramid.

    Args:
        channels: C.
        height, width: H and W at the finest stage, multiples of 2 ** (num_stages - 1).
        num_stages: levels of the pyramid.
        frames: n, latent frames of the unit.

    Raises:
        TypeError: if a value is not an int. ValueError: if it is out of range.
    """

    channels: int
    height: int
    width: int
    num_stages: int
    frames: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            check_int(field.name, getattr(self, field.name), minimum=1)
        multiple = 2 ** (self.num_stages - 1)
        _check_multiple("latent height", self.height, multiple)
        _check_multiple("latent width", self.width, multiple)

    def as_tuple(self) -> tuple[int, int, int, int, int]:
        """(1, C, n, H, W): one unit of one clip."""
        return 1, self.channels, self.frames, self.height, self.width

    def stage(self, stage: int) -> LatentShape:
        """The shape and the pyramid at a stage, 0 = coarsest; TypeError, ValueError if it does not exist."""
        _check_stage(stage, self.num_stages)
        divisor = 2 ** (self.num_stages - 1 - stage)
        sides = self.height // divisor, self.width // divisor
        return LatentShape(self.channels, *sides, stage + 1, self.frames)


@dataclass(frozen=True)
class PyramidGeometry:
    """How a model family divides space and time. The values come from the components' configs.

    Here a unit is one latent frame, decoded after those before it, as in Pyramid Flow; see `ChunkGeometry`
    for units that are decoded alone.

    Args:
        spatial_factor: pixels per latent pixel, in height and in width (VAE).
        temporal_factor: pixel frames per latent frame after the first one (VAE).
        patch_size: latent pixels per token, in height and in width (transformer).
        num_stages: levels of the spatial pyramid; each one doubles height and width (scheduler).

    Raises:
        TypeError: if a value is not an int. ValueError: if it is below 1.
    """

    spatial_factor: int
    temporal_factor: int
    patch_size: int
    num_stages: int

    def __post_init__(self) -> None:
        for field in fields(self):
            check_int(field.name, getattr(self, field.name), minimum=1)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this, so that the coarsest stage has whole patches."""
        return 2 ** (self.num_stages - 1) * self.patch_size * self.spatial_factor

    @property
    def frames_per_unit(self) -> int:
        """Latent frames of a unit."""
        return 1

    @property
    def image_role(self) -> ImageRole:
        """What an image is to a clip that begins with it."""
        return "unit"

    @property
    def frame_rule(self) -> str:
        """Which numbers of pixel frames are whole units, in words."""
        return f"{self.temporal_factor}k + 1" if self.temporal_factor > 1 else "at least 1"

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless height and width (pixels) are positive multiples of `size_multiple`."""
        _check_multiple("height", height, self.size_multiple)
        _check_multiple("width", width, self.size_multiple)

    def check_num_frames(self, num_frames: int) -> None:
        """Raise ValueError unless `num_frames` (pixel time) is that of whole units, at least one."""
        check_int("num_frames", num_frames)
        first, step = self._lengths
        if num_frames < first or (num_frames - first) % step:
            lower = first + max((num_frames - first) // step, -1) * step
            raise ValueError(f"num_frames must be {self.frame_rule}, {_advice(num_frames, lower, step)}")

    def good_num_frames(self, most: int) -> range:
        """The numbers of pixel frames, up to `most`, at which a unit ends."""
        first, step = self._lengths
        return range(first, most + 1, step)

    def num_units(self, num_frames: int) -> int:
        """Units that make `num_frames` pixel frames."""
        self.check_num_frames(num_frames)
        return self.unit_of_frame(num_frames - 1) + 1

    def num_frames(self, num_units: int) -> int:
        """Pixel frames into which `num_units` decode."""
        check_int("num_units", num_units, minimum=1)
        return self.frames_of_unit(num_units - 1).stop

    def unit_of_frame(self, frame: int) -> int:
        """The unit that makes a pixel frame: unit 0 makes frame 0, the others `temporal_factor` frames."""
        check_int("frame", frame, minimum=0)
        return -(-frame // self.temporal_factor)

    def frames_of_unit(self, unit: int) -> range:
        """The pixel frames that a unit makes, see `unit_of_frame`."""
        check_int("unit", unit, minimum=0)
        stop = unit * self.temporal_factor + 1
        return range(max(stop - self.temporal_factor, 0), stop)

    def frames_of_units(self, num_frames: int) -> list[range]:
        """The pixel frames of each unit in a clip of any length; the last unit may be cut off."""
        check_int("num_frames", num_frames, minimum=1)
        units = range(self.unit_of_frame(num_frames - 1) + 1)
        return [range(num_frames)[frames.start : frames.stop] for frames in map(self.frames_of_unit, units)]

    def latent_shape(self, channels: int, height: int, width: int) -> LatentShape:
        """Shape of one unit's latents, with `channels`, in a clip of `height` x `width` pixels."""
        size = self.latent_size(height, width)
        return LatentShape(channels, *size, self.num_stages, self.frames_per_unit)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents of a clip of `height` x `width` pixels."""
        self.check_size(height, width)
        return height // self.spatial_factor, width // self.spatial_factor

    def stage_size(self, height: int, width: int, stage: int) -> tuple[int, int]:
        """Height and width of the latents at `stage` (0 = coarsest, num_stages - 1 = full latent size)."""
        shape = LatentShape(1, *self.latent_size(height, width), self.num_stages).stage(stage)
        return shape.height, shape.width

    @property
    def _lengths(self) -> tuple[int, int]:
        """Pixel frames of the first unit, and of each later one."""
        return len(self.frames_of_unit(0)), len(self.frames_of_unit(1))


@dataclass(frozen=True)
class ChunkGeometry(PyramidGeometry):
    """A unit is a chunk of latent frames that is decoded without those before it, as in Helios.

    Args:
        unit_frames: latent frames of a unit, which decode into temporal_factor * (unit_frames - 1) + 1 pixel
            frames.
    """

    unit_frames: int

    @property
    def frames_per_unit(self) -> int:
        """See `PyramidGeometry`."""
        return self.unit_frames

    @property
    def image_role(self) -> ImageRole:
        """See `PyramidGeometry`."""
        return "history"

    @property
    def frame_rule(self) -> str:
        """See `PyramidGeometry`."""
        return f"a multiple of {self._chunk}"

    def unit_of_frame(self, frame: int) -> int:
        """See `PyramidGeometry`; every unit makes equally many frames."""
        check_int("frame", frame, minimum=0)
        return frame // self._chunk

    def frames_of_unit(self, unit: int) -> range:
        """See `unit_of_frame`."""
        check_int("unit", unit, minimum=0)
        return range(unit * self._chunk, (unit + 1) * self._chunk)

    @property
    def _chunk(self) -> int:
        """Pixel frames of a unit."""
        return self.temporal_factor * (self.unit_frames - 1) + 1


def history_plan(unit_index: int, num_stages: int, stage: int) -> tuple[HistoryClip, ...]:
    """The past latent frames that a unit is conditioned on at one stage, oldest first.

    The temporal pyramid of Pyramidal Flow Matching (arXiv 2410.05954, section 3.3): the newest past frame
    has the resolution of the stage being generated, each frame before it is one stage coarser; once the
    coarsest stage is reached, all older frames form one clip there. A unit is one latent frame, so unit u has
    the frames 0 to u - 1 as its history.

    Args:
        unit_index: the unit to be generated; unit 0 has no history.
        num_stages: levels of the spatial pyramid.
        stage: the stage to be generated, 0 = coarsest.

    Raises:
        TypeError: if a value is not an int. ValueError: if it is out of range.
    """
    check_int("unit_index", unit_index, minimum=0)
    check_int("num_stages", num_stages, minimum=1)
    _check_stage(stage, num_stages)
    newest_first: list[HistoryClip] = []
    stop = unit_index
    for clip_stage in (stage, *range(stage - 1, 0, -1)):
        if stop > 0:
            newest_first.append(HistoryClip(clip_stage, stop - 1, stop))
            stop -= 1
    if stop > 0:
        newest_first.append(HistoryClip(0, 0, stop))
    return tuple(reversed(newest_first))


def _check_stage(stage: int, num_stages: int) -> None:
    check_int("stage", stage)
    if not 0 <= stage < num_stages:
        nearest = min(max(stage, 0), num_stages - 1)
        raise ValueError(f"stage must be in 0 .. {num_stages - 1}, got {stage}; use {nearest}")


def _check_multiple(name: str, value: int, multiple: int) -> None:
    check_int(name, value)
    if value < multiple or value % multiple:
        advice = _advice(value, max(value // multiple, 0) * multiple, multiple)
        raise ValueError(f"{name} must be a multiple of {multiple}, {advice}")


def _advice(value: int, lower: int, step: int) -> str:
    """Name the good values around a bad one; `lower` itself is good only if it is positive."""
    good = f"{lower} or {lower + step}" if lower > 0 else f"{lower + step}"
    return f"got {value}; use {good}"
