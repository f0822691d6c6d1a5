"""Every random draw inside a block, as it is asked for: of torch, of NumPy, of Python's `random`.

torch's functions are seen by a mode of this thread, which compiled code and hooks pass through; the module
functions of NumPy and `random` are replaced for the time of the block, and other threads get their own.
"""

from __future__ import annotations

import inspect
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn import init
from torch.overrides import TorchFunctionMode

from ..dtypes import dtype_name

Library = Literal["torch", "numpy", "python"]

CREATED = frozenset({torch.randn, torch.rand, torch.randint, torch.randperm})
LIKE = frozenset({torch.randn_like, torch.rand_like, torch.randint_like})
IN_PLACE = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.random_})
OF_TENSORS = frozenset({torch.normal, torch.bernoulli, torch.multinomial})
OF_TENSORS |= {torch.Tensor.bernoulli, torch.Tensor.multinomial}
ANSWERED = CREATED | LIKE | IN_PLACE | OF_TENSORS
"""torch's functions whose values a seed gives, see `answers`."""

_RRELUS = {F.rrelu, torch.rrelu, torch.rrelu_}
_DROPOUTS = {
    getattr(module, name)
    for module in (F, torch)
    for name in dir(module)
    if "dropout" in name and name[0] != "_"
}
WHILE_TRAINING = frozenset(_DROPOUTS | _RRELUS | {F.scaled_dot_product_attention})
"""Those that draw in a model in training mode only."""

# Made of logarithms, which differ between maths libraries, or of draws of their own that nobody sees.
_NEVER_ANSWERED = {
    torch.poisson, torch.binomial, torch.svd_lowrank, torch.pca_lowrank, torch.Tensor.bernoulli_,
    torch.Tensor.cauchy_, torch.Tensor.exponential_, torch.Tensor.geometric_, torch.Tensor.log_normal_,
    F.gumbel_softmax, F.fractional_max_pool2d, F.fractional_max_pool3d,
    init.normal_, init.uniform_, init.kaiming_normal_, init.kaiming_uniform_,
}  # fmt: skip
RANDOM = frozenset(ANSWERED | WHILE_TRAINING | _NEVER_ANSWERED)
"""torch's functions that draw, or can."""

_OWN_FRAMES = ("torch", "numpy", "random", "contextlib", "diffusers.utils.torch_utils", __package__)
_RESUMED = "torch_dynamo_resume_in_"
_NOT_DRAWS = {"seed", "getstate", "setstate", "get_state", "set_state"}


@dataclass(frozen=True)
class Site:
    """Where a draw is asked for: file relative to the folder of its package, line, function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


@dataclass(frozen=True, eq=False)
class Draw:
    """One call of a random function.

    Attributes:
        library, name: whose function, such as "randn_like".
        site: who calls it.
        function: the library's own, which draws as it would without us.
        args, kwargs: what it is called with.
    """

    library: Library
    name: str
    site: Site
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def generator(self) -> torch.Generator | None:
        """torch's generator that it was told to draw from; None is the global one."""
        given = [self.kwargs.get("generator"), *self.args]
        return next((value for value in given if isinstance(value, torch.Generator)), None)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors that it was called with."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, torch.Tensor)]

    def natively(self) -> Any:
        """What the library gives, from its own generator."""
        return self.function(*self.args, **self.kwargs)


Answer: TypeAlias = Callable[[Draw], Any]
"""Gives the value of a draw."""


