"""A clip of a keyed pipeline: its frames, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..clip_files import check_outputs
from ..media.frames import Frames, frames_digest
from ..media.video import write_video
from ..provenance.manifest import KEYED_SCHEMA, manifest_json
from ..version import __version__
from .answers import SCHEME, LedgerRow
from .manifest import SCHEMA_VERSION, WeightFolders, weight_rows


@dataclass(frozen=True, eq=False, repr=False)
class KeyedClip:
    """One clip from a call of a `KeyedPipeline`.

    Attributes:
        seed: its root seed.
        ledger: every draw, in order.
        frames: (T, H, W, 3) uint8 RGB; None if the output has no frames, such as latents.
        arguments: those of its pipeline call, as `manifest.told` gives each.
        setup: how the pipeline was set up, as recorded in a manifest, see `manifest.setup_of`.
        folders: where the weights came from.
    """

    seed: int
    ledger: Sequence[LedgerRow]
    frames: Frames | None
    arguments: Mapping[str, Any]
    setup: Mapping[str, Any]
    folders: WeightFolders

    @property
    def digest(self) -> str:
        """SHA-256 of the frames, hexadecimal: equal digests, equal clips. ValueError if there are none."""
        return frames_digest(self._frames())

    def manifest(self, fps: float | None = None) -> dict[str, Any]:
        """How the clip was made and what resulted, see docs/keyed.md. ValueError if there are no frames.

        Args:
            fps: frames per second of the clip's file, if it has one.
        """
        size = dict(zip(("num_frames", "height", "width"), self._frames().shape[:3], strict=True))
        return {
            "schema": KEYED_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            "noise_scheme": SCHEME,
            "seed": str(self.seed),
            **self.setup,
            "arguments": dict(self.arguments),
            "weights": weight_rows(self.folders),
            **({"weights_note": self.folders} if isinstance(self.folders, str) else {}),
            "settings": size if fps is None else {**size, "fps": fps},
            "ledger": [{**asdict(row), "shape": list(row.shape)} for row in self.ledger],
            "digests": {"frames": self.digest},
        }

    def save(self, path: str | Path, *, fps: float, lossless: bool = False, overwrite: bool = False) -> Path:
        """Write the clip as .mp4, with its manifest in the comment tag; equal clips are equal files.

        Args:
            path: the file.
            fps: frames per second; pipelines do not state a rate.
            lossless: keep every bit (RGB h264).
            overwrite: replace an existing file.

        Raises:
            FileExistsError: the file exists.
            ValueError: another extension, a size or rate that the file cannot have, or a clip without frames.
        """
        path, frames = Path(path), self._frames()
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"a keyed clip is saved as .mp4, which holds its manifest, got {path.name!r}")
        check_outputs(path, lossless=lossless, overwrite=overwrite, fps=fps, num_frames=len(frames))
        shown = {"ending": ".mp4", "scale": 1, "lossless": lossless}
        comment = manifest_json(self.manifest(fps) | {"file": shown})
        write_video(path, frames, fps, comment=comment, lossless=lossless, overwrite=overwrite)
        return path

    def _frames(self) -> Frames:
        if self.frames is None:
            raise ValueError('the pipeline gave no frames; call it with output_type="np", "pt" or "pil"')
        return self.frames

    def __repr__(self) -> str:
        return f"KeyedClip(seed={self.seed}, {len(self.ledger)} draws)"


def frames_of(output: Any) -> Frames | None:
    """(T, H, W, 3) uint8 of an output's one clip: "np", "pt" or "pil"; None for anything else.

    Raises:
        FloatingPointError: the frames are not finite.
    """
    (clip,) = output[0] if isinstance(output[0], list | tuple) else output[0][:1]
    if isinstance(clip, list) and clip and isinstance(clip[0], Image.Image):
        return np.stack([np.asarray(image.convert("RGB")) for image in clip])
    if isinstance(clip, torch.Tensor):
        if clip.ndim != 4 or clip.shape[1] != 3:
            return None
        clip = clip.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).numpy()
    if not isinstance(clip, np.ndarray) or clip.ndim != 4 or clip.shape[-1] != 3:
        return None
    if clip.dtype == np.uint8:
        return clip
    if not np.isfinite(clip).all():
        raise FloatingPointError("the pipeline gave frames with infinite values or NaN")
    return (clip.clip(0, 1) * 255).round().astype(np.uint8)
