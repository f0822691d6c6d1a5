"""Weights published as a pickle: read without running its code, converted once to safetensors."""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..files import check_reachable, check_space, file_digest, replacing
from ..texts import size_text
from .digests import cache_path, weight_digests, weights_key
from .original import check_tensors

logger = logging.getLogger(__name__)

_WEIGHTS, _RECORD = "weights.safetensors", "converted.json"


class Converted(NamedTuple):
    """A pickle converted to safetensors.

    Attributes:
        path: the safetensors file, in a folder that is named after the pickle's SHA-256, or after the
            `weights_key` of its shards.
        sha256: that file's digest.
        pickle: what it was made from, as `part/name`.
    """

    path: Path
    sha256: str
    pickle: str

    def check(self, *, fresh: bool = False) -> str:
        """The file's SHA-256, if unchanged since it was written; else ValueError."""
        (row,) = weight_digests(self.path.parent, [self.path.name], fresh=fresh)
        if row["sha256"] != self.sha256:
            raise ValueError(f"{self.path} is damaged; delete its folder, and it will be made again")
        return self.sha256


def converted_folder() -> Path:
    """Where converted files are stored: `pyramid_seed/converted` in the cache; raises as `cache_path`."""
    return cache_path().parent / "converted"


def kept_conversions() -> list[Converted]:
    """All conversions in the cache."""
    records = (_recorded(path.parent) for path in sorted(converted_folder().glob(f"*/{_RECORD}")))
    return [each for each in records if each is not None]


def converted(paths: Sequence[Path], model_of: Callable[[str], nn.Module]) -> Converted:
    """The weights in a pickle as safetensors, from the cache or converted now.

    Args:
        paths: the pickle, or its shards, in one folder.
        model_of: called with the part's name before a conversion; returns the model without weights that the
            tensors must fit: none missing, none extra, all finite.

    Raises:
        ValueError: the pickle asks for more than tensors, is damaged or does not fit; the message names it.
        OSError: the safetensors file cannot be written.
    """
    part, where = paths[0].parent, ", ".join(map(str, paths))
    rows = weight_digests(part, [path.name for path in paths])
    folder = converted_folder() / (rows[0]["sha256"] if len(rows) == 1 else weights_key(rows))
    kept = _recorded(folder)
    if kept is not None:
        try:
            kept.check()
            return kept
        except (OSError, ValueError) as error:
            logger.warning("%s; it is made again", error)
    with _writing(where):
        check_reachable(folder)
    loaded = read_pickle(paths[0]) if len(paths) == 1 else _joined(paths)
    state = _checked(loaded, where, model_of(part.name))
    size = sum(tensor.nbytes for tensor in state.values())
    names = ", ".join(path.name for path in paths)
    check_space(folder, size, f"the safetensors copy of {names}", "set XDG_CACHE_HOME to a larger disk")
    with _writing(where), replacing(folder, overwrite=True) as temporary:
        temporary.mkdir()
        save_file(state, temporary / _WEIGHTS, metadata={"format": "pt"})
        if weight_digests(part, [row["file"] for row in rows], fresh=True) != rows:
            raise ValueError(f"{where} changed while it was read; run the same command again")
        sha256 = file_digest(temporary / _WEIGHTS)
        record = {"pickle": f"{part.name}/{names}", "sha256": sha256}
        (temporary / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    # A warning, so that those who have set up no logging see it once.
    logger.warning("%s was converted to safetensors once: %s (%s)", where, folder, size_text(size))
    return Converted(folder / _WEIGHTS, sha256, record["pickle"])


@contextmanager
def _writing(what: str) -> Iterator[None]:
    """Say for which pickle a safetensors copy cannot be written, and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"no safetensors copy of {what} can be made: {error}; set XDG_CACHE_HOME to a writable folder "
            "with enough room"
        ) from error


def read_pickle(path: Path) -> Any:
    """The content of a pickle of tensors, mapped from the file; none of its code is run.

    Raises:
        ValueError: it asks for anything but tensors and containers, or is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it is not a plain pickle of tensors"
        raise ValueError(
            f"{path} is refused, and none of its code was run: {what}, and a pickle that needs more than "
            "tensors can run anything; use a copy in safetensors"
        ) from error
    except Exception as error:  # truncated files and other formats can raise anything
        raise ValueError(
            f"{path} cannot be read as a pickle of tensors ({type(error).__name__}); it is damaged or cut "
            "off, so download it again"
        ) from error


def _joined(paths: Sequence[Path]) -> dict[Any, Any]:
    """The joined content of a pickle's shards; ValueError unless it is tensors by name, each in one shard."""
    joined: dict[Any, Any] = {}
    for path in paths:
        shard = read_pickle(path)
        if not isinstance(shard, Mapping):
            raise ValueError(f"{path} must hold tensors by name, got {type(shard).__name__}")
        if twice := [name for name in shard if name in joined]:
            raise ValueError(f"{path} must hold no tensor that another shard holds, got {twice[0]!r:.80}")
        joined |= shard
    return joined


def _checked(loaded: Any, where: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, possibly nested under a key, that fit a model exactly; ready to be saved."""
    nested = loaded if isinstance(loaded, Mapping) else {}
    candidates = {"the file itself": loaded, **nested}
    states = {
        key: {str(name): tensor for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}
        for key, value in candidates.items()
        if isinstance(value, Mapping)
    }
    expected = model.state_dict().keys()
    fitting = [key for key, tensors in states.items() if tensors.keys() == expected]
    if len(fitting) > 1:  # for example weights and their moving average
        raise ValueError(
            f"{where} holds several sets of weights, {', '.join(map(str, fitting))}; it must hold one"
        )
    state = max(states.values(), key=lambda tensors: len(tensors.keys() & expected), default={})
    check_tensors(model, {name: tuple(tensor.shape) for name, tensor in state.items()}, where)
    odd = [name for name, tensor in state.items() if not _is_plain(tensor)]
    if odd:
        raise ValueError(
            f"{where} must hold finite floating-point numbers in dense tensors, not so in {len(odd)}: "
            f"{odd[0]}"
        )
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    # safetensors refuses tensors that share memory, or are not contiguous.
    return {
        name: tensor.detach()
        if tensor.is_contiguous() and storages[tensor.untyped_storage().data_ptr()] == 1
        else tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def _is_plain(tensor: torch.Tensor) -> bool:
    is_dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    return is_dense and tensor.is_floating_point() and bool(torch.isfinite(tensor).all())


def _recorded(folder: Path) -> Converted | None:
    """The conversion in a folder; None if there is none, or the content is not ours."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        converted = Converted(folder / _WEIGHTS, str(record["sha256"]), str(record["pickle"]))
        return converted if converted.path.is_file() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
