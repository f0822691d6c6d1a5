"""Hooks that users put on models: those that a manifest could not record are refused."""

from __future__ import annotations

from torch import nn

from ..private_apis import diffusers_hooks, has_offload_hook

# They move weights, or keep them in fewer bits, which `LoadedWeights` sees.
_KNOWN = {
    "group_offloading",
    "lazy_prefetch_group_offloading",
    "layer_execution_tracker",
    "layerwise_casting",
    "peft_autocast_disable",
}
OFFLOADED_TO_DISK = (
    "offload_to_disk_path must be left out: diffusers then empties weights that two layers share, gives two "
    "models one file, and reads files of an earlier model, so that another clip is made; group offload to "
    "the CPU makes the same one"
)


def has_hooks(model: nn.Module) -> bool:
    """Whether hooks of accelerate or diffusers act on a model: they move its weights, or skip its work."""
    return any(has_offload_hook(module) or diffusers_hooks(module) for module in model.modules())


def check_hooks(name: str, model: nn.Module, *, has_cache: bool = False) -> None:
    """Refuse a model with hooks that change the clip and that no manifest could record.

    Args:
        name: the component's name.
        model: with any hooks on it.
        has_cache: whether `enable_cache` put a step cache on it, which the manifest records.

    Raises:
        ValueError: weights were moved to a disk, or a hook is not for offloading.
    """
    for module in model.modules():
        for hook_name, hook in diffusers_hooks(module).items():
            if getattr(getattr(hook, "group", None), "offload_to_disk_path", None) is not None:
                raise ValueError(f"{name}: {OFFLOADED_TO_DISK}")
            if hook_name not in _KNOWN and not has_cache:
                raise ValueError(
                    f"{name} has a hook of diffusers that changes what it computes, {hook_name}, and no "
                    "manifest would say so; turn step caches on with transformer.enable_cache(config)"
                )
