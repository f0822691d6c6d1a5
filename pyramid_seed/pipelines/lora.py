"""LoRA on a pipeline, with the methods that diffusers users know."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from safetensors import safe_open
from safetensors.torch import load_file

from ..models.lora import LORA_NAME, LoraInUse, LoraMixin, find_lora, has_adapters, lora_config, lora_prefix
from ..private_apis import lora_options


class LoraLoaderMixin(LoraBaseMixin):
    """`load_lora_weights`, `save_lora_weights`, `set_adapters`, `fuse_lora` ... for the transformer."""

    _lora_loadable_modules = ["transformer"]  # noqa: RUF012
    transformer_name = "transformer"
    transformer: Any

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        return_alphas: bool = False,
        *,
        return_lora_metadata: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The tensors of a LoRA under the names in its file, on the CPU.

        Args:
            pretrained_model_name_or_path_or_dict: see `load_lora_weights`; or tensors.
            return_alphas: return the tensors named "alpha" separately; otherwise they stay among the others.
            return_lora_metadata: return the peft config that `save_lora_weights` wrote into the file, by
                names that begin with "transformer."; None if there is none.
            kwargs: weight_name, subfolder, revision, cache_dir, token, local_files_only, as in diffusers.

        Returns:
            The tensors; or, as in diffusers, a tuple of them and what else was requested, alphas first.

        Raises:
            ValueError: it is not a .safetensors file. FileNotFoundError, OSError: it cannot be found.
        """
        source, _ = find_lora(pretrained_model_name_or_path_or_dict, kwargs)
        if kwargs:
            raise TypeError(f"lora_state_dict takes no {', '.join(sorted(kwargs))}")
        metadata = None
        if isinstance(source, Path):
            with safe_open(source, framework="pt") as file:
                metadata = lora_config(file.metadata(), source)
        tensors = dict(source) if isinstance(source, dict) else load_file(source)
        if not return_alphas:
            return (tensors, metadata) if return_lora_metadata else tensors
        alphas = {name: tensors.pop(name) for name in list(tensors) if name.endswith("alpha")}
        return (tensors, alphas, metadata) if return_lora_metadata else (tensors, alphas)

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike[str],
        transformer_lora_layers: Mapping[str, torch.nn.Module | torch.Tensor] | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[..., Any] | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a LoRA of the transformer, with names that begin with "transformer.", as trainers do.

        Args:
            save_directory: the folder, made if it is missing.
            transformer_lora_layers: its tensors, from `peft.utils.get_peft_model_state_dict(transformer)`.
            is_main_process: False writes nothing, so that only one of several processes writes.
            weight_name: default: pytorch_lora_weights.safetensors.
            save_function: called as (tensors, path) in place of safetensors.
            safe_serialization: must be True: pickles are not read back.
            transformer_lora_adapter_metadata: `transformer.peft_config[adapter].to_dict()`; it is needed to
                load a LoRA whose alpha is not its rank.

        Raises:
            ValueError: there are no tensors, or a pickle is requested. FileExistsError: the folder is a file.
        """
        if not transformer_lora_layers:
            raise ValueError(
                "transformer_lora_layers must hold the tensors of a LoRA, got none; use "
                "peft.utils.get_peft_model_state_dict(pipeline.transformer)"
            )
        if not safe_serialization:
            raise ValueError("safe_serialization must be True: a LoRA in a pickle is not read; leave it out")
        if Path(save_directory).is_file():
            raise FileExistsError(f"{save_directory} must be a folder, it is a file")
        if not is_main_process:
            return
        metadata = transformer_lora_adapter_metadata or {}
        cls.write_lora_layers(
            state_dict=cls.pack_weights(transformer_lora_layers, cls.transformer_name),
            save_directory=str(save_directory),
            is_main_process=is_main_process,
            weight_name=weight_name or LORA_NAME,
            save_function=save_function,
            safe_serialization=True,
            lora_adapter_metadata={
                f"{cls.transformer_name}.{name}": list(value) if isinstance(value, set) else value
                for name, value in metadata.items()
            },
        )

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA into the transformer; needs peft.

        Its file is remembered and named in the manifest of a clip; tensors without a file are unknown there.

        Args:
            pretrained_model_name_or_path_or_dict: .safetensors, a folder or hub id that holds it, or tensors.
                Names may begin with "transformer.", as a pipeline of diffusers saves them.
            adapter_name: a name for it, as in `set_adapters`.
            hotswap: replace the LoRA of this name, for the same layers, at scale 1. Compiled code is kept if
                ranks and alphas are equal, or if `enable_lora_hotswap(target_rank=...)` was called before the
                first one was loaded.
            kwargs: weight_name, subfolder, revision, cache_dir, token, local_files_only, as in diffusers.

        Raises:
            ValueError: it belongs to another model, or is not a .safetensors file.
            FileNotFoundError, OSError: it cannot be found.
        """
        source, names = find_lora(pretrained_model_name_or_path_or_dict, kwargs)
        options = lora_options(self) | kwargs
        self.transformer.load_lora_adapter(
            source, prefix=lora_prefix(names), adapter_name=adapter_name, hotswap=hotswap, **options
        )

    def fuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Add the active LoRAs to the weights, as in diffusers; components: only "transformer"."""
        super().fuse_lora(["transformer"] if components is None else components, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Subtract them again, up to rounding: a clip made afterwards cannot name its weights."""
        super().unfuse_lora(["transformer"] if components is None else components, **kwargs)

    def loras_in_use(self) -> tuple[LoraInUse, ...] | None:
        """The active LoRAs; None if they cannot be known, see `LoraMixin.loras_in_use`."""
        for part in self.components.values():
            if isinstance(part, torch.nn.Module) and not isinstance(part, LoraMixin) and has_adapters(part):
                return None
        return self.transformer.loras_in_use() if isinstance(self.transformer, LoraMixin) else ()
