"""What chunks of Helios have as a condition if a clip goes on from an image or a video, as in diffusers."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.torch_utils import get_module_execution_device

from ..media.given_video import GivenVideo
from ..noise import IMAGE_KEYS, NoiseKey, NoiseSource, history_keys, uniform
from .first_frames import Given
from .memory import contiguous_copy

_LEAST_SIGMA, _MOST_SIGMA = 0.111, 0.135
"""How much noise is added: the defaults of diffusers' `image_noise_sigma_*` and `video_noise_sigma_*`."""


def latent_statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and one over the deviation, of the latents: (1, C, 1, 1, 1) each, in the VAE's dtype."""
    mean, std = (
        torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1).to(device, vae.dtype)
        for name in ("latents_mean", "latents_std")
    )
    return mean, 1.0 / std


def encode_history(vae: AutoencoderKLWan, given: Given, chunk: int, noise: NoiseSource) -> torch.Tensor:
    """Latents of an image and of the frame before unit 0, or of a video's first frame and of all its chunks.

    The frame before unit 0 is the last one of a chunk that shows the image unmoved. Each is sampled from the
    VAE's posterior and has noise added, of which `IMAGE_KEYS` and `history_keys` are the draws.

    Args:
        given: an image, or a video of whole chunks.
        chunk: pixel frames of a chunk.

    Returns:
        Normalised latents (1, C, m, H/s, W/s), float32, on the VAE's device; m is 2 for an image, and for a
        video one more than the latent frames of its chunks.
    """
    if isinstance(given, GivenVideo):
        pixels, first = video_pixels(given), 0
        chunks = pixels.split(chunk, dim=2)
    else:
        pixels, first = given.unsqueeze(2), -1
        chunks = (pixels.repeat(1, 1, chunk, 1, 1),)
    parts = [_noisy(vae, pixels[:, :, :1], 0, IMAGE_KEYS, noise)]
    parts += [_noisy(vae, part, first, history_keys(k), noise) for k, part in enumerate(chunks)]
    return torch.cat(parts, dim=2)


def video_pixels(video: GivenVideo) -> torch.Tensor:
    """(1, 3, T, H, W) float32 in [-1, 1], rounded as by diffusers' `VideoProcessor`."""
    frames = torch.from_numpy(np.array(video.frames, order="C"))  # which may be read-only or reversed
    return frames.permute(3, 0, 1, 2)[None].float().div(255).mul(2).sub(1)


def _noisy(
    vae: AutoencoderKLWan,
    video: torch.Tensor,
    first: int,
    keys: tuple[NoiseKey, NoiseKey, NoiseKey],
    noise: NoiseSource,
) -> torch.Tensor:
    """Latents (1, C, n, H/s, W/s) of pixels (1, 3, T, H, W), from frame `first` on, with noise added."""
    posterior_key, sigma_key, noise_key = keys
    device = get_module_execution_device(vae)
    posterior = vae.encode(contiguous_copy(video.to(device, vae.dtype))).latent_dist
    mean, std = posterior.mean[:, :, first:].float(), posterior.std[:, :, first:].float()
    shape, device = tuple(mean.shape), mean.device
    sample = mean + std * noise.draw(posterior_key, shape).to(device)
    latents_mean, per_std = latent_statistics(vae, device)
    latents = (sample - latents_mean) * per_std
    share = uniform(noise.draw(sigma_key, (1, 1, shape[2], 1, 1)))
    sigma = (share * (_MOST_SIGMA - _LEAST_SIGMA) + _LEAST_SIGMA).to(device, torch.float32)
    return sigma * noise.draw(noise_key, shape).to(device) + (1 - sigma) * latents
