"""Hooks of diffusers that somebody put on a model: those of which a manifest could not tell are refused."""

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
    """Refuse a model with hooks that make another clip and that no manifest could tell of.

    Args:
        name: of the component.
        model: with the hooks that it may have.
        has_cache: whether a step cache was put on it by `enable_cache`, which is told.

    Raises:
        ValueError: weights were moved to a disk, or a hook is none of offloading.
    """
    for module in model.modules():
        for hook_name, hook in diffusers_hooks(module).items():
            if getattr(getattr(hook, "group", None), "offload_to_disk_path", None) is not None:
                raise ValueError(f"{name}: {OFFLOADED_TO_DISK}")
            if hook_name not in _KNOWN and not has_cache:
                raise ValueError(
                    f"{name} has a hook of diffusers that changes what it computes, {hook_name}, and no "
                    "manifest would say so; put step caches on with transformer.enable_cache(config)"
                )
