"""The models: transformers of both families, the causal video autoencoder.

The public names are imported when they are first used, so that `import pyramid_seed.models` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoder_kl_causal_video import AutoencoderKLCausalVideo
    from .transformer_pyramid_flux import PyramidFluxTransformer3DModel
    from .transformer_pyramid_sd3 import PyramidSD3Transformer3DModel

__all__ = [
    "AutoencoderKLCausalVideo",
    "PyramidFluxTransformer3DModel",
    "PyramidSD3Transformer3DModel",
]

_HOMES = {
    "AutoencoderKLCausalVideo": "autoencoder_kl_causal_video",
    "PyramidFluxTransformer3DModel": "transformer_pyramid_flux",
    "PyramidSD3Transformer3DModel": "transformer_pyramid_sd3",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
