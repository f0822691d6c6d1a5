"""Make a clip again from its manifest, and report whether it is the same clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..devices import usable_device
from ..environment import Difference, environment_fingerprint, fingerprint_differences
from ..media.frames import Frames
from ..noise import LedgeredNoise, NoiseLedger, NoiseStreams, draws_of_clip
from .diff import (
    Step,
    compare_environments,
    compare_noise,
    compare_results,
    compare_weights,
    first_difference,
)
from .manifest import geometry_of, read_verifiable, recipe_of
from .pixels import compare_file
from .sample import UnitSample
from .signature import signature_step

_MAX_VALUES, _MAX_VALUES_OF_A_DRAW = 2**32, 2**27  # an hour of 768p has 3.5e9, its draws 245,760


@dataclass(frozen=True)
class Verification:
    """The outcome of a verification.

    Attributes:
        steps: what was compared, in causal order, up to the first difference.
        environment: the fields in which this machine differs from the manifest's; `a` is the manifest.
        sample: which units were made again, if not all.
    """

    steps: tuple[Step, ...]
    environment: tuple[Difference, ...]
    sample: UnitSample | None = None

    @property
    def difference(self) -> Step | None:
        """The first difference; None if the clip is the same."""
        return first_difference(self.steps)

    @property
    def same(self) -> bool:
        """Whether everything compared is equal."""
        return self.difference is None


def verify_weights(
    manifest: Mapping[str, Any], weights_here: Sequence[Mapping[str, Any]] | None
) -> Verification:
    """Compare the weights of a clip with those that would be used here, before anything runs."""
    return Verification((compare_weights(manifest["weights"], weights_here),), _here(manifest))


def verify_clip(
    manifest: Mapping[str, Any],
    path: Path | None,
    weights: Verification,
    made: Mapping[str, Any],
    frames: Frames | None,
    sample: UnitSample | None = None,
) -> Verification:
    """Compare every result after a clip was made again.

    Args:
        manifest: how the clip was made.
        path: its file, whose pixels are compared as well; None if there is none.
        weights: see `verify_weights`; equal, or not comparable.
        made: the manifest of the new clip.
        frames: its frames, (T, H, W, 3) uint8; None if another process has them and compares the file.
        sample: the units that were made again; None: all of them.
    """
    environment = compare_environments(manifest, made)
    steps = [*weights.steps, *compare_results(manifest, made)]
    if sample is not None:
        steps = [_with_sample(step, sample) for step in steps]
    difference = first_difference(steps)
    if difference is not None:
        return Verification(tuple(steps[: steps.index(difference) + 1]), environment, sample)
    if frames is not None and path is not None and path.suffix.lower() != ".json":
        steps.append(compare_file(path, manifest, frames, made["environment"]))
    return Verification(tuple(steps), environment, sample)


def _with_sample(step: Step, sample: UnitSample) -> Step:
    """If units are equal, add which ones were made again."""
    if (step.stage, step.status) != ("unit", "equal"):
        return step
    return replace(step, note=f"{step.note}; made again: {', '.join(map(str, sample.units))}")


def after_signature(
    path: Path, trust: str | Path | None, compare: Callable[[], Verification]
) -> Verification:
    """Check the signature of a file, if it has one; compare the rest unless it does not hold.

    Args:
        path: the file.
        trust: see `signature_step`.
        compare: makes the clip again and compares.
    """
    step = signature_step(path, trust) if trust is not None or path.is_file() else None
    if step is None:
        return compare()
    if step.status == "differs":
        return Verification((step,), ())
    compared = compare()
    return replace(compared, steps=(step, *compared.steps))


def verify_noise_of_file(path: Path, trust: Path | None = None) -> Verification:
    """`verify_noise` for a saved clip, or a manifest in a file; its signature is checked first.

    Raises:
        ValueError: there is no manifest, its noise scheme is unknown, or as in `verify_noise`.
    """
    return after_signature(path, trust, lambda: verify_noise(read_verifiable(path), path))


def verify_noise(manifest: Mapping[str, Any], path: Path | None) -> Verification:
    """Redraw all noise of a clip, without its model; a lossless file's pixels are compared as well.

    Args:
        manifest, path: see `verify_clip`.

    Raises:
        ValueError: this machine lacks the kind of device where the noise was drawn, or the manifest asks for
            more noise than any clip has.
    """
    steps = [compare_noise(manifest, {"ledger": redraw(manifest).to_list()})]
    if path is not None and path.suffix.lower() != ".json":
        steps.append(compare_file(path, manifest, None, {}))
    return Verification(tuple(steps), _here(manifest))


def redraw(manifest: Mapping[str, Any]) -> NoiseLedger:
    """The ledger of a clip, redrawn from its seed, branches and sizes alone."""
    recipe, geometry = recipe_of(manifest), geometry_of(manifest)
    settings = recipe.settings
    channels = manifest["geometry"]["latent_channels"]
    ledger = NoiseLedger()
    device = usable_device(recipe.noise_device, "noise_device")
    noise = LedgeredNoise(NoiseStreams(recipe.seed, device, recipe.branches), ledger)
    draws = draws_of_clip(
        geometry.num_units(settings.num_frames),
        geometry.latent_shape(channels, settings.height, settings.width),
        image=None if recipe.image_digest is None else geometry.image_role,
        video_units=0 if recipe.video_frames is None else geometry.num_units(recipe.video_frames),
    )
    values = sum(math.prod(shape.as_tuple()) for _, shape in draws)
    largest = max(math.prod(shape.as_tuple()) for _, shape in draws)
    if values > _MAX_VALUES or largest > _MAX_VALUES_OF_A_DRAW:
        raise ValueError(
            f"the manifest asks for {values:,} values of noise, {largest:,} in one draw; at most "
            f"{_MAX_VALUES:,} and {_MAX_VALUES_OF_A_DRAW:,} are drawn again"
        )
    for key, shape in draws:
        noise.draw(key, shape.as_tuple())
    return ledger


def _here(manifest: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Differences of machine and packages, without what each run chooses (device, dtype, level)."""
    here = environment_fingerprint(level=manifest["determinism"])
    settled = ("device", "dtype", "attention_backend", "determinism")
    there, now = (
        {name: value for name, value in fields.items() if name not in settled}
        for fields in (manifest["environment"], here)
    )
    return tuple(fingerprint_differences(there, now))
