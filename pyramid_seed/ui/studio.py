"""What the page can do, without the page: checks what is asked for and queues it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..checkpoints.source import PUBLISHED_GEOMETRY, read_source
from ..geometry import PyramidGeometry
from ..media.images import open_picture
from ..presets import Preset
from ..provenance.manifest import find_manifest, geometry_of, recipe_of
from ..recipe import plan_extension
from .gallery import Entry, find_clip, list_clips
from .jobs import Job, JobQueue
from .limits import Limits, lengths
from .work import continue_clip, make_clip, verify_clip

GALLERY_SIZE = 24


@dataclass(frozen=True)
class Wish:
    """A clip as the page asks for it.

    Attributes:
        prompt, negative_prompt: text.
        seed: the root seed.
        preset: name of one that the studio offers.
        num_frames, height, width: of the clip; with an image, height and width are the image's.
        image: a file with the first frame.
    """

    prompt: str
    seed: int
    preset: str
    num_frames: int
    height: int
    width: int
    negative_prompt: str = ""
    image: Path | None = None


class Studio:
    """One output folder, the presets that are offered for it, and the queue of jobs.

    Args:
        folder: where clips are written and read; made if it is missing.
        presets: that are offered, the first one being the default.
        limits: how large a clip may be.
        device: where the model runs; default: the accelerator if there is one, else the CPU.

    Raises:
        ValueError: no presets, or two of one name.
    """

    def __init__(
        self, folder: Path, presets: list[Preset], limits: Limits | None = None, device: str | None = None
    ) -> None:
        names = [preset.name for preset in presets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"presets must be at least one, each with its own name, got {names}")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.presets = {preset.name: preset for preset in presets}
        self.limits = limits or Limits()
        self.device = device
        self.queue = JobQueue(self.limits.max_waiting)

    def preset(self, name: str) -> Preset:
        """A preset that is offered; ValueError if it is none."""
        if name not in self.presets:
            raise ValueError(f"this page has no preset {name!r}; it has {', '.join(self.presets)}")
        return self.presets[name]

    def lengths(self, preset: str) -> list[int]:
        """Lengths in frames that the preset's model can make and the limits allow."""
        return lengths(self.geometry(preset) or PUBLISHED_GEOMETRY, self.limits)

    def geometry(self, preset: str) -> PyramidGeometry | None:
        """What the preset's model allows; None while that would need a download."""
        chosen = self.preset(preset)
        if chosen.model.startswith("embedded:") or Path(chosen.model).is_dir():
            return _geometry_of(chosen.model, chosen.variant)
        return None

    def make(self, wish: Wish) -> Job:
        """Queue a new clip.

        Raises:
            ValueError: it cannot be made, or is too large for this server; or the queue is full.
        """
        preset = self.preset(wish.preset)
        picture = None if wish.image is None else open_picture(wish.image)
        height, width = (picture.height, picture.width) if picture is not None else (wish.height, wish.width)
        self.limits.check(wish.num_frames, height, width)
        geometry = self.geometry(wish.preset)
        if geometry is not None:
            geometry.check_size(height, width)
            geometry.check_num_frames(wish.num_frames)
        preset = replace(
            preset,
            num_frames=wish.num_frames,
            height=height,
            width=width,
            negative_prompt=wish.negative_prompt,
        )
        work = partial(
            make_clip,
            folder=self.folder,
            prompt=wish.prompt,
            seed=wish.seed,
            preset=preset,
            picture=picture,
            device=self.device,
        )
        num_units = geometry.num_latent_frames(wish.num_frames) if geometry is not None else 0
        return self.queue.submit(f"“{wish.prompt}”, seed {wish.seed}", work, num_units)

    def extend(
        self, name: str, num_frames: int, *, branch_seed: int | None = None, from_frame: int | None = None
    ) -> Job:
        """Queue a longer clip, or with a branch_seed one that goes on in another way, see `Clip.extend`.

        Raises:
            ValueError: it cannot be made, or is too large for this server; or the queue is full.
            FileNotFoundError: there is no such clip in the folder.
        """
        path = find_clip(self.folder, name)
        manifest = find_manifest(path)
        recipe, geometry = recipe_of(manifest), geometry_of(manifest)
        settings = recipe.settings
        self.limits.check(num_frames, settings.height, settings.width)
        plan_extension(recipe, geometry, num_frames, branch_seed=branch_seed, from_frame=from_frame)
        work = partial(
            continue_clip,
            clip_path=path,
            had=settings.num_frames,
            num_frames=num_frames,
            branch_seed=branch_seed,
            from_frame=from_frame,
            model=self._model_of(manifest),
            device=self.device,
        )
        what = "extend" if branch_seed is None else "branch"
        return self.queue.submit(f"{what} {name}", work, geometry.num_latent_frames(num_frames))

    def verify(self, name: str) -> Job:
        """Queue a verification of a clip in the folder; raises as `extend`."""
        path = find_clip(self.folder, name)
        work = partial(
            verify_clip, clip_path=path, model=self._model_of(find_manifest(path)), device=self.device
        )
        return self.queue.submit(f"verify {name}", work)

    def clips(self) -> tuple[Entry, ...]:
        """The newest clips in the folder."""
        return list_clips(self.folder, GALLERY_SIZE)

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a clip in the folder; raises as `extend`."""
        return find_manifest(find_clip(self.folder, name))

    def _model_of(self, manifest: Mapping[str, Any]) -> str | None:
        """Where the weights of a clip are, if its manifest names a folder that a preset has."""
        if manifest["model"]["kind"] != "folder":
            return None
        folders = [preset.model for preset in self.presets.values() if Path(preset.model).is_dir()]
        return next((model for model in folders if Path(model).name == manifest["model"]["name"]), None)


@cache
def _geometry_of(model: str, variant: str | None) -> PyramidGeometry:
    return read_source(model, variant=variant).geometry
