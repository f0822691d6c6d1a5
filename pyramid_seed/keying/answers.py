"""The value of each draw as a function of root seed and ordinal (scheme keyed-v1).

The scheme is a promise: it never changes. A new idea is a new scheme with a new name.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..seeds import EFFECTIVE_SEEDS, check_root, hashed_seed
from .draws import ANSWERED, CREATED, IN_PLACE, LIKE, OF_TENSORS, WHILE_TRAINING, Draw, Library, Site, kind_of

SCHEME = "pyramid-seed/keyed-v1"
"""Name of the scheme, recorded with every clip."""

_WHERE = {"generator", "out", "dtype", "device", "pin_memory", "requires_grad", "memory_format", "layout"}


@dataclass(frozen=True)
class LedgerRow:
    """One draw: which it is, where it was requested, and the SHA-256 (hexadecimal) of its values.

    Attributes:
        library, ordinal: its address under the root seed.
        name: the function called.
        site: the caller.
        shape, dtype, device: the values', see `draws.kind_of`.
        sha256: of the values as returned, little-endian in C order; if they are not an array, of the draw's
            seed as text.
    """

    library: Library
    ordinal: int
    name: str
    site: Site
    shape: tuple[int, ...]
    dtype: str
    device: str
    sha256: str


def derive_seed(root: int, library: Library, ordinal: int) -> int:
    """Seed of a library's draw number `ordinal` (from 0): 64 bits.

    The first 8 bytes, little-endian, of BLAKE2b over `pyramid-seed/keyed-v1/<root>/<library>/<ordinal>`.
    Each library counts its own draws, so that a stray draw of one shifts no value of another.

    Raises:
        TypeError, ValueError: see `seeds.check_root`.
    """
    check_root(root)
    return hashed_seed(f"{SCHEME}/{root}/{library}/{ordinal}")


class KeyedDraws:
    """Answers every draw of one clip, and records it.

    Values are drawn on the CPU in float64 (integers in their own type), rounded once, then moved: they are
    the same on every machine and device, whatever generator was passed.

    Args:
        root: the clip's root seed.
    """

    def __init__(self, root: int) -> None:
        check_root(root)
        self.root = root
        self.ledger: list[LedgerRow] = []
        self._ordinals: Counter[Library] = Counter()
        self._claimed: dict[int, str] = {}

    def __call__(self, draw: Draw) -> Any:
        """The value of a draw.

        Raises:
            ValueError: its function is not answered, or its seed would repeat the noise of an earlier draw.
        """
        _check_answered(draw)
        ordinal = self._ordinals[draw.library]
        self._ordinals[draw.library] += 1
        seed = derive_seed(self.root, draw.library, ordinal)
        address = f"{draw.library}/{ordinal}"
        if (first := self._claimed.setdefault(seed % EFFECTIVE_SEEDS, address)) != address:
            raise ValueError(
                f"seed {self.root} gives the draws {first} and {address} the same noise; use another seed"
            )
        if draw.library == "torch":
            values = _torch_values(draw, torch.Generator().manual_seed(seed))
            given, data = _delivered(draw, values), _bytes(values)
        else:
            given = _number(draw, seed)
            data = given.tobytes() if isinstance(given, np.ndarray | np.generic) else str(seed).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.ledger.append(LedgerRow(draw.library, ordinal, draw.name, draw.site, *kind_of(given), digest))
        return given


def _check_answered(draw: Draw) -> None:
    if draw.library == "torch" and draw.function not in ANSWERED:
        advice = "draw with torch.rand or randn"
        if draw.function in WHILE_TRAINING:
            advice = "call eval() on the model"
        raise ValueError(f"{draw.name} at {draw.site} draws what no seed gives; {advice}")


def _number(draw: Draw, seed: int) -> Any:
    """The answer to NumPy or Python: their own function, on a new generator with that seed."""
    if draw.library == "python":
        return getattr(random.Random(seed), draw.name)(*draw.args, **draw.kwargs)
    if draw.name == "default_rng":
        return np.random.Generator(np.random.PCG64(seed))
    return getattr(np.random.RandomState(np.random.MT19937(seed)), draw.name)(*draw.args, **draw.kwargs)


def _torch_values(draw: Draw, generator: torch.Generator) -> torch.Tensor:
    """The result of the same function on the CPU in float64, from `generator`, in the dtype asked for."""
    function: Callable[..., torch.Tensor] = draw.function
    args = [value for value in draw.args if not isinstance(value, torch.Generator)]
    kwargs = {name: value for name, value in draw.kwargs.items() if name not in _WHERE}
    if function in OF_TENSORS:
        args, kwargs = [*map(_wide, args)], {name: _wide(value) for name, value in kwargs.items()}
    is_whole = draw.name in ("randint", "randperm", "multinomial")
    default = draw.tensors[0].dtype if draw.tensors else torch.get_default_dtype()
    dtype = draw.kwargs.get("dtype") or (torch.int64 if is_whole else default)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    if draw.name == "multinomial":
        return _chosen(*args, **kwargs, generator=generator)
    if draw.name in ("normal", "normal_", "uniform_"):
        return _scaled(draw, args, kwargs, generator, wide).to(dtype)
    if draw.name == "random_":  # its range depends on the dtype
        args[0] = torch.empty(args[0].shape, dtype=dtype)
    if function in LIKE:
        shape, args = draw.tensors[0].shape, args[1:]
        kwargs = {"size": shape} | {name: value for name, value in kwargs.items() if name != "input"}
        function = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}.get(function, torch.randint)
    if function in CREATED:
        kwargs["dtype"] = torch.int64 if function in (torch.randint, torch.randperm) else wide
        kwargs["device"] = "cpu"
    values = function(*args, **kwargs, generator=generator)
    is_interval = function is torch.rand and not dtype.is_complex
    return _rounded_down(values, dtype) if is_interval else values.to(dtype)


def _scaled(
    draw: Draw, args: list[Any], kwargs: dict[str, Any], generator: torch.Generator, wide: torch.dtype
) -> torch.Tensor:
    """normal, normal_, uniform_: scaled in two steps; torch's own functions do so only on some CPUs."""
    names = ("from", "to") if draw.name == "uniform_" else ("mean", "std")
    tensors = draw.tensors
    if draw.function in IN_PLACE:
        tensors, args = tensors[:1], args[1:]
    named: dict[str, Any] = {names[0]: 0.0, names[1]: 1.0, "size": ()} | kwargs
    named |= dict(zip(named, args, strict=False))
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors)) if tensors else named["size"]
    first, second = (named[name] for name in names)
    if draw.name == "uniform_":
        unit = torch.rand(shape, dtype=torch.float64, generator=generator)
        return _rounded_down(unit * (second - first) + first, tensors[0].dtype)
    return torch.randn(shape, dtype=wide, generator=generator) * second + first