def kind_of(value: Any) -> tuple[tuple[int, ...], str, str]:
    """Shape, dtype and type of device of what was drawn; of what is no array, its type."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), dtype_name(value.dtype), value.device.type
    if isinstance(value, np.ndarray | np.generic):
        return value.shape, str(value.dtype), "cpu"
    return (), type(value).__name__, "cpu"


_ONE_AT_A_TIME = threading.RLock()
"""NumPy and `random` belong to the process: blocks in other threads wait."""


@contextmanager
def answered(answer: Answer) -> Iterator[None]:
    """Let `answer` give the value of every draw of this thread inside the block."""
    with _ONE_AT_A_TIME, ExitStack() as stack:
        _replace(stack, random, _methods(random, random.random.__self__), "python", answer)  # type: ignore[attr-defined]
        _replace(stack, np.random, _methods(np.random, np.random.rand.__self__), "numpy", answer)  # type: ignore[attr-defined]
        _replace(stack, np.random, ["default_rng"], "numpy", answer)
        stack.enter_context(_TorchDraws(answer))
        yield


class _TorchDraws(TorchFunctionMode):
    def __init__(self, answer: Answer) -> None:
        super().__init__()

        # Out of compiled code a draw is handed over as it runs: what is compiled stays as it is otherwise.
        @torch.compiler.disable
        def hand_over(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return answer(Draw("torch", function.__name__, call_site(), function, args, kwargs))

        self._hand_over = hand_over

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:  # traced by torch.compile: kept plain
        kwargs = {} if kwargs is None else kwargs
        if function in RANDOM and (function not in WHILE_TRAINING or _acts(function, args, kwargs)):
            return self._hand_over(function, args, kwargs)
        return function(*args, **kwargs)


def _acts(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function that draws while it trains does so in this call."""
    if function is F.scaled_dot_product_attention:
        return bool(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))
    position = 3 if function in _RRELUS else 2
    default = kwargs.get("train", function in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d))
    is_training = args[position] if len(args) > position else kwargs.get("training", default)
    rate = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return bool(is_training and (position == 3 or rate))


def _methods(module: Any, owner: object) -> list[str]:
    """Functions of a module that draw from its global generator."""
    bound = [name for name in dir(module) if getattr(getattr(module, name), "__self__", None) is owner]
    return sorted(set(bound) - _NOT_DRAWS)


def _replace(stack: ExitStack, module: Any, names: list[str], library: Library, answer: Answer) -> None:
    thread = threading.get_ident()

    def handed_over(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            is_seeded = name == "default_rng" and (*args, *kwargs.values(), None)[0] is not None
            if is_seeded or threading.get_ident() != thread:
                return function(*args, **kwargs)
            return answer(Draw(library, name, call_site(), function, args, kwargs))

        return call

    for name in names:
        function = getattr(module, name)
        stack.callback(setattr, module, name, function)
        setattr(module, name, handed_over(name, function))


def call_site() -> Site:
    """Who asked: the innermost frame outside the libraries that draw, diffusers' `randn_tensor`, and us."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None and _is_own(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    if frame is None:
        return Site("unknown", 0, "unknown")  # a Python without frames
    parents, file = frame.f_globals.get("__name__", "").split("."), Path(frame.f_code.co_filename).name
    if file != "__init__.py":
        parents.pop()
    name = frame.f_code.co_name
    if name.startswith(_RESUMED):  # code that torch.compile left at a draw and came back to
        name = name.removeprefix(_RESUMED).rpartition("_at_")[0]
    return Site("/".join([*parents, file]), frame.f_lineno, name)


def _is_own(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _OWN_FRAMES)


def global_states() -> dict[str, object]:
    """The states of the global generators, by whose they are: what is drawn from one unseen changes it."""
    states: dict[str, object] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state(legacy=False)),
        "python": random.getstate(),
    }
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return states
    module = torch.get_device_module(accelerator)
    if not getattr(module, "is_initialized", lambda: True)():  # nothing has drawn there yet
        return states
    for index in range(module.device_count()):
        where = () if accelerator.type == "mps" else (index,)
        states[f"torch ({accelerator.type}:{index})"] = module.get_rng_state(*where).numpy().tobytes()
    return states


def moved_since(before: Mapping[str, object]) -> list[str]:
    """Whose global generators are in another state than they were, see `global_states`."""
    return [name for name, state in global_states().items() if state != before.get(name, state)]
