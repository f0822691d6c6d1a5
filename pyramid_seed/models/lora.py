"""LoRA on a transformer: diffusers' methods, and which files are active, so that a clip can name them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import huggingface_hub
import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..files import file_digest
from ..private_apis import without_group_offload
from ..texts import parse_json
from .onednn_linear import use_onednn

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shapes of a LoRA's tensors, by name."""

_FIRST, _SECOND = ("_A", "_down", ".down"), ("_B", "_up", ".up")  # matrices, behind ".lora"
_FLOATS = ("F16", "BF16", "F32", "F64")

LORA_NAME = "pytorch_lora_weights.safetensors"
"""diffusers' name for the file of a LoRA."""


@dataclass(frozen=True)
class LoraInUse:
    """A LoRA that is active in a transformer.

    Attributes:
        adapter: its name there.
        file: name of the file it was read from, without the folder.
        size, sha256: those of that file.
        scale: factor on what it adds; 1.0 is as trained.
        fused: whether it was added to the weights instead of running beside them.
        padded_rank: the rank to which `enable_lora_hotswap`, or the LoRA before it, padded its matrices with
            zeros, which can change the last bits; None: as in the file.
    """

    adapter: str
    file: str
    size: int
    sha256: str
    scale: float = 1.0
    fused: bool = False
    padded_rank: int | None = None

    def row(self) -> dict[str, Any]:
        """The row for a manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class LoraMixin(PeftAdapterMixin):
    """diffusers' methods for LoRA; they remember which files were read and what was fused."""

    _lora_files: Mapping[str, tuple[object, LoraInUse]] = {}
    """By adapter: its config, which distinguishes it from others of the same name; and its file."""
    _fused_loras: tuple[LoraInUse, ...] | None = ()
    """The LoRAs added to the weights; None if these were changed in a way that no file describes."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA, as diffusers does, but only from safetensors, and remember its file.

        Args:
            pretrained_model_name_or_path_or_dict: see `find_lora_file`; or tensors, without a file.
            prefix: of the names in it; None takes the names unchanged.
            hotswap, kwargs: as in diffusers.

        Raises:
            ValueError: none of its names is one of this model's, or some are not; half a layer is missing or
                has another size; or it is to be swapped in and acts on more layers than the one it replaces.
            FileNotFoundError, OSError: it cannot be found.
        """
        source, shapes = find_lora(pretrained_model_name_or_path_or_dict, kwargs)
        _check_fits(shapes, prefix, self)
        file = None if isinstance(source, dict) else source
        if file is not None:
            kwargs["weight_name"] = file.name
        given = source if file is None else str(file)
        ranks = _ranks(source, prefix) if hotswap else {}
        self._check_layers(kwargs.get("adapter_name"), ranks)
        try:
            super().load_lora_adapter(given, prefix=prefix, hotswap=hotswap, **kwargs)
        except (torch.OutOfMemoryError, OSError, ValueError):
            raise
        except Exception as error:  # from diffusers and peft, about the metadata of the file
            raise ValueError(
                f"the LoRA {given if file else 'in memory'} cannot be loaded: {error}"
            ) from error
        with without_group_offload(self):
            use_onednn(self)
        adapter = kwargs.get("adapter_name") or list(self.peft_config)[-1]
        if hotswap:
            self._take_ranks(adapter, ranks)
        files = {name: entry for name, entry in self._lora_files.items() if name != adapter}
        if file is not None:
            files[adapter] = (self.peft_config[adapter], lora_of_file(adapter, file))
        self._lora_files = files

    def _check_layers(self, adapter: str | None, ranks: Mapping[str, int]) -> None:
        """Refuse to swap in a LoRA for more layers: diffusers would remove the current one."""
        there = {name for name, layer in self.named_modules() if adapter in getattr(layer, "r", {})}
        if there and (more := sorted(ranks.keys() - there)):
            raise ValueError(
                f"a LoRA that is swapped in must act on layers of {adapter!r} alone, it also acts on "
                f"{', '.join(more[:3])}; unload {adapter!r} and load it without hotswap"
            )

    def _take_ranks(self, adapter: str, ranks: Mapping[str, int]) -> None:
        """Set ranks and alphas of a LoRA that was swapped in: peft would keep scaling by the old ones."""
        for name, layer in self.named_modules():
            if not hasattr(layer, "base_layer") or adapter not in layer.r:
                continue
            rank = ranks.get(name, layer.r[adapter])
            divisor = math.sqrt(rank) if layer.use_rslora.get(adapter, False) else rank
            if name in ranks:
                alpha = round(_factor(layer, adapter) * divisor, 6)
                layer.r[adapter], layer.lora_alpha[adapter] = rank, alpha
            elif isinstance(layer.scaling[adapter], torch.Tensor):  # now it adds zeros, at scale 1
                layer.scaling[adapter].fill_(layer.lora_alpha[adapter] / divisor)
            else:
                layer.scaling[adapter] = layer.lora_alpha[adapter] / divisor

    def fuse_lora(
        self, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: list[str] | None = None
    ) -> None:
        """Add the active LoRAs to the weights, as diffusers does."""
        is_first = self._fused_loras == () and not any(layer.merged for layer in self._lora_layers())
        super().fuse_lora(lora_scale, safe_fusing, adapter_names)
        acting = self._acting_loras(merged=True) if is_first else None
        self._fused_loras = acting and tuple(replace(lora, fused=True) for lora in acting)

    def unload_lora(self) -> None:
        """Remove the LoRAs, as diffusers does; fused ones stay in the weights."""
        if self._fused_loras:
            self._fused_loras = self.loras_in_use()
        super().unload_lora()

    def loras_in_use(self) -> tuple[LoraInUse, ...] | None:
        """The LoRAs that act on the output, in the order in which they are added.

        Returns:
            None if they cannot be known: an adapter was not read from a file, or scales by block; some
            adapters are fused and others not; or `unfuse_lora` left the weights rounded.
        """
        if self._fused_loras is None:
            return None
        if not self._fused_loras:
            return self._acting_loras(merged=False)
        layers = self._lora_layers()
        is_whole = all(layer.merged and not layer.disable_adapters for layer in layers)
        return self._fused_loras if is_whole else None

    def _lora_layers(self) -> list[Any]:
        return [module for module in self.modules() if hasattr(module, "base_layer")]

    def _acting_loras(self, *, merged: bool) -> tuple[LoraInUse, ...] | None:
        """The LoRAs added beside the weights, or those merged into them; None if some are unknown."""
        layers = self._lora_layers()
        # Those merged into the weights act even when disabled.
        if not any(layer.merged or not layer.disable_adapters for layer in layers):
            return ()
        if not all(_is_of_kind(layer, merged=merged) for layer in layers):
            return None
        rows = [_acting_scales(layer, merged=merged) for layer in layers]
        # Each once, in the order of the longest rows.
        adapters = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
        for layer, row in zip(layers, rows, strict=True):
            if list(row) != [name for name in adapters if name in layer.r]:
                return None
        adapted = (self._lora_at_scale(name, {row[name] for row in rows if name in row}) for name in adapters)
        loras = tuple(lora for lora in adapted if lora is not None)
        return loras if len(loras) == len(adapters) else None

    def _lora_at_scale(self, adapter: str, scales: Collection[float | None]) -> LoraInUse | None:
        """An adapter's LoRA at its only scale; None if its file is unknown, or it has not one scale."""
        config, lora = self._lora_files.get(adapter, (None, None))
        (scale,) = scales if len(scales) == 1 else (None,)
        if lora is None or config is not self.peft_config.get(adapter) or scale is None:
            return None
        layers = [layer for layer in self._lora_layers() if adapter in layer.r]
        padded = {rank for layer in layers if (rank := _rank_here(layer, adapter)) != layer.r[adapter]}
        return replace(lora, scale=scale, padded_rank=max(padded, default=None))


