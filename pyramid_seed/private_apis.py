"""Everything private in torch, diffusers, accelerate and transformers that this package uses.

Each function says what breaks if its private name disappears; tests/test_private_apis.py notices that. What
diffusers asks of subclasses (`_execution_device`, `_keep_in_fp32_modules`, `_no_split_modules` and the like)
is its convention and stays where it is used. diffusers is imported only where it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def fp32_precision(backend: str, op: str) -> str:
    """How float32 is computed by `op` of `backend` ("all": whatever inherits from the backend).

    Private because the public `torch.backends.mkldnn.fp32_precision` writes the setting of all backends
    (torch 2.13). Without it, level strict cannot hold oneDNN, separately from CUDA, to full float32.
    """
    return torch._C._get_fp32_precision_getter(backend, op)


def set_fp32_precision(backend: str, op: str, precision: str) -> None:
    """Set what `fp32_precision` reads: "ieee", "tf32", "bf16" or "none"."""
    torch._C._set_fp32_precision_setter(backend, op, precision)


def is_attention_dispatcher_loaded() -> bool:
    """Whether diffusers' attention dispatcher has been imported; before that, no backend can be in use."""
    return _dispatcher() is not None


def active_attention_backend() -> str:
    """Name of the diffusers attention backend for models that choose none; "native" is torch's own.

    diffusers has no public way to read it. Without it, level strict cannot restore it, and a manifest cannot
    say which kernels ran.
    """
    if (dispatcher := _dispatcher()) is None:
        return os.environ.get("DIFFUSERS_ATTN_BACKEND", "native")
    return dispatcher.AttentionBackendName(dispatcher._AttentionBackendRegistry._active_backend).value


def set_active_attention_backend(name: str) -> None:
    """Set what `active_attention_backend` reads, until another one is set."""
    dispatcher = _dispatcher()
    dispatcher._AttentionBackendRegistry.set_active_backend(dispatcher.AttentionBackendName(name))


def _dispatcher() -> Any:
    return sys.modules.get("diffusers.models.attention_dispatch")


def has_bfloat16_kernels() -> bool:
    """Whether oneDNN computes in bfloat16 on this machine's CPU.

    torch has no public way to ask. Without it, we would not know that torch will use its own kernels,
    which are many times slower than those for float32.
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear` in float32 on the CPU, through oneDNN instead of MKL.

    Compiled code calls it too. Without it, steps on AMD CPUs take about twice as long.
    """
    # It could also apply an activation: here none, without arguments or algorithm.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def is_compiled(module: nn.Module) -> bool:
    """Whether calling the module runs through `torch.compile`: by `Module.compile`, or as a wrapper.

    Without it, a manifest cannot say whether compiled code made a clip.
    """
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # nothing is wrapped before its import
    is_wrapped = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    return is_wrapped or module._compiled_call_impl is not None


def num_writes(parameter: torch.Tensor) -> int:
    """How often autograd has seen a tensor written to; 0 for inference tensors, which do not count.

    Without it, texts would be remembered even after their encoder's weights have changed, and a manifest
    would name files that no longer hold the weights.
    """
    return 0 if parameter.is_inference() else parameter._version


def attention_implementation(config: Any) -> str | None:
    """The attention that a transformers model runs, such as "sdpa", by its config; None if it names none.

    Without it, texts would be remembered even after their encoder computes differently.
    """
    return getattr(config, "_attn_implementation", None)


def has_offload_hook(module: nn.Module) -> bool:
    """Whether accelerate moves the module's weights, as model and sequential offload do.

    Without it, decoding would run between units, for which the hooks move transformer and VAE each time.
    """
    return hasattr(module, "_hf_hook")


def diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    """diffusers' hooks on a module itself, by name, as group offload and step caches attach them.

    Without it, decoding would use its own CUDA stream beside that of the hooks, and a step cache that was not
    attached by `enable_cache` would change the clip without the manifest saying so.
    """
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else dict(registry.hooks)


def register_transformer_block(block: type[nn.Module]) -> None:
    """Tell diffusers' step caches that a block returns the text's tokens first, the video's second.

    They look blocks up by class. Without it, `enable_cache` refuses transformers with our blocks.
    """
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    metadata = TransformerBlockMetadata(return_hidden_states_index=1, return_encoder_hidden_states_index=0)
    TransformerBlockRegistry.register(block, metadata)


@contextmanager
def without_group_offload(module: nn.Module) -> Iterator[None]:
    """Remove diffusers' group offload from a module inside this `with`, and then restore it.

    Its hooks hold the `forward` of every layer. Without it, layers whose class is replaced would run as
    before: a clip with a LoRA would have other last bits with group offload than without.
    """
    from diffusers.hooks import group_offloading as offload

    hook = offload._get_top_level_group_offload_hook(module)
    if hook is not None:
        registry = offload.HookRegistry.check_if_exists_or_initialize(module)
        for name in (
            offload._GROUP_OFFLOADING,
            offload._LAYER_EXECUTION_TRACKER,
            offload._LAZY_PREFETCH_GROUP_OFFLOADING,
        ):
            registry.remove_hook(name, recurse=True)
    yield
    if hook is not None:
        offload._apply_group_offloading(module, hook.config)


def lora_options(pipeline: Any) -> dict[str, Any]:
    """What a model's `load_lora_adapter` must know about the pipeline that the model is part of.

    diffusers removes the pipeline's offload hooks while it loads, and restores them. Without it, a LoRA
    cannot be loaded into a pipeline with model or sequential offload.
    """
    return {"_pipeline": pipeline}
