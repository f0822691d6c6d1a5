"""All that this package uses of torch, diffusers, accelerate and transformers though it is private there.

Each function says what breaks if its private name goes; tests/test_private_apis.py notices that. What
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

    Private, because the public `torch.backends.mkldnn.fp32_precision` writes the setting of all backends
    (torch 2.13). Without it, the level strict cannot hold oneDNN apart from CUDA to full float32.
    """
    return torch._C._get_fp32_precision_getter(backend, op)


def set_fp32_precision(backend: str, op: str, precision: str) -> None:
    """Set what `fp32_precision` reads: "ieee", "tf32", "bf16" or "none"."""
    torch._C._set_fp32_precision_setter(backend, op, precision)


def is_attention_dispatcher_loaded() -> bool:
    """Whether diffusers' attention dispatcher has been imported; before that nothing can use a backend."""
    return _dispatcher() is not None


def active_attention_backend() -> str:
    """Name of diffusers' attention backend for models that choose none; "native" is torch's own.

    diffusers has no public way to read it. Without it, the level strict cannot put it back, and a manifest
    cannot say which kernels ran.
    """
    if (dispatcher := _dispatcher()) is None:
        return os.environ.get("DIFFUSERS_ATTN_BACKEND", "native")
    return dispatcher.AttentionBackendName(dispatcher._AttentionBackendRegistry._active_backend).value


def set_active_attention_backend(name: str) -> None:
    """Set what `active_attention_backend` reads, for as long as nobody sets another one."""
    dispatcher = _dispatcher()
    dispatcher._AttentionBackendRegistry.set_active_backend(dispatcher.AttentionBackendName(name))


def _dispatcher() -> Any:
    return sys.modules.get("diffusers.models.attention_dispatch")


def has_bfloat16_kernels() -> bool:
    """Whether oneDNN computes in bfloat16 on this machine's CPU.

    torch has no public way to ask. Without it, nobody knows that torch's own kernels would be taken, which
    are many times slower than those of float32.
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear` in float32 on the CPU, through oneDNN instead of MKL.

    What compiled code calls as well. Without it, steps on AMD CPUs take about twice as long.
    """
    # It could apply an activation afterwards: none, no arguments, no algorithm.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def is_compiled(module: nn.Module) -> bool:
    """Whether a call of the module itself runs through `torch.compile`: `Module.compile`, or wrapped in one.

    Without it, a manifest cannot say whether a clip was made by compiled code.
    """
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # nothing is wrapped before it has been imported
    is_wrapped = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    return is_wrapped or module._compiled_call_impl is not None


def num_writes(parameter: torch.Tensor) -> int:
    """How often autograd has seen a tensor written to; 0 for inference tensors, which do not count.

    Without it, texts would be remembered though their encoder's weights have changed.
    """
    return 0 if parameter.is_inference() else parameter._version


def attention_implementation(config: Any) -> str | None:
    """Which attention a model of transformers runs, such as "sdpa", by its config; None if it says none.

    Without it, texts would be remembered though their encoder computes otherwise now.
    """
    return getattr(config, "_attn_implementation", None)


def has_offload_hook(module: nn.Module) -> bool:
    """Whether accelerate moves the module's weights, as model and sequential offload do.

    Without it, decoding would begin between units, where the hooks move transformer and VAE each time.
    """
    return hasattr(module, "_hf_hook")


def diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    """The hooks of diffusers on a module itself, by name, as group offload and step caches put them there.

    Without it, decoding would take a CUDA stream of its own beside that of the hooks, and a step cache that
    was not put on by `enable_cache` would make another clip without the manifest saying so.
    """
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else dict(registry.hooks)


def register_transformer_block(block: type[nn.Module]) -> None:
    """Tell diffusers' step caches that of a block's outputs the text's tokens are first, the video's second.

    They look blocks up by their class. Without it, `enable_cache` refuses transformers with blocks of ours.
    """
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    metadata = TransformerBlockMetadata(return_hidden_states_index=1, return_encoder_hidden_states_index=0)
    TransformerBlockRegistry.register(block, metadata)


@contextmanager
def without_group_offload(module: nn.Module) -> Iterator[None]:
    """Take diffusers' group offload off a module inside this `with`, and put it on again as it was.

    Its hooks hold the `forward` of every layer. Without it, layers that get another class under them would go
    on as before: a clip with a LoRA would have other last bits with group offload than without.
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
    """What `load_lora_adapter` of a model is to be told of the pipeline that the model is part of.

    diffusers takes the pipeline's offload hooks off while it loads, and puts them back. Without it, a LoRA
    cannot be loaded into a pipeline with model or sequential offload.
    """
    return {"_pipeline": pipeline}
