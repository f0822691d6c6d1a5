"""Between latents and pictures: decode chunk by chunk, encode the first picture."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.utils.torch_utils import get_module_execution_device

from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..noise import NoiseKey, NoiseSource


def decode_chunks(vae: AutoencoderKLCausalVideo, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Decode normalised latents one latent frame at a time.

    One latent frame a chunk, always: so the frames of a clip are bitwise the beginning of a longer one's, and
    memory does not grow with the clip.

    Args:
        latents: (1, C, T, H, W) float32, normalised.

    Yields:
        Pixels (1, 3, t, s H, s W) in [-1, 1], float32: 1 frame, then r frames a chunk.

    Raises:
        FloatingPointError: the decoder gave values that are not finite; the latent frame is named.
    """
    device = get_module_execution_device(vae)
    raw = vae.denormalize_latents(latents.to(device)).to(vae.dtype)
    for index, pixels in enumerate(vae.decode_chunks(raw, chunk_size=1)):
        if not torch.isfinite(pixels).all():
            raise FloatingPointError(f"decoded frames of latent frame {index} are not finite")
        yield pixels.float().clamp(-1, 1)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, T, H, W) in [-1, 1] to frames (B, T, H, W, 3) uint8, rounded to the nearest level."""
    levels = (pixels * 127.5 + 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 4, 1)


def encode_image(vae: AutoencoderKLCausalVideo, image: torch.Tensor, noise: NoiseSource) -> torch.Tensor:
    """Latents of the first frame, drawn from the VAE's posterior with ("posterior", 0, 0).

    Args:
        image: (1, 3, H, W) in [-1, 1].

    Returns:
        Normalised latents (1, C, 1, H/s, W/s), float32, on the VAE's device.
    """
    device = get_module_execution_device(vae)
    posterior = vae.encode(image.to(device, vae.dtype).unsqueeze(2)).latent_dist
    white = noise.draw(NoiseKey("posterior", 0, 0), tuple(posterior.mean.shape)).to(device)
    return vae.normalize_latents(posterior.mean.float() + posterior.std.float() * white)
