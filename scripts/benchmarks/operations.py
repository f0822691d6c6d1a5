"""`operations`: what a device is asked to do in a step, counted on the meta device, without weights."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyramid_seed import PyramidFlowMatchEulerDiscreteScheduler, PyramidFluxTransformer3DModel
from pyramid_seed.geometry import LatentShape
from pyramid_seed.models.transformer_pyramid_base import PyramidTransformer3DModel
from pyramid_seed.noise import NoiseStreams
from pyramid_seed.pipelines.denoise import Place, UnitSettings, denoise_unit
from pyramid_seed.pipelines.guided import GuidedTransformer
from pyramid_seed.pipelines.history import latent_pyramid
from pyramid_seed.pipelines.text import TextEmbeddings

from .measure import Bar, Result
from .sequence import published_geometry
from .sizes import FULL, NUM_REAL_TEXT, NUM_TEXT
from .tokens import NUM_STAGES, PICTURES

UNITS = (1, 15, 30)
META = torch.device("meta")
NO_KERNEL = ("detach", "lift_fresh", "_unsafe_view", "_reshape_alias", "empty", "new_empty", "empty_strided")
"""Operations that launch none, besides those that are views by their schema."""


@dataclass(frozen=True)
class Counts:
    """What is asked of a device.

    Attributes:
        operations: that launch a kernel there.
        attention: of these, calls of attention.
        sent: tensors that the process sends there.
        read_back: tensors that it waits for from there.
    """

    operations: int
    attention: int
    sent: int
    read_back: int

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


class DeviceOperations(TorchDispatchMode):
    """Counts what happens on the meta device, which stands in for a GPU, inside this `with`.

    What is read back from there is one everywhere: flags that say yes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counter: Counter[str] = Counter()
        self._attention = _AttentionCalls(self._counter)

    def __enter__(self) -> Self:
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count an operation and run it."""
        kwargs = dict(kwargs or {})
        name, target = func.overloadpacket.__name__, kwargs.get("device")
        first = next((value for value in _flat(args) if isinstance(value, torch.Tensor)), None)
        from_device = first is not None and first.device == META
        if (
            first is not None
            and from_device
            and (name == "_local_scalar_dense" or target == torch.device("cpu"))
        ):
            self._counter["read_back"] += 1
            return 1 if target is None else torch.ones(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if target == META and first is not None and not from_device:
            self._counter["sent"] += 1
        elif (from_device or target == META) and not func.is_view and name not in NO_KERNEL:
            self._counter["operations"] += 1
        return func(*args, **kwargs)

    def counts(self) -> Counts:
        """All that was counted until now."""
        return Counts(*(self._counter[name] for name in ("operations", "attention", "sent", "read_back")))


class _AttentionCalls(TorchFunctionMode):
    """Counts calls of attention, which have one kernel on a GPU and many on the meta device."""

    def __init__(self, counter: Counter[str]) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._counter.update(attention=1, operations=1)
        return torch.empty_like(args[0] if args else (kwargs or {})["query"])


def measure(options: argparse.Namespace) -> Result:  # noqa: ARG001 - the interface of all subcommands
    """A step of each stage for an early, a middle and a last unit, and the whole unit."""
    with META:
        transformer = PyramidFluxTransformer3DModel(**FULL.transformer).eval()
    table: list[tuple[str, ...]] = [
        ("picture", "unit", "stage", "operations", "attention calls", "sent", "read back")
    ]
    calls: dict[tuple[str, int], int] = {}
    steps: list[Counts] = []
    units: list[Counts] = []
    for name, (height, width) in PICTURES.items():
        for unit in UNITS:
            of_stages, whole = unit_operations(transformer, height, width, unit)
            calls[name, unit] = max(step.attention for step in of_stages)
            for stage, step in enumerate(of_stages):
                table.append((name, str(unit), str(stage), *map(str, astuple(step))))
            steps += of_stages
            units.append(whole)
    first, last = UNITS[0], UNITS[-1]
    growth = {name: calls[name, last] / calls[name, first] for name in PICTURES}
    growing = f"attention calls of a step, unit {last} / unit {first}"
    read_back = max(step.read_back for step in steps), max(unit.read_back for unit in units)
    sent = max(step.sent for step in steps)
    return Result(
        command="operations",
        what="miniFLUX at its published size on the meta device: a step that is not the first of its stage, "
        f"a guidance pair, {NUM_REAL_TEXT} and {NUM_REAL_TEXT // 2} of {NUM_TEXT} text tokens are real",
        table=table,
        facts={f"768p: {growing} (its frames are too large for masks)": growth["768p"]},
        bars=[
            Bar(f"384p: {growing}", growth["384p"], 2, is_lower_limit=False),
            Bar("tensors sent in a step", sent, 0, is_lower_limit=False),
            Bar("tensors read back in a step", read_back[0], 0, is_lower_limit=False),
            Bar(
                "tensors read back in a unit: whether its steps were finite",
                read_back[1],
                1,
                is_lower_limit=False,
            ),
        ],
    )


@torch.no_grad()
def unit_operations(
    transformer: PyramidTransformer3DModel, height: int, width: int, unit: int
) -> tuple[list[Counts], Counts]:
    """What the second step of each stage asks of the device, and what a unit of two steps per stage does."""
    rows, columns = published_geometry().latent_size(height, width)
    shape = LatentShape(transformer.config.in_channels, rows, columns, NUM_STAGES)
    past = [latent_pyramid(torch.empty(shape.as_tuple(), device=META), NUM_STAGES)] * unit
    positive, negative = (_text(transformer, real) for real in (NUM_REAL_TEXT, NUM_REAL_TEXT // 2))
    model = GuidedTransformer(transformer, positive, negative, None, META)
    seen: list[Counts] = []

    def on_step(place: Place, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        seen.append(mode.counts())
        return latents

    with DeviceOperations() as mode:
        denoise_unit(
            unit,
            past,
            model,
            PyramidFlowMatchEulerDiscreteScheduler(),
            NoiseStreams(0),
            shape,
            META,
            UnitSettings((2,) * NUM_STAGES, guidance_scale=5.0),
            on_step,
        )
    return [later - earlier for earlier, later in zip(seen[::2], seen[1::2], strict=True)], mode.counts()


def _text(transformer: PyramidTransformer3DModel, num_real: int) -> TextEmbeddings:
    config = transformer.config
    return TextEmbeddings(
        torch.empty(1, NUM_TEXT, config.joint_attention_dim, device=META),
        (torch.arange(NUM_TEXT) < num_real).long()[None],
        torch.empty(1, config.pooled_projection_dim, device=META),
    )


def _flat(values: Sequence[Any]) -> list[Any]:
    """Arguments, and those in lists of them."""
    return [each for value in values for each in (value if isinstance(value, (list, tuple)) else (value,))]
