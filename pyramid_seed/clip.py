"""A finished clip: frames, and how they came to be."""

from __future__ import annotations

import base64
import html
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .checkpoints.digests import model_reference
from .clip_files import check_outputs
from .files import replacing
from .geometry import PyramidGeometry
from .media.frame_facts import FrameFacts
from .media.frame_file import FrameFile
from .media.frames import Frames
from .media.video import write_video
from .noise import Branch, NoiseLedger
from .presets import Preset
from .provenance.latents import latents_path, write_latents
from .provenance.manifest import Recipe, build_manifest, manifest_json, sidecar_path

if TYPE_CHECKING:
    from .pipelines import PyramidFlowPipeline


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """What `generate` returns.

    Attributes:
        frame_facts: size and digests of the frames.
        prompt: as given.
        seed: the root seed used, also when none was given.
        branches: units from which on another root seed was used.
        settings: all settings after defaults; sizes are those of the frames.
        noise_device, determinism: as given.
        attention: the path of attention, "prefix" or "reference", see `models.attention.AttentionPath`.
        compiled: whether the transformer ran through `torch.compile`.
        image_digest: SHA-256 of the first frame that was given, see `api.image_digest`; None without one.
        ledger: every draw of noise.
        latents: (1, C, t, H/s, W/s) float32, normalised.
        text_digests: SHA-256 of the text embeddings.
        stage_digests: of each unit the SHA-256 of its latents after each stage, coarsest first, the last
            being that of the unit; () for an encoded picture, None where they are not known.
        geometry: how the model divides space and time.
        source_folder: where the weights came from; None if the pipeline was not loaded by `load_pipeline`.
        weights: name, size and SHA-256 of the files in it that were loaded; None if they are not known.
        environment: what the run ran on.
        load_seconds, seconds: time to load the model, time to generate.
        loras: the LoRAs that acted, as a manifest tells them; None if that could not be told.
        found: what `load_pipeline` found; None if the pipeline was not loaded by it.
        held_frames: the frames; None if they went straight into `frame_file`, see `generate`.
        frame_file: where they went.
    """

    frame_facts: FrameFacts
    prompt: str
    seed: int
    branches: tuple[Branch, ...]
    settings: Preset
    noise_device: str
    determinism: str
    attention: str
    compiled: bool
    image_digest: str | None
    ledger: NoiseLedger
    latents: torch.Tensor
    text_digests: dict[str, str]
    stage_digests: tuple[tuple[str, ...] | None, ...]
    geometry: PyramidGeometry
    source_folder: Path | None
    weights: tuple[dict[str, Any], ...] | None
    environment: dict[str, Any]
    load_seconds: float
    seconds: float
    loras: tuple[dict[str, Any], ...] | None = ()
    found: str | None = None
    held_frames: Frames | None = None
    frame_file: FrameFile | None = None

    @property
    def frames(self) -> Frames:
        """(T, H, W, 3) uint8 RGB.

        Raises:
            RuntimeError: they went straight into a file, and are not held.
        """
        if self.held_frames is None:
            raise RuntimeError(
                "the frames of this clip went into an encoder as they were made and are not held: save the "
                "clip and read the file with media.video.read_video, or generate it without sink"
            )
        return self.held_frames

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.settings.fps

    @property
    def digest(self) -> str:
        """SHA-256 of the frames, hexadecimal: equal digests, equal clips."""
        return self.frame_facts.digest

    @property
    def recipe(self) -> Recipe:
        """What the clip is a function of, besides the weights."""
        return Recipe(
            prompt=self.prompt,
            seed=self.seed,
            branches=self.branches,
            settings=self.settings,
            noise_device=self.noise_device,
            determinism=self.determinism,
            attention=self.attention,
            compiled=self.compiled,
            image_digest=self.image_digest,
        )

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """How the clip was made and what came out, see docs/manifest.md."""
        return build_manifest(
            self.recipe,
            model=model_reference(self.settings.model, self.source_folder),
            weights=None if self.weights is None else list(self.weights),
            loras=self.loras,
            geometry=self.geometry,
            ledger=self.ledger,
            text_digests=self.text_digests,
            stage_digests=self.stage_digests,
            latents=self.latents,
            frames=self.frame_facts,
            environment=self.environment,
            load_seconds=self.load_seconds,
            seconds=self.seconds,
        )

    def save(
        self,
        path: str | Path,
        *,
        scale: int | None = None,
        lossless: bool = False,
        overwrite: bool = False,
        sidecar: bool = False,
        metadata: bool = True,
        keep_latents: bool = False,
    ) -> Path:
        """Write the clip in the format of the path's ending: .mp4, .gif, .webp, or .png.

        An .mp4 carries the manifest in its comment tag; other formats only with `sidecar`.

        Args:
            path: the file; .png of several frames makes a folder of pictures.
            scale: show every pixel as scale x scale pixels; default: the preset's. A clip whose frames went
                straight into a file can only be saved as they were encoded: as .mp4, in that scale.
            lossless: keep every bit (.mp4 as RGB h264, .webp).
            overwrite: replace what is there.
            sidecar: write the manifest beside it as well, `clip.json` for `clip.mp4`.
            metadata: False writes no manifest at all.
            keep_latents: write the latents beside it, `clip.latents.safetensors`, to go on from later.

        Returns:
            The path.

        Raises:
            FileExistsError: something is there.
            ValueError: unknown ending, a size that it cannot hold, or frames that were encoded in another way
                or are gone with their `frame_file`.
        """
        path = Path(path)
        check_outputs(
            path,
            lossless=lossless,
            overwrite=overwrite,
            sidecar=sidecar,
            metadata=metadata,
            keep_latents=keep_latents,
            fps=self.fps,
            num_frames=self.frame_facts.num_frames,
        )
        ending = path.suffix.lower()
        if self.frame_file is not None:
            self.frame_file.check(ending, scale, lossless)
            scale = self.frame_file.scale
        scale = self.settings.scale if scale is None else scale
        text = None
        if sidecar or (metadata and ending == ".mp4"):
            shown = {"ending": ending, "scale": scale, "lossless": lossless or ending in ("", ".png")}
            text = manifest_json(self.manifest | {"file": shown})
        # All is written before anything takes its name: if the disk is full, what was there stays as it was.
        with ExitStack() as beside:
            if keep_latents:
                temporary = beside.enter_context(replacing(latents_path(path), overwrite=overwrite))
                write_latents(temporary, self.latents)
            if sidecar and text is not None:
                temporary = beside.enter_context(replacing(sidecar_path(path), overwrite=overwrite))
                temporary.write_text(text + "\n", encoding="utf-8")
            if self.frame_file is not None:
                self.frame_file.save(path, comment=text, overwrite=overwrite)
                return path
            write_video(
                path,
                self.frames,
                self.fps,
                comment=text if ending == ".mp4" else None,
                scale=scale,
                lossless=lossless,
                overwrite=overwrite,
            )
        return path

    def extend(
        self,
        num_frames: int,
        *,
        branch_seed: int | None = None,
        from_frame: int | None = None,
        device: str | None = None,
        pipeline: PyramidFlowPipeline | None = None,
        progress: bool = True,
    ) -> Clip:
        """The clip with `num_frames` frames, bit for bit as if made in one go; only new units are computed.

        Args:
            num_frames: frames of the new clip, r k + 1.
            branch_seed: what follows the beginning takes this root seed.
            from_frame: frames that stay, r k + 1 with r the VAE's temporal factor; default: all. Only with a
                branch_seed.
            device: where the model runs.
            pipeline: use this one instead of loading the settings' model; needed if the clip was made by a
                pipeline that `load_pipeline` did not load, or with a LoRA.
            progress: show a progress bar on standard error.

        Raises:
            ValueError: a number does not fit; good ones are named.
        """
        from .reproduce import extend_clip

        if pipeline is None and self.source_folder is None:
            raise ValueError("the clip was made by a pipeline of your own; pass it as pipeline=")
        return extend_clip(
            self.recipe,
            num_frames,
            geometry=self.geometry,
            text_digests=self.text_digests,
            stage_digests=self.stage_digests,
            latents=self.latents,
            weights=self.weights,
            loras=self.loras,
            branch_seed=branch_seed,
            from_frame=from_frame,
            device=device,
            pipeline=pipeline,
            progress=progress,
        )

    def __repr__(self) -> str:
        return (
            f"Clip({self.prompt!r}, seed={self.seed}, {self.frame_facts.size}, digest={self.digest[:16]}...)"
        )

    def _repr_html_(self) -> str:
        """Play the clip in a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            data = self.save(Path(folder) / "clip.mp4", metadata=False).read_bytes()
        video = base64.b64encode(data).decode("ascii")
        return (
            f'<video controls loop autoplay muted src="data:video/mp4;base64,{video}"></video>'
            f"<p>{html.escape(self.prompt)}<br>seed {self.seed}, digest {self.digest[:16]}</p>"
        )
