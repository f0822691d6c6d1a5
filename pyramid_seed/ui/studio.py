"""What the page can do, without the page: checks requests and queues them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..checkpoints.source import recognise_model
from ..families import PUBLISHED_MODELS
from ..families.pyramid_flow import MINIFLUX
from ..files import sidecar_path
from ..first_image import in_its_own_size
from ..geometry import PyramidGeometry
from ..loading import LoraToLoad, loras_to_load
from ..media.images import open_image
from ..presets import Preset, Settings, with_settings
from ..provenance.manifest import geometry_of, recipe_of
from ..recipe import Recipe, plan_extension
from ..run_options import RunOptions
from ..texts import check_prompt
from .gallery import GALLERY_SIZE, Entry, clip_files, clip_manifest, find_clip, list_clips
from .jobs import Job, JobQueue
from .limits import Limits, lengths
from .work import SavedClip, continue_clip, make_clip, verify_clip


@dataclass(frozen=True)
class ClipRequest:
    """A clip as requested by the page.

    Attributes:
        prompt, negative_prompt: text.
        seed: the root seed.
        preset: the name of a preset that the studio offers.
        settings: values that replace the preset's; with an image, height and width are the image's.
        image: a file that holds the first frame.
        loras: names of LoRAs that the studio offers.
    """

    prompt: str
    seed: int
    preset: str
    settings: Settings
    image: Path | None = None
    loras: tuple[str, ...] = ()


class Studio:
    """One output folder, the presets offered for it, and the queue of jobs.

    Args:
        folder: where clips are written and read; created if missing.
        presets: the presets offered; the first one is the default.
        limits: how large a clip may be.
        run_options: how new clips are made; `extend` and `verify` use only its device, and take the rest from
            the clip.
        loras: the LoRAs offered: files, each with its scale.

    Raises:
        ValueError: no presets, or two with the same name; or a LoRA is invalid, see `loras_to_load`.
    """

    def __init__(
        self,
        folder: Path,
        presets: list[Preset],
        limits: Limits | None = None,
        run_options: RunOptions | None = None,
        loras: Mapping[str | Path, float] | None = None,
    ) -> None:
        names = [preset.name for preset in presets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"presets must be at least one, each with its own name, got {names}")
        self.loras = _labelled(loras_to_load(loras))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.presets = {preset.name: preset for preset in presets}
        self.limits = limits or Limits()
        self.run_options = run_options or RunOptions()
        self.queue = JobQueue(self.limits.max_waiting)

    def preset(self, name: str) -> Preset:
        """An offered preset by name; ValueError if there is none."""
        if name not in self.presets:
            raise ValueError(f"this page has no preset {name!r}; it has {', '.join(self.presets)}")
        return self.presets[name]

    def lengths(self, preset: str) -> list[int]:
        """Lengths in frames that the preset's model supports and the limits allow."""
        family = PUBLISHED_MODELS.get(self.preset(preset).model, MINIFLUX)
        return lengths(self.geometry(preset) or family.published_geometry, self.limits)

    def geometry(self, preset: str) -> PyramidGeometry | None:
        """The geometry of the preset's model; None if finding it needs a download."""
        chosen = self.preset(preset)
        if chosen.model.startswith("embedded:") or Path(chosen.model).is_dir():
            return _geometry_of(chosen.model, chosen.variant)
        return None

    def make(self, request: ClipRequest) -> Job:
        """Queue a new clip.

        Raises:
            ValueError: the clip cannot be made, or is too large for this server; or the queue is full.
        """
        check_prompt(request.prompt)
        preset = with_settings(self.preset(request.preset), request.settings)
        if unknown := [name for name in request.loras if name not in self.loras]:
            raise ValueError(
                f"this page has no LoRA {unknown[0]!r}; it has {', '.join(self.loras) or 'none'}"
            )
        image = None if request.image is None else open_image(request.image)
        if image is not None:
            preset = in_its_own_size(image, preset)
        self.limits.check(preset.num_frames, preset.height, preset.width)
        geometry = self.geometry(request.preset)
        num_units = 0
        if geometry is not None:
            geometry.check_size(preset.height, preset.width)
            num_units = geometry.num_units(preset.num_frames)
        work = partial(
            make_clip,
            folder=self.folder,
            prompt=request.prompt,
            seed=request.seed,
            preset=preset,
            image=image,
            loras={lora.file: lora.scale for name, lora in self.loras.items() if name in request.loras},
            **asdict(self.run_options),
        )
        return self.queue.submit(f"“{request.prompt}”, seed {request.seed}", work, num_units)

    def extend(
        self, name: str, num_frames: int, *, branch_seed: int | None = None, from_frame: int | None = None
    ) -> Job:
        """Queue a longer clip, or with a branch_seed one that continues differently, see `Clip.extend`.

        Raises:
            ValueError: the clip cannot be made, or is too large for this server; or the queue is full.
            FileNotFoundError: there is no such clip in the folder.
        """
        saved, manifest = self._saved(name)
        recipe, geometry = recipe_of(manifest), geometry_of(manifest)
        self.limits.check(num_frames, saved.settings.height, saved.settings.width)
        plan_extension(recipe, geometry, num_frames, branch_seed=branch_seed, from_frame=from_frame)
        work = partial(
            continue_clip,
            saved=saved,
            num_frames=num_frames,
            branch_seed=branch_seed,
            from_frame=from_frame,
        )
        what = "extend" if branch_seed is None else "branch"
        return self.queue.submit(f"{what} {name}", work, geometry.num_units(num_frames))

    def verify(self, name: str) -> Job:
        """Queue a verification of a clip in the folder; raises as `extend` does."""
        saved, _ = self._saved(name)
        return self.queue.submit(f"verify {name}", partial(verify_clip, saved=saved))

    def clips(self) -> tuple[Entry, ...]:
        """The newest clips in the folder."""
        return list_clips(self.folder, GALLERY_SIZE)

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a clip in the folder; raises as `extend` does."""
        return clip_manifest(find_clip(self.folder, name))

    def recipe(self, name: str) -> Recipe:
        """How a clip in the folder was made; raises as `extend` does."""
        return recipe_of(self.manifest(name))

    def preset_like(self, name: str) -> str | None:
        """The offered preset with the model and variant of a clip in the folder, if there is one.

        It is the clip's own preset, if that is among them; raises as `extend` does.
        """
        manifest = self.manifest(name)
        wanted = (manifest["model"]["name"], manifest["settings"]["variant"])
        same = [key for key, preset in self.presets.items() if (_name_of(preset), preset.variant) == wanted]
        return manifest["preset"] if manifest["preset"] in same else next(iter(same), None)

    def loras_of(self, name: str) -> list[str]:
        """The offered LoRAs with which a clip in the folder was made; raises as `extend` does."""
        files = self._loras_of(self.manifest(name))
        return [label for label, lora in self.loras.items() if lora.file in files]

    def files(self, name: str) -> tuple[Path, ...]:
        """A clip in the folder and the files that belong to it; raises as `extend` does."""
        path, manifest = find_clip(self.folder, name), self.manifest(name)
        return tuple(
            file
            for file in clip_files(path)
            if file.exists() and (file != sidecar_path(path) or _holds(file, manifest))
        )

    def delete(self, name: str) -> None:
        """Delete a clip in the folder and the files that belong to it; raises as `extend` does."""
        for file in reversed(self.files(name)):  # the clip last: what fails before can be tried again
            file.unlink()

    def _saved(self, name: str) -> tuple[SavedClip, dict[str, Any]]:
        """A clip in the folder, ready to be made again, and its manifest."""
        path = find_clip(self.folder, name)
        manifest = clip_manifest(path)
        model, loras = self._model_of(manifest), self._loras_of(manifest)
        settings = recipe_of(manifest).settings
        return SavedClip(path, settings, model, loras, self.run_options.device), manifest

    def _model_of(self, manifest: Mapping[str, Any]) -> str | None:
        """Where a clip's weights are, if its manifest names a folder that a preset also names."""
        if manifest["model"]["kind"] != "folder":
            return None
        same = [preset for preset in self.presets.values() if _name_of(preset) == manifest["model"]["name"]]
        return next((preset.model for preset in same if Path(preset.model).is_dir()), None)

    def _loras_of(self, manifest: Mapping[str, Any]) -> tuple[Path, ...]:
        """The files of a clip's LoRAs, if the page offers them."""
        wanted = {row["sha256"] for row in manifest["loras"] or ()}
        return tuple(lora.file for lora in self.loras.values() if lora.sha256 in wanted)


def _name_of(preset: Preset) -> str:
    """The name that manifests give a preset's model."""
    return Path(preset.model).name if Path(preset.model).is_dir() else preset.model


def _holds(file: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a .json is a clip's manifest, and not something else of the same name."""
    try:
        return clip_manifest(file)["digests"] == manifest["digests"]
    except (ValueError, OSError):
        return False


def _labelled(loras: Sequence[LoraToLoad]) -> dict[str, LoraToLoad]:
    """LoRAs by file name and scale, as the page names them; ValueError if two names are equal."""
    labelled = {f"{lora.file.name} at {lora.scale:g}": lora for lora in loras}
    if len(labelled) < len(loras):
        names = ", ".join(lora.file.name for lora in loras)
        raise ValueError(f"LoRAs of a page must have different names, got {names}; rename one")
    return labelled


@cache
def _geometry_of(model: str, variant: str | None) -> PyramidGeometry:
    return recognise_model(model, variant=variant).geometry
