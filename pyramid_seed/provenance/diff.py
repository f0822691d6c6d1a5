"""Two manifests side by side: what was requested, and where the results diverge, in causal order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..environment import Difference, fingerprint_differences
from ..geometry import PyramidGeometry
from ..texts import counted
from .manifest import geometry_of
from .schema import BEFORE_PATHS

Stage = Literal["weights", "text", "noise", "unit", "decode", "frames", "file", "signature"]
Status = Literal["equal", "differs", "not compared"]


@dataclass(frozen=True)
class Step:
    """One stage of making a clip, compared; `note` says what is equal, or names the first difference."""

    stage: Stage
    status: Status
    note: str


@dataclass(frozen=True)
class ManifestDiff:
    """How two clips differ.

    Attributes:
        settings, weights, environment: the fields that differ, `a` first.
        steps: results in causal order, up to the end of the shorter clip.
        num_units: of each clip.
    """

    settings: tuple[Difference, ...]
    weights: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    steps: tuple[Step, ...]
    num_units: tuple[int, int]

    @property
    def is_same_clip(self) -> bool:
        """Whether both have the same frames, made from the same latents."""
        return self.parting is None and self.num_units[0] == self.num_units[1]

    @property
    def parting(self) -> Step | None:
        """The first result that differs; None if the clips are equal or one is the beginning of the other."""
        return first_difference(step for step in self.steps if step.stage != "weights")


def diff_manifests(a: Mapping[str, Any], b: Mapping[str, Any]) -> ManifestDiff:
    """All differences between two manifests, except timings."""
    return ManifestDiff(
        settings=tuple(fingerprint_differences(_asked(a), _asked(b))),
        weights=tuple(fingerprint_differences(_weights(a), _weights(b))),
        environment=compare_environments(a, b),
        steps=(compare_weights(a["weights"], b["weights"]), *compare_results(a, b)),
        num_units=(len(a["digests"]["units"]), len(b["digests"]["units"])),
    )


def compare_environments(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Where clips were made, and where their texts were encoded if that was elsewhere."""
    sides = [dict(manifest["environment"]) for manifest in (a, b)]
    if any(manifest.get("text_environment") for manifest in (a, b)):
        for side, manifest in zip(sides, (a, b), strict=True):
            side["text"] = manifest.get("text_environment") or manifest["environment"]
    return tuple(fingerprint_differences(*sides))


def compare_results(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Step, ...]:
    """Text, noise, units with their stages, decoded chunks and frames, up to the end of the shorter clip.

    The digest of all frames is compared if both have the same number of units.
    """
    left, right = a["digests"], b["digests"]
    common = min(len(left["units"]), len(right["units"]))
    geometry = geometry_of(a)
    steps = [
        _compare_named("text", left["text"], right["text"], "embeddings of {}", "text"),
        _compare_named("noise", _draws(a, common), _draws(b, common), "draw {}", "draw"),
        _compare_units(left, right, common),
        _compare_named(
            "decode", _chunks(left["chunks"][:common], geometry), _chunks(right["chunks"][:common], geometry),
            "chunk {}", "chunk",
        ),
    ]  # fmt: skip
    if len(left["units"]) == len(right["units"]):
        steps.append(compare_digests(left["frames"], right["frames"]))
    return tuple(steps)


def compare_weights(a: Iterable[Mapping[str, Any]] | None, b: Iterable[Mapping[str, Any]] | None) -> Step:
    """Compare the model's files, by name and SHA-256."""
    if a is None or b is None:
        return Step("weights", "not compared", "the files were not recorded")
    left, right = ({row["file"]: row["sha256"] for row in rows} for rows in (a, b))
    return _compare_named("weights", left, right, "file {}", "file")


def compare_digests(a: str, b: str) -> Step:
    """How the digests of all frames differ."""
    return _compare_named("frames", {"": a}, {"": b}, "all frames", equal="all frames")


