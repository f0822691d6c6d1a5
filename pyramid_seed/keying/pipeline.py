"""`keyed`: a diffusers pipeline whose clips are a function of a seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..checkpoints.loaded_weights import LoadedWeights
from ..checks import check_choice, check_int, check_kinds
from ..choices import DETERMINISM_LEVELS, DeterminismLevel
from ..determinism import determinism_level
from ..pipelines.memory import align_weights
from ..seeds import roots_of_clips
from ..texts import counted
from .answers import KeyedDraws, LedgerRow
from .clip import KeyedClip, frames_of
from .draws import answered, global_states, moved_since
from .manifest import setup_of, told, weight_folders

_PER_PROMPT = ("num_videos_per_prompt", "num_images_per_prompt")


def keyed(pipe: DiffusionPipeline, *, determinism: DeterminismLevel = "strict") -> KeyedPipeline:
    """Give a diffusers pipeline a `seed=` that determines every random draw of a call.

    Equal seeds make equal clips: repeated, alone or in a list of prompts, in any process; their noise is the
    same on every device. Unlike with `generate`, a shorter clip is not the beginning of a longer one.

    Args:
        pipe: any diffusers pipeline in evaluation mode; offloaded or not, compiled or not.
        determinism: "strict" or "relaxed", see docs/determinism-levels.md.

    Raises:
        TypeError: `pipe` is not a diffusers pipeline. ValueError: its calls already take a seed.
    """
    check_kinds(pipe=(pipe, DiffusionPipeline))
    check_choice("determinism", determinism, DETERMINISM_LEVELS)
    if "seed" in inspect.signature(type(pipe).__call__).parameters:
        raise ValueError(f"{type(pipe).__name__} takes a seed of its own; call it without keyed")
    return KeyedPipeline(pipe, determinism, LoadedWeights.of(pipe.components))


@dataclass(frozen=True, eq=False)
class KeyedPipeline:
    """What `keyed` returns; call it like the pipeline, with `seed=` in place of `generator=`.

    Attributes:
        pipe: the wrapped pipeline.
        determinism: the determinism level of its calls.
    """

    pipe: DiffusionPipeline
    determinism: DeterminismLevel
    _weights: LoadedWeights = field(repr=False)

    def __call__(self, *args: Any, seed: int | Sequence[int] | None = None, **kwargs: Any) -> Any:
        """Make clips, one at a time.

        Args:
            args, kwargs: the pipeline's own. From lists of prompts and rows of embeddings (every argument
                with "prompt" in its name) each clip gets its own entry; all other arguments go to every clip.
            seed: root seed in [0, 2**64), see `seeds.roots_of_clips`; a list has one per clip.

        Returns:
            The pipeline's own output, for all clips, with two extra attributes: `clips`, a list of
            `KeyedClip`, and `seeds`. With return_dict=False, only the pipeline's tuple.

        Raises:
            ValueError, TypeError: a generator was given, an argument is unknown to the pipeline, lists differ
                in length, or a draw cannot be answered from a seed; its file and line are named.
            RuntimeError: something drew unseen from a global generator.
        """
        asked = inspect.signature(self.pipe.__call__).bind(*args, **kwargs).arguments
        asked |= asked.pop("kwargs", {})
        if asked.get("generator") is not None:
            raise ValueError("generator must be left out: keyed draws depend on seed= alone; use seed=0")
        calls = _calls(asked)
        roots = roots_of_clips(seed, len(calls), _videos_of_each(asked))
        made = [self._make(call, root) for call, root in zip(calls, roots, strict=True)]
        outputs = [output for output, _ in made]
        if isinstance(outputs[0], tuple):
            return tuple(_joined(values) for values in zip(*outputs, strict=True))
        output = type(outputs[0])(**{name: _joined([each[name] for each in outputs]) for name in outputs[0]})
        output.clips = [clip for _, clip in made]
        output.seeds = [clip.seed for clip in output.clips]
        return output

    def _make(self, arguments: dict[str, Any], root: int) -> tuple[Any, KeyedClip]:
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                align_weights(part)  # kernels round differently depending on the mapping's address
        setup = setup_of(self.pipe, self.determinism)
        told_arguments = {name: told(value) for name, value in arguments.items()}
        draws = KeyedDraws(root)
        with answered(draws), _nothing_unseen(draws.ledger), determinism_level(self.determinism):
            output = self.pipe(**arguments)
        folders = self._weights.change(self.pipe.components) or weight_folders(self.pipe)
        frames = None if arguments.get("output_type") == "latent" else frames_of(output)
        return output, KeyedClip(root, draws.ledger, frames, told_arguments, setup, folders)


@contextmanager
def _nothing_unseen(ledger: Sequence[LedgerRow]) -> Iterator[None]:
    """Refuse a clip if something drew from a global generator without being intercepted."""
    before = global_states()
    yield
    if moved := moved_since(before):
        seen = counted(len(ledger), "draw") + (f", the last at {ledger[-1].site}" if ledger else "")
        raise RuntimeError(
            f"something drew from, or seeded, the global generator of {' and '.join(moved)} unseen (compiled "
            f"code, another thread), which is no function of the seed; seen were {seen}"
        )


def prompts_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of which each clip of a call has its own: texts, lists of them, rows of embeddings."""
    return {
        name: value
        for name, value in arguments.items()
        if "prompt" in name and isinstance(value, str | list | torch.Tensor)
    }


def _calls(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of one call per clip."""
    rows = {name: value for name, value in prompts_of(asked).items() if not isinstance(value, str)}
    count = max(map(len, rows.values()), default=1)
    if not count or any(len(value) != count for value in rows.values()):
        lengths = ", ".join(f"{name} has {len(value)}" for name, value in rows.items())
        raise ValueError(f"lists of prompts and rows of embeddings must be of one length: {lengths}")
    if count > 1 and isinstance(asked.get("latents"), torch.Tensor):
        raise ValueError("latents must be left out of a call for several clips; call once for each")
    each, one = _videos_of_each(asked), {name: 1 for name in _PER_PROMPT if name in asked}
    own = [{name: _row(value, clip) for name, value in rows.items()} for clip in range(count)]
    return [{**asked, **one, **own[clip // each]} for clip in range(count * each)]


def _videos_of_each(asked: Mapping[str, Any]) -> int:
    """How many clips are asked for per prompt."""
    for name in _PER_PROMPT:
        if (number := asked.get(name)) is not None:
            check_int(name, number, minimum=1)
            return int(number)
    return 1


def _row(values: Any, clip: int) -> Any:
    return values[clip] if isinstance(values[clip], str) else values[clip : clip + 1]


def _joined(values: Sequence[Any]) -> Any:
    """One output field, joined over all clips."""
    if values[0] is None:
        return None
    if isinstance(values[0], torch.Tensor):
        return torch.cat(list(values))
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    if isinstance(values[0], list):
        return [value for part in values for value in part]
    return values[0] if len(values) == 1 else list(values)
