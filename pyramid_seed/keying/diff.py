"""Two keyed clips side by side, by their manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ..environment import Difference, fingerprint_differences
from ..provenance.diff import Step, compare_digests, compare_weights, first_difference
from ..texts import counted

_ASKED = ("seed", "noise_scheme", "determinism", "package_version", "pipeline", "arguments", "settings")


@dataclass(frozen=True)
class KeyedDiff:
    """How two keyed clips differ, as `provenance.diff.ManifestDiff` says it of others.

    Attributes:
        settings, environment: the fields that differ, `a` first.
        steps: weights, draws and frames.
    """

    settings: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    steps: tuple[Step, ...]

    @property
    def parting(self) -> Step | None:
        """The first result that differs; None if the clips are equal."""
        return first_difference(self.steps[1:])


def diff_keyed(a: Mapping[str, Any], b: Mapping[str, Any]) -> KeyedDiff:
    """All differences between two manifests of keyed clips."""
    return KeyedDiff(
        settings=tuple(fingerprint_differences(*({name: m[name] for name in _ASKED} for m in (a, b)))),
        environment=tuple(fingerprint_differences(a["environment"], b["environment"])),
        steps=(
            compare_weights(a["weights"], b["weights"]),
            compare_draws(a["ledger"], b["ledger"]),
            compare_digests(a["digests"]["frames"], b["digests"]["frames"]),
        ),
    )


def compare_draws(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Step:
    """Compare two ledgers; the note names the first difference, and where each side requested the draw.

    Line numbers change between versions and devices between machines, so both are ignored.
    """
    for index, (left, right) in enumerate(zip_longest(a, b)):
        if _values(left) != _values(right):
            return Step("noise", "differs", f"draw {index}: {_told_row(left)} then, {_told_row(right)} now")
    return Step("noise", "equal", counted(len(a), "draw"))


def _values(row: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (row or {}).items() if name not in ("site", "device")}


def _told_row(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "none"
    shape = "x".join(map(str, row["shape"])) or "one value"
    return "{name} of {0} at {site[file]}:{site[line]}, {sha256:.16}...".format(shape, **row)
