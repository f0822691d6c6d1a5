"""What the chunks of Helios have as a condition if a clip begins with an image, as in diffusers."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.torch_utils import get_module_execution_device

from ..noise import HISTORY_KEYS, IMAGE_KEYS, NoiseKey, NoiseSource, uniform

_LEAST_SIGMA, _MOST_SIGMA = 0.111, 0.135
"""How much noise is added: the defaults of diffusers' `image_noise_sigma_*` and `video_noise_sigma_*`."""


def latent_statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and one over the deviation, of the latents: (1, C, 1, 1, 1) each, in the VAE's dtype."""
    mean, std = (
        torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1).to(device, vae.dtype)
        for name in ("latents_mean", "latents_std")
    )
    return mean, 1.0 / std


def encode_history(
    vae: AutoencoderKLWan, image: torch.Tensor, num_frames: int, noise: NoiseSource
) -> torch.Tensor:
    """Latents of an image, and of the frame before unit 0: the last one of a video that shows it unmoved.

    Each is sampled from the VAE's posterior and has noise added, of which `IMAGE_KEYS` and `HISTORY_KEYS` are
    the draws.

    Args:
        image: (1, 3, H, W) in [-1, 1].
        num_frames: of the unmoved video: those of a chunk.

    Returns:
        Normalised latents (1, C, 2, H/s, W/s), float32, on the VAE's device.
    """
    device = get_module_execution_device(vae)
    pixels = image.to(device, vae.dtype).unsqueeze(2)
    unmoved = pixels.repeat(1, 1, num_frames, 1, 1)
    parts = (
        _noisy(vae, video, keys, noise) for video, keys in ((pixels, IMAGE_KEYS), (unmoved, HISTORY_KEYS))
    )
    return torch.cat(list(parts), dim=2)


def _noisy(
    vae: AutoencoderKLWan, video: torch.Tensor, keys: tuple[NoiseKey, NoiseKey, NoiseKey], noise: NoiseSource
) -> torch.Tensor:
    """The last latent frame (1, C, 1, H/s, W/s) of a video (1, 3, T, H, W), with noise added."""
    posterior_key, sigma_key, noise_key = keys
    posterior = vae.encode(video).latent_dist
    mean, std = posterior.mean[:, :, -1:].float(), posterior.std[:, :, -1:].float()
    shape, device = tuple(mean.shape), mean.device
    sample = mean + std * noise.draw(posterior_key, shape).to(device)
    latents_mean, per_std = latent_statistics(vae, device)
    latents = (sample - latents_mean) * per_std
    share = uniform(noise.draw(sigma_key, (1, 1, 1, 1, 1)))
    sigma = (share * (_MOST_SIGMA - _LEAST_SIGMA) + _LEAST_SIGMA).to(device, torch.float32)
    return sigma * noise.draw(noise_key, shape).to(device) + (1 - sigma) * latents
