"""The models: transformers of both families, the causal video autoencoder, and the loading of checkpoints.

The public names are imported when they are first used, so that `import pyramid_seed.models` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoder_kl_causal_video import AutoencoderKLCausalVideo
    from .checkpoints import (
        Components,
        check_dtype,
        default_dtype_kept,
        fetch_checkpoint,
        find_layout,
        load_components,
    )
    from .transformer_pyramid_flux import PyramidFluxTransformer3DModel
    from .transformer_pyramid_sd3 import PyramidSD3Transformer3DModel

__all__ = [
    "AutoencoderKLCausalVideo",
    "Components",
    "PyramidFluxTransformer3DModel",
    "PyramidSD3Transformer3DModel",
    "check_dtype",
    "default_dtype_kept",
    "fetch_checkpoint",
    "find_layout",
    "load_components",
]

_HOME = {
    "AutoencoderKLCausalVideo": "autoencoder_kl_causal_video",
    "PyramidFluxTransformer3DModel": "transformer_pyramid_flux",
    "PyramidSD3Transformer3DModel": "transformer_pyramid_sd3",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME.get(name, 'checkpoints')}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