def _is_of_kind(layer: Any, *, merged: bool) -> bool:
    """Whether a layer is an enabled LoRA layer, with its adapters merged or not."""
    return hasattr(layer, "lora_alpha") and not layer.disable_adapters and bool(layer.merged) == merged


def _acting_scales(layer: Any, *, merged: bool) -> dict[str, float | None]:
    """The scale of each active adapter of a layer, in the order in which they are added."""
    names = layer.merged_adapters if merged else layer.active_adapters
    return {name: _scale_of(layer, name) for name in names if name in layer.r}


def has_adapters(module: torch.nn.Module) -> bool:
    """Whether peft has put adapters into a module."""
    return any(hasattr(layer, "base_layer") for layer in module.modules())


def find_lora_file(source: str | Path, weight_name: str | None = None, **hub_options: Any) -> Path:
    """The .safetensors file of a LoRA on this machine.

    Args:
        source: the file; or a folder or hub id that holds it.
        weight_name: its name in there; default: the only .safetensors in a folder, or diffusers' name.
        hub_options: subfolder; and for a hub id: revision, cache_dir, token, local_files_only.

    Raises:
        ValueError: it is not a .safetensors file, or a folder holds several and none is named.
        FileNotFoundError: the file does not exist. OSError: the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / hub_options.get("subfolder", "")
        if weight_name is None:
            files = sorted(file.name for file in path.glob("*.safetensors"))
            if len(files) > 1 and LORA_NAME not in files:
                raise ValueError(f"{path} holds {', '.join(files)}; choose one with weight_name")
            weight_name = files[0] if len(files) == 1 else LORA_NAME
        path = path / weight_name
    elif not path.is_file() and isinstance(source, str) and str(source).count("/") == 1 and not path.suffix:
        path = Path(huggingface_hub.hf_hub_download(source, weight_name or LORA_NAME, **hub_options))
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix != ".safetensors":
        raise ValueError(f"a LoRA must be a .safetensors, got {path.name}")
    return path


def find_lora(
    source: str | Path | dict[str, torch.Tensor], options: dict[str, Any]
) -> tuple[Path | dict[str, torch.Tensor], Shapes]:
    """The file of a LoRA, or its tensors, and their shapes; raises as `find_lora_file` and `lora_shapes`.

    Args:
        source: see `find_lora_file`; or tensors, without a file.
        options: the loader's; those that say where the file is are removed from them.
    """
    if isinstance(source, dict):
        return source, {name: tuple(values.shape) for name, values in source.items()}
    where = ("weight_name", "subfolder", "revision", "cache_dir", "token", "local_files_only")
    file = find_lora_file(source, **{name: options.pop(name) for name in where if name in options})
    return file, lora_shapes(file)


def lora_shapes(file: Path) -> Shapes:
    """Shapes of the tensors in a LoRA's file, by name; nothing else is read.

    Raises:
        ValueError: it is not a safetensors file, its numbers cannot be weights, or its metadata is not JSON.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            rows = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
            lora_config(tensors.metadata(), file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable .safetensors: {error}") from error
    for name, row in rows.items():
        if (dtype := row.get_dtype()) not in _FLOATS:
            raise ValueError(f"the tensors of a LoRA must be of {', '.join(_FLOATS)}, {name} is of {dtype}")
    return {name: tuple(row.get_shape()) for name, row in rows.items()}


def lora_config(metadata: Mapping[str, str] | None, file: Path) -> dict[str, Any] | None:
    """The peft config in the metadata of a LoRA's file, None without one; ValueError if not a JSON object."""
    if (text := (metadata or {}).get(LORA_ADAPTER_METADATA_KEY)) is None:
        return None
    try:
        config = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{file} must give its {LORA_ADAPTER_METADATA_KEY} as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must give its {LORA_ADAPTER_METADATA_KEY} as an object, got {config!r:.60}")
    return config


def check_lora(source: str | Path) -> Path:
    """The file of a LoRA, see `find_lora_file`, after a check that its names are a LoRA's.

    Raises:
        ValueError: it is not a safetensors file, or holds other weights, or half a layer.
        FileNotFoundError, OSError: it cannot be found.
    """
    file = find_lora_file(source)
    shapes = lora_shapes(file)
    others = [name for name in shapes if ".lora" not in name]
    if others:
        raise ValueError(f"{file} is not a LoRA: it holds {min(others)}")
    _check_pairs(shapes)
    return file


def check_lora_fits(file: Path, model: torch.nn.Module) -> None:
    """Refuse a LoRA with tensors for layers that a model does not have: ValueError, which names them."""
    shapes = lora_shapes(file)
    _check_fits(shapes, lora_prefix(shapes), model)


def lora_prefix(names: Collection[str]) -> str | None:
    """The prefix "transformer" if names begin with it, as diffusers pipelines save them; else None."""
    return "transformer" if any(name.startswith("transformer.") for name in names) else None


def _check_fits(shapes: Shapes, prefix: str | None, model: torch.nn.Module) -> None:
    """Refuse what diffusers would leave out with only a warning, or load and then fail on."""
    start = "" if prefix is None else f"{prefix}."
    own = {name.removeprefix(start): shape for name, shape in shapes.items() if name.startswith(start)}
    if not own:
        raise ValueError(
            f"no tensor of the LoRA has a name that begins with {start!r}, e.g. {min(shapes, default='')!r}"
        )
    layers = {name: getattr(layer, "base_layer", layer) for name, layer in model.named_modules()}
    strange = [name for name in shapes if not name.startswith(start)]
    for name in own:
        layer, is_lora, matrix = name.partition(".lora")
        has_weights = hasattr(layers.get(layer), "in_features")
        if not (is_lora and has_weights and matrix.startswith((*_FIRST, *_SECOND, "_magnitude_vector"))):
            strange.append(name)
    if strange:
        raise ValueError(
            f"the LoRA is for another model: this one has no {', '.join(sorted(strange)[:3])}"
            + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        )
    _check_pairs(shapes)
    for name, shape in own.items():
        layer, _, matrix = name.partition(".lora")
        if name.endswith(".weight") and not matrix.startswith("_magnitude_vector"):
            _check_shape(name, shape, layers[layer], is_first=matrix.startswith(_FIRST))


def _check_shape(name: str, shape: tuple[int, ...], layer: Any, *, is_first: bool) -> None:
    """The first matrix of a layer is (rank, in), the second (out, rank)."""
    width = layer.in_features if is_first else layer.out_features
    if len(shape) != 2 or shape[int(is_first)] != width or 0 in shape:
        wanted = f"(rank, {width})" if is_first else f"({width}, rank)"
        raise ValueError(f"the LoRA is for another model: {name} must have shape {wanted} here, got {shape}")


def _check_pairs(shapes: Shapes) -> None:
    """Refuse half a LoRA: for each layer it holds a product of two matrices of the same rank."""
    for here, there in [*zip(_FIRST, _SECOND, strict=True), *zip(_SECOND, _FIRST, strict=True)]:
        for name, shape in shapes.items():
            before, is_here, after = name.partition(f".lora{here}.")
            if not is_here or after == "bias":
                continue
            if (partner := f"{before}.lora{there}.{after}") not in shapes:
                raise ValueError(f"a LoRA must hold both matrices of a layer, but {name} has no {partner}")
            if here in _FIRST and shape[:1] != shapes[partner][1:2]:
                raise ValueError(
                    f"both matrices of a layer must have one rank, {name} has shape {shape} and {partner} "
                    f"{shapes[partner]}"
                )


def lora_of_file(adapter: str, file: Path) -> LoraInUse:
    """A LoRA as read from a file, at scale 1."""
    return LoraInUse(adapter, file.name, file.stat().st_size, file_digest(file))


def _scale_of(layer: Any, adapter: str) -> float | None:
    """The scale from which `set_adapters` makes the layer's factor, bit for bit; None if there is none."""
    alpha, rank, factor = layer.lora_alpha[adapter], layer.r[adapter], _factor(layer, adapter)
    divisor = math.sqrt(rank) if layer.use_rslora.get(adapter, False) else rank
    if alpha == 0:
        return None
    exact = factor * divisor / alpha
    # `enable_lora_hotswap` keeps factors in float32 tensors.
    is_narrow = isinstance(layer.scaling[adapter], torch.Tensor)
    for scale in (round(exact, 6 if is_narrow else 9), exact):
        made = scale * alpha / divisor
        if (torch.tensor(made, dtype=torch.float32).item() if is_narrow else made) == factor:
            return scale
    return None


def _factor(layer: Any, adapter: str) -> float:
    """The factor on an adapter's product in a layer: alpha over rank, times the scale."""
    return float(layer.scaling[adapter])


def _rank_here(layer: Any, adapter: str) -> int:
    """The rank of an adapter's matrices in memory."""
    return int(layer.lora_A[adapter].weight.shape[0])


def _ranks(source: Path | Mapping[str, torch.Tensor], prefix: str | None) -> dict[str, int]:
    """The rank of each layer in a LoRA with diffusers' or peft's names, by the layer's name."""
    start = "" if prefix is None else f"{prefix}."
    tensors = load_file(source) if isinstance(source, Path) else source
    rows = ((name.removeprefix(start), tensor) for name, tensor in tensors.items())
    first = tuple(f".lora{matrix}." for matrix in _FIRST)
    return {name.split(".lora")[0]: tensor.shape[0] for name, tensor in rows if any(x in name for x in first)}