def compare_noise(a: Mapping[str, Any], b: Mapping[str, Any]) -> Step:
    """Compare all draws, by key, shape and SHA-256."""
    return _compare_named("noise", _draws(a, None), _draws(b, None), "draw {}", "draw")


def first_difference(steps: Iterable[Step]) -> Step | None:
    """The first step that differs."""
    return next((step for step in steps if step.status == "differs"), None)


def _compare_named(
    stage: Stage, a: Mapping[str, Any], b: Mapping[str, Any], one: str, noun: str = "", equal: str = ""
) -> Step:
    """Compare named values in the order of `a`; the note names the first that differs or is missing.

    Args:
        stage: of making a clip.
        a, b: values by name.
        one: how a value is described, with {} for its name.
        noun: what equal values are called, to be counted; or `equal`, the whole note about them.
    """
    if list(a) == list(b):
        names: Iterable[str] = a
    else:
        names = [*a, *(name for name in b if name not in a)]
    for name in names:
        left, right = a.get(name), b.get(name)
        if left != right:
            where = one.format(ascii(name)[1:-1])
            return Step(stage, "differs", f"{where}: {_short(left)} against {_short(right)}")
    return Step(stage, "equal", equal or counted(len(a), noun))


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = ascii(value).strip("'")  # manifests are untrusted: no control characters
    return text if len(text) < 20 else f"{text[:16]}..."


def _compare_units(a: Mapping[str, Any], b: Mapping[str, Any], num_units: int) -> Step:
    """Compare the first units, each after its stages if both sides know these."""
    has_stages = [None not in pair for pair in zip(a["stages"], b["stages"], strict=False)][:num_units]
    left, right = _latents(a, has_stages), _latents(b, has_stages)
    stages = counted(len(left) - num_units, "stage")
    equal = f"latents of {counted(num_units, 'unit')}, after {stages}"
    return _compare_named("unit", left, right, "latents of {}", equal=equal)


def _latents(digests: Mapping[str, Any], has_stages: Iterable[bool]) -> dict[str, str]:
    """Digests in causal order: the stages of a unit, if both sides know these, then the unit."""
    named: dict[str, str] = {}
    for unit, has in enumerate(has_stages):
        if has:
            stages = enumerate(digests["stages"][unit])
            named |= {f"stage {stage} of unit {unit}": digest for stage, digest in stages}
        named[f"unit {unit}"] = digests["units"][unit]
    return named


def _chunks(digests: Iterable[str], geometry: PyramidGeometry) -> dict[str, str]:
    return {
        f"{unit} (frames {frames[0]} to {frames[-1]})": digest
        for unit, digest in enumerate(digests)
        for frames in [geometry.frames_of_unit(unit)]
    }


def _draws(manifest: Mapping[str, Any], num_units: int | None) -> dict[str, str]:
    return {
        f"{row['stream']}/{row['unit']}/{row['stage']} of {'x'.join(map(str, row['shape']))}": row["sha256"]
        for row in manifest["ledger"]
        if num_units is None or row["unit"] < num_units
    }


def _asked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    branches = {f"branches.{branch['from_unit']}": branch["seed"] for branch in manifest["branches"]}
    names = (
        "prompt",
        "seed",
        "image_sha256",
        "noise_scheme",
        "noise_device",
        "determinism",
        "package_version",
    )
    how = {name: manifest.get(name, default) for name, default in BEFORE_PATHS.items()}
    how |= {name: manifest.get(name) for name in ("cache", "quantization", "vae_tiling", "video")}
    return {name: manifest[name] for name in names} | how | branches | manifest["settings"]


def _weights(manifest: Mapping[str, Any]) -> dict[str, Any]:
    files = {row["file"]: row["sha256"] for row in manifest["weights"] or ()}
    if manifest["loras"] is None:
        return files | {"loras": "not known"}
    return files | {
        f"loras.{index}.{name}": row[name]
        for index, row in enumerate(manifest["loras"])
        for name in ("sha256", "scale", "fused", "padded_rank")
        if name in row
    }
