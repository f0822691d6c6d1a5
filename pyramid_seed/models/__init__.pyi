"""The public names and their homes: what `__init__.py` imports when it is first used."""

from .autoencoder_kl_causal_video import AutoencoderKLCausalVideo as AutoencoderKLCausalVideo
from .transformer_pyramid_flux import PyramidFluxTransformer3DModel as PyramidFluxTransformer3DModel
from .transformer_pyramid_sd3 import PyramidSD3Transformer3DModel as PyramidSD3Transformer3DModel
