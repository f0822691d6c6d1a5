"""Two clips compared frame by frame, by their pixels as shown."""

from __future__ import annotations

from dataclasses import dataclass

from ..media.frames import Frames, absolute_difference
from ..provenance.diff import ManifestDiff, diff_manifests
from ..provenance.manifest import geometry_of
from ..provenance.pixels import psnr
from .similarity import ssim
from .stored import StoredClip


@dataclass(frozen=True)
class FrameDifference:
    """How one frame differs.

    Attributes:
        frame: its index.
        largest, mean: absolute difference over pixels and channels, in levels (0 to 255).
        psnr: in dB, infinite for equal frames.
        ssim: at most 1, the value for equal frames.
    """

    frame: int
    largest: int
    mean: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class PixelComparison:
    """How two clips differ.

    Attributes:
        frames: up to the end of the shorter clip.
        lengths: the number of frames of each clip.
    """

    frames: tuple[FrameDifference, ...]
    lengths: tuple[int, int]

    @property
    def first(self) -> FrameDifference | None:
        """The first frame that differs."""
        return next((frame for frame in self.frames if frame.largest), None)

    @property
    def farthest(self) -> FrameDifference:
        """The frame with the largest difference of any value; the first if there are several."""
        return max(self.frames, key=lambda frame: frame.largest)

    @property
    def is_equal(self) -> bool:
        """Whether all frames are equal and both clips have the same length."""
        return self.first is None and self.lengths[0] == self.lengths[1]


@dataclass(frozen=True)
class ComparedClips:
    """Two clips, and how they differ.

    Attributes:
        a, b: the clips.
        pixels: how the frames differ that they show.
        manifests: how their manifests differ; None if one is missing.
    """

    a: StoredClip
    b: StoredClip
    pixels: PixelComparison
    manifests: ManifestDiff | None

    def unit_of(self, frame: int) -> int | None:
        """The unit that made a frame, by the first manifest found; None if no clip has one."""
        manifest = self.b.manifest if self.a.manifest is None else self.a.manifest
        return None if manifest is None else geometry_of(manifest).unit_of_frame(frame)

    @property
    def first_unit_made_otherwise(self) -> int | None:
        """The first unit whose frames differed when made, before any codec, by the manifests' digests.

        None if no unit up to the end of the shorter clip differs, or too little is known: a manifest is
        missing, or the units have different lengths.
        """
        a, b = self.a.manifest, self.b.manifest
        if a is None or b is None or geometry_of(a).frames_of_unit(1) != geometry_of(b).frames_of_unit(1):
            return None
        chunks = zip(a["digests"]["chunks"], b["digests"]["chunks"], strict=False)
        return next((unit for unit, (left, right) in enumerate(chunks) if left != right), None)


def compare_clips(a: StoredClip, b: StoredClip) -> ComparedClips:
    """Compare frames and manifests; ValueError as in `compare_frames`."""
    pixels, manifests = compare_frames(a.frames, b.frames), None
    if a.manifest is not None and b.manifest is not None:
        manifests = diff_manifests(a.manifest, b.manifest)
    return ComparedClips(a, b, pixels, manifests)


def compare_frames(a: Frames, b: Frames) -> PixelComparison:
    """Compare the frames up to the end of the shorter clip.

    Args:
        a, b: (T, H, W, 3) uint8; T may differ.

    Raises:
        ValueError: the sizes differ, or are too small for SSIM.
    """
    if a.shape[1:] != b.shape[1:]:
        sizes = [f"{clip.shape[1]}x{clip.shape[2]}" for clip in (a, b)]
        raise ValueError(f"frames must be of one size, A has {sizes[0]}, B has {sizes[1]}")
    frames = []
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        difference = absolute_difference(left, right)
        largest, mean = int(difference.max()), float(difference.mean())
        frames.append(FrameDifference(index, largest, mean, psnr(left, right), ssim(left, right)))
    return PixelComparison(tuple(frames), (len(a), len(b)))
