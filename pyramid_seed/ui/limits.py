"""How large a clip the page may request, and which lengths it offers."""

from __future__ import annotations

from dataclasses import dataclass

from ..geometry import PyramidGeometry


@dataclass(frozen=True)
class Limits:
    """The most that a server makes.

    Attributes:
        max_frames: frames per clip.
        max_height, max_width: pixels.
        max_waiting: jobs in the queue behind the running one.
    """

    max_frames: int = 241
    max_height: int = 1280
    max_width: int = 1280
    max_waiting: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; use 1")

    def check(self, num_frames: int, height: int, width: int) -> None:
        """Raise ValueError if a clip of this size is larger than the server makes, naming the option."""
        for name, value, limit in (
            ("num_frames", num_frames, self.max_frames),
            ("height", height, self.max_height),
            ("width", width, self.max_width),
        ):
            if value > limit:
                option = "--max-" + name.removeprefix("num_")
                raise ValueError(f"{name} must be at most {limit} on this server ({option}), got {value}")


def lengths(geometry: PyramidGeometry, limits: Limits) -> list[int]:
    """Every length in frames that the model supports and the server allows, ascending."""
    return list(geometry.good_num_frames(limits.max_frames))


def length_label(num_frames: int, fps: float) -> str:
    """A length in words."""
    return "1 frame" if num_frames == 1 else f"{num_frames} frames · {num_frames / fps:.1f} s"