def _wide(value: Any) -> Any:
    return value.detach().to("cpu", torch.float64) if isinstance(value, torch.Tensor) else value


def _rounded_down(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Uniform values stay below the end of their interval, which rounding to nearest could reach."""
    rounded = values.to(dtype)
    below = torch.nextafter(rounded, torch.tensor(-torch.inf, dtype=dtype))
    return torch.where(rounded.double() > values, below, rounded)


def _chosen(
    input: torch.Tensor, num_samples: int, replacement: bool = False, *, generator: torch.Generator
) -> torch.Tensor:
    """multinomial by cumulative weights; torch uses logarithms, which differ between maths libraries."""
    if num_samples != 1 and not replacement:
        raise ValueError(f"multinomial without replacement must take one sample, got {num_samples}")
    cumulated = input.cumsum(-1)
    total = cumulated[..., -1:]
    if not (input >= 0).all() or not total.isfinite().all() or not total.all():
        raise ValueError("multinomial must have finite weights of at least 0, in each row one above")
    uniform = torch.rand((*input.shape[:-1], num_samples), dtype=torch.float64, generator=generator)
    below = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, below, right=True)


def _delivered(draw: Draw, values: torch.Tensor) -> torch.Tensor:
    """The values on the device, and in the tensor, that the caller asked for."""
    kwargs, tensors = draw.kwargs, draw.tensors
    if draw.function in IN_PLACE:
        tensors[0].detach().copy_(values)
        return tensors[0]
    if (out := kwargs.get("out")) is not None:
        return out.resize_(values.shape).copy_(values)
    device = kwargs.get("device") or (tensors[0].device if tensors else torch.get_default_device())
    given = values.to(device)
    if draw.function in LIKE:
        memory_format = kwargs.get("memory_format", torch.preserve_format)
        like = torch.empty_like(tensors[0], dtype=values.dtype, device=device, memory_format=memory_format)
        given = like.copy_(values)
    return given.requires_grad_() if kwargs.get("requires_grad") else given


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
