"""A finished clip: its frames, and how they were made."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .checkpoints.source import ModelSource
from .checks import check_kinds
from .clip_files import check_outputs
from .files import file_digest, latents_path, replacing, sidecar_path
from .geometry import PyramidGeometry
from .media.frame_facts import FrameFacts
from .media.frame_file import FrameFile
from .media.frames import Frames
from .media.labels import VisibleLabel, aigc_fields
from .media.video import check_smooth, is_lossless, write_video
from .noise import Branch, NoiseLedger
from .pages import data_url
from .presets import Preset
from .provenance.latents import write_latents
from .provenance.manifest import (
    UNKNOWN_MODEL,
    manifest_json,
    recipe_fields,
    stage_root,
    unit_digests,
    without_timings,
)
from .recipe import Recipe


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """What `generate` returns.

    Attributes:
        recipe: everything that determines the clip but the weights; its settings have defaults filled in,
            and the size of the frames.
        source: the model used; None if the pipeline was not loaded by `load_pipeline`.
        weights: name, size and SHA-256 of the files loaded; None if no files hold the weights.
        weights_note: why no files hold the weights.
        loras: the active LoRAs, as a manifest names them; None if they cannot be known.
        geometry: how the model divides space and time.
        frame_facts: size and digests of the frames.
        latents: (1, C, t, H/s, W/s) float32, normalised.
        ledger: every draw of noise.
        text_digests: SHA-256 of the text embeddings.
        stage_digests: per unit, the SHA-256 of its latents after each stage, coarsest first, the last being
            the unit's own; () for an encoded image, None if they are not known.
        environment: the environment of the run.
        text_environment: where its texts were encoded, if elsewhere.
        load_seconds, seconds: time to load the model, time to generate.
        held_frames: the frames; None if they went straight into `frame_file`, or if another process has them,
            see `generate`.
        frame_file: the file that received them.
        notes: for the user: what was cut from the prompts, and what went beyond the model's training.
    """

    recipe: Recipe
    source: ModelSource | None
    weights: Sequence[Mapping[str, Any]] | None
    loras: Sequence[Mapping[str, Any]] | None
    geometry: PyramidGeometry
    frame_facts: FrameFacts
    latents: torch.Tensor
    ledger: NoiseLedger
    text_digests: Mapping[str, str]
    stage_digests: tuple[tuple[str, ...] | None, ...]
    environment: Mapping[str, Any]
    load_seconds: float
    seconds: float
    held_frames: Frames | None = None
    frame_file: FrameFile | None = None
    weights_note: str | None = None
    text_environment: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt as given."""
        return self.recipe.prompt

    @property
    def seed(self) -> int:
        """The root seed used, even if none was given."""
        return self.recipe.seed

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Units from which another root seed was used."""
        return self.recipe.branches

    @property
    def settings(self) -> Preset:
        """All settings, with defaults filled in; the sizes are those of the frames."""
        return self.recipe.settings

    @property
    def frames(self) -> Frames:
        """(T, H, W, 3) uint8 RGB.

        `diffusers.utils.export_to_video` multiplies arrays by 255 and would write a negative of these: give
        it `to_pil()` or `to_float()`.

        Raises:
            RuntimeError: the frames went straight into a file and are not held, or another process has them.
        """
        if self.held_frames is None and self.frame_file is None:
            raise RuntimeError(
                "the first of the processes that made this clip has its frames: use and save them there, if "
                "processes.is_first"
            )
        if self.held_frames is None:
            raise RuntimeError(
                "the frames of this clip went into an encoder as they were made and are not held: save the "
                "clip and read the file with media.video.read_video, or generate it without sink"
            )
        return self.held_frames

    def to_pil(self) -> list[Image.Image]:
        """The frames as T images of W x H pixels, RGB; raises as `frames` does."""
        return [Image.fromarray(frame) for frame in self.frames]

    def to_float(self) -> NDArray[np.float32]:
        """The frames as (T, H, W, 3) float32 RGB in [0, 1], as `frames` / 255; raises as `frames` does.

        Multiplying by 255 restores the frames bit for bit, whether the result is rounded or truncated.
        """
        return self.frames.astype(np.float32) / np.float32(255)

    @property
    def preset(self) -> str:
        """The name of the preset whose settings were used; "custom" if each setting was named."""
        return self.settings.name

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.settings.fps

    @property
    def digest(self) -> str:
        """SHA-256 of the frames, hexadecimal: equal digests, equal clips."""
        return self.frame_facts.digest

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """How the clip was made and what resulted, see docs/manifest.md."""
        model = UNKNOWN_MODEL if self.source is None else self.source.reference
        stages = [None if each is None else list(each) for each in self.stage_digests]
        units = unit_digests(self.latents, self.geometry.frames_per_unit)
        size = {"num_units": len(units), "latent_channels": self.latents.shape[1]}
        elsewhere = self.text_environment
        return {
            **recipe_fields(self.recipe, model),
            "noise_scheme": self.ledger.scheme,
            "weights": _rows(self.weights),
            **({"weights_note": self.weights_note} if self.weights is None and self.weights_note else {}),
            "loras": _rows(self.loras),
            "geometry": size | asdict(self.geometry),
            "ledger": self.ledger.to_list(),
            "digests": {
                "text": dict(self.text_digests),
                "stages": stages,
                "units": units,
                "root": stage_root(stages, units),
                "chunks": list(self.frame_facts.chunk_digests),
                "frames": self.digest,
            },
            "environment": dict(self.environment),
            **({} if elsewhere is None else {"text_environment": dict(elsewhere)}),
            **({"notes": list(self.notes)} if self.notes else {}),
            "timings": {"load_seconds": round(self.load_seconds, 3), "seconds": round(self.seconds, 3)},
        }

    def save(
        self,
        path: str | Path,
        *,
        scale: int | None = None,
        smooth: bool = False,
        lossless: bool = False,
        overwrite: bool = False,
        sidecar: bool = False,
        metadata: bool = True,
        keep_latents: bool = False,
        aigc: Mapping[str, str] | None = None,
        visible_label: VisibleLabel | None = None,
    ) -> Path:
        """Write the clip in the format of the path's extension: .mp4, .gif, .webp, or .png.

        An .mp4 carries the manifest in its comment tag, without timings: equal clips are equal files. Other
        formats have a manifest only with `sidecar`.

        Args:
            path: the file; .png for several frames makes a folder of images.
            scale: show every pixel as scale x scale pixels; default: the preset's. A clip whose frames went
                straight into a file can only be saved as encoded: as .mp4, at that scale, smooth or not.
            smooth: interpolate between these pixels, in a lossy file.
            lossless: keep every bit (.mp4 as RGB h264, .webp).
            overwrite: replace an existing file.
            sidecar: write the manifest beside it as well, `clip.json` for `clip.mp4`.
            metadata: False writes no manifest at all.
            keep_latents: write the latents beside it, `clip.latents.safetensors`, to continue it later.
            aigc: fields of the implicit label of GB 45438-2025 for an .mp4, see `media.labels.aigc_fields`.
            visible_label: a text to draw over the first seconds of an .mp4. The digests are those of the
                frames without it; the manifest has the label's pixels. A `frame_file` draws its own label.

        Returns:
            The path.

        Raises:
            FileExistsError: the file exists.
            ValueError: the extension is unknown, the format cannot hold the size or the label, or the frames
                were encoded differently or are gone with their `frame_file`.
        """
        path = Path(path)
        aigc = None if aigc is None else aigc_fields(aigc)
        check_kinds(visible_label=(visible_label, VisibleLabel))
        check_outputs(
            path,
            lossless=lossless,
            overwrite=overwrite,
            sidecar=sidecar,
            metadata=metadata,
            keep_latents=keep_latents,
            aigc=aigc,
            visible_label=visible_label,
            fps=self.fps,
            num_frames=self.frame_facts.num_frames,
        )
        ending = path.suffix.lower()
        if self.frame_file is not None:
            self.frame_file.check(ending, scale, lossless, visible_label)
            scale, smooth = self.frame_file.scale, self.frame_file.smooth
        check_smooth(smooth, ending, lossless=lossless)
        scale = self.settings.scale if scale is None else scale
        label = None if self.frame_file is None else self.frame_file.drawn_label
        if visible_label is not None and label is None:
            facts = self.frame_facts
            label = visible_label.draw(facts.height * scale, facts.width * scale, self.fps)
        shown = {
            "ending": ending,
            "scale": scale,
            "lossless": is_lossless(ending, lossless=lossless),
            **({"smooth": True} if smooth and scale > 1 else {}),
            **({} if aigc is None else {"aigc": aigc}),
            **({} if label is None else {"visible_label": label.to_row()}),
        }
        manifest = self.manifest | {"file": shown}
        comment = None
        if metadata and ending == ".mp4":  # equal clips give equal bytes, however long they took
            comment = manifest_json(without_timings(manifest))
        # Everything is written before any file gets its name: if the disk is full, old files stay unchanged.
        # If the process is killed in between, readers see that latents or sidecar are another file's.
        with ExitStack() as names:
            video = names.enter_context(replacing(path, overwrite=overwrite))
            if self.frame_file is not None:
                self.frame_file.save(video, comment=comment, aigc=aigc)
            else:
                write_video(
                    video,
                    self.frames,
                    self.fps,
                    comment=comment,
                    aigc=aigc,
                    label=label,
                    scale=scale,
                    smooth=smooth,
                    lossless=lossless,
                )
            if sidecar:
                digest = {"sha256": file_digest(video)} if video.is_file() else {}
                text = manifest_json(manifest | {"file": shown | digest})
                temporary = names.enter_context(replacing(sidecar_path(path), overwrite=overwrite))
                temporary.write_text(text + "\n", encoding="utf-8")
            if keep_latents:
                temporary = names.enter_context(replacing(latents_path(path), overwrite=overwrite))
                write_latents(temporary, self.latents)
        return path

    def __repr__(self) -> str:
        return (
            f"Clip({self.prompt!r}, seed={self.seed}, {self.frame_facts.size}, digest={self.digest[:16]}...)"
        )

    def _repr_html_(self) -> str:
        """Play the clip in a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            data = self.save(Path(folder) / "clip.mp4", metadata=False, smooth=True).read_bytes()
        return (
            f'<video controls loop autoplay muted src="{data_url("video/mp4", data)}"></video>'
            f"<p>{html.escape(self.prompt)}<br>seed {self.seed}, digest {self.digest[:16]}</p>"
        )


def _rows(rows: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if rows is None else [dict(row) for row in rows]
