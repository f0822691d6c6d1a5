"""Make a clip again from its manifest, and say whether it is the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..devices import usable_device
from ..environment import Difference, environment_fingerprint, fingerprint_differences
from ..media.video import Frames
from ..noise import LedgeredNoise, NoiseLedger, NoiseStreams, draws_of_clip
from .diff import Step, compare_noise, compare_results, compare_weights, first_difference
from .manifest import check_noise_scheme, find_manifest, geometry_of, recipe_of
from .pixels import compare_file


class MadeAgain(Protocol):
    """A clip as `api.regenerate` returns it."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Its own manifest."""
        ...

    @property
    def frames(self) -> Frames:
        """(T, H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        steps: what was compared, in causal order, up to the first difference.
        environment: the fields in which this machine differs from the manifest's, `a` being the manifest.
    """

    steps: tuple[Step, ...]
    environment: tuple[Difference, ...]

    @property
    def difference(self) -> Step | None:
        """The first difference; None if the clip is the same."""
        return first_difference(self.steps)


def verify_clip(
    path: str | Path,
    *,
    weigh: Callable[[Mapping[str, Any]], list[dict[str, Any]] | None],
    regenerate: Callable[[Mapping[str, Any]], MadeAgain],
) -> Verification:
    """Run a clip again and compare, first the weights, then everything that came out.

    Weights are compared before anything runs; where they differ, nothing does.

    Args:
        path: an .mp4, another clip with its manifest beside it, or a manifest.
        weigh: the digests of the weights that would be used for a manifest.
        regenerate: makes the clip of a manifest.

    Raises:
        ValueError: there is no manifest, or one that cannot be run.
    """
    path = Path(path)
    manifest = _known(path)
    steps = [compare_weights(manifest["weights"], weigh(manifest))]
    if first_difference(steps):
        return Verification(tuple(steps), _here(manifest))
    again = regenerate(manifest)
    made = again.manifest
    environment = tuple(fingerprint_differences(manifest["environment"], made["environment"]))
    steps += compare_results(manifest, made)
    difference = first_difference(steps)
    if difference is not None:
        return Verification(tuple(steps[: steps.index(difference) + 1]), environment)
    if path.suffix.lower() != ".json":
        steps.append(compare_file(path, manifest, again.frames, made["environment"]))
    return Verification(tuple(steps), environment)


def verify_noise(path: str | Path) -> Verification:
    """Draw all noise of a clip again, without its model; a lossless file's pixels are compared as well.

    Raises:
        ValueError: there is no manifest, or one of an unknown noise scheme; or this machine has no device
            such as the one where the noise was drawn.
    """
    path = Path(path)
    manifest = _known(path)
    redrawn = {"ledger": redraw(manifest).to_list()}
    steps = [compare_noise(manifest, redrawn)]
    if path.suffix.lower() != ".json":
        steps.append(compare_file(path, manifest, None, {}))
    return Verification(tuple(steps), _here(manifest))


def redraw(manifest: Mapping[str, Any]) -> NoiseLedger:
    """The ledger of a clip, from its seed, branches and sizes alone."""
    recipe, geometry = recipe_of(manifest), geometry_of(manifest)
    settings = recipe.settings
    channels = manifest["geometry"]["latent_channels"]
    ledger = NoiseLedger()
    device = usable_device(recipe.noise_device, "noise_device")
    noise = LedgeredNoise(NoiseStreams(recipe.seed, device, recipe.branches), ledger)
    draws = draws_of_clip(
        geometry.num_latent_frames(settings.num_frames),
        geometry.latent_shape(channels, settings.height, settings.width),
        with_image=recipe.image_digest is not None,
    )
    for key, shape in draws:
        noise.draw(key, shape.as_tuple())
    return ledger


def _known(path: Path) -> dict[str, Any]:
    manifest = find_manifest(path)
    check_noise_scheme(manifest, path)
    return manifest


def _here(manifest: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Differences of machine and packages; what only a run decides (device, dtype, level) is left out."""
    here = environment_fingerprint(level=manifest["determinism"])
    settled = ("device", "dtype", "attention_backend", "determinism")
    there, now = (
        {name: value for name, value in fields.items() if name not in settled}
        for fields in (manifest["environment"], here)
    )
    return tuple(fingerprint_differences(there, now))
