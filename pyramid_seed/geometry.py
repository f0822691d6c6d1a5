"""Sizes and counts of a clip: pixels and latents, units, stages of the pyramid, history of a unit.

All are whole numbers. This module does not use tensors, and rounds nothing: a value that does not fit raises
an error that names the nearest values that do.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .checks import check_int


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

    Raises:
        TypeError: if a value is not an int. ValueError: if it is out of range.
    """

    channels: int
    height: int
    width: int
    num_stages: int

    def __post_init__(self) -> None:
        for field in fields(self):
            check_int(field.name, getattr(self, field.name), minimum=1)
        multiple = 2 ** (self.num_stages - 1)
        _check_multiple("latent height", self.height, multiple)
        _check_multiple("latent width", self.width, multiple)

    def as_tuple(self) -> tuple[int, int, int, int, int]:
        """(1, C, 1, H, W): one clip, one latent frame."""
        return 1, self.channels, 1, self.height, self.width

    def stage(self, stage: int) -> LatentShape:
        """The shape and the pyramid at a stage, 0 = coarsest; TypeError, ValueError if it does not exist."""
        _check_stage(stage, self.num_stages)
        divisor = 2 ** (self.num_stages - 1 - stage)
        return LatentShape(self.channels, self.height // divisor, self.width // divisor, stage + 1)


@dataclass(frozen=True)
class PyramidGeometry:
    """How a model family divides space and time. The values come from the components' configs.

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

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless height and width (pixels) are positive multiples of `size_multiple`."""
        _check_multiple("height", height, self.size_multiple)
        _check_multiple("width", width, self.size_multiple)

    def check_num_frames(self, num_frames: int) -> None:
        """Raise ValueError unless `num_frames` (pixel time) is temporal_factor * k + 1 for a k >= 0."""
        check_int("num_frames", num_frames)
        factor = self.temporal_factor
        if num_frames < 1 or (num_frames - 1) % factor:
            rule = f"{factor}k + 1" if factor > 1 else "at least 1"
            lower = (num_frames - 1) // factor * factor + 1 if num_frames > 0 else 1 - factor
            raise ValueError(f"num_frames must be {rule}, {_advice(num_frames, lower, factor)}")

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `num_frames` pixel frames: the first one alone, then groups."""
        self.check_num_frames(num_frames)
        return (num_frames - 1) // self.temporal_factor + 1

    def num_frames(self, num_latent_frames: int) -> int:
        """Pixel frames into which `num_latent_frames` decode."""
        check_int("num_latent_frames", num_latent_frames, minimum=1)
        return (num_latent_frames - 1) * self.temporal_factor + 1

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
        return LatentShape(channels, *self.latent_size(height, width), self.num_stages)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents of a clip of `height` x `width` pixels."""
        self.check_size(height, width)
        return height // self.spatial_factor, width // self.spatial_factor

    def stage_size(self, height: int, width: int, stage: int) -> tuple[int, int]:
        """Height and width of the latents at `stage` (0 = coarsest, num_stages - 1 = full latent size)."""
        shape = LatentShape(1, *self.latent_size(height, width), self.num_stages).stage(stage)
        return shape.height, shape.width


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
