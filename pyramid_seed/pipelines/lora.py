"""LoRA on a pipeline, with the methods that users of diffusers know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin

from ..models.lora import LoraInUse, find_lora, has_adapters, lora_prefix
from ..private_apis import lora_options


class LoraLoaderMixin(LoraBaseMixin):
    """`load_lora_weights`, `set_adapters`, `fuse_lora`, `unload_lora_weights`, of the transformer."""

    _lora_loadable_modules = ["transformer"]  # noqa: RUF012
    transformer: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA into the transformer; needs peft.

        Its file is remembered and named in the manifest of a clip; tensors without a file are unknown there.

        Args:
            pretrained_model_name_or_path_or_dict: .safetensors, a folder or hub id that holds it, or tensors.
                Names may begin with "transformer.", as a pipeline of diffusers saves them.
            adapter_name: a name for it, as `set_adapters` takes it.
            kwargs: weight_name, subfolder, revision, cache_dir, token, local_files_only, as in diffusers.

        Raises:
            ValueError: it is of another model, or no .safetensors.
            FileNotFoundError, OSError: it cannot be found.
        """
        source, names = find_lora(pretrained_model_name_or_path_or_dict, kwargs)
        options = lora_options(self) | kwargs
        self.transformer.load_lora_adapter(
            source, prefix=lora_prefix(names), adapter_name=adapter_name, **options
        )

    def fuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Add the active LoRAs to the weights, see diffusers; components: only "transformer"."""
        super().fuse_lora(["transformer"] if components is None else components, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Subtract them again: but for rounding, so that a clip made then cannot name its weights."""
        super().unfuse_lora(["transformer"] if components is None else components, **kwargs)

    def loras_in_use(self) -> tuple[LoraInUse, ...] | None:
        """The LoRAs that act; None if that cannot be known, see `LoraMixin.loras_in_use`."""
        for name, part in self.components.items():
            if name != "transformer" and isinstance(part, torch.nn.Module) and has_adapters(part):
                return None
        return self.transformer.loras_in_use()
