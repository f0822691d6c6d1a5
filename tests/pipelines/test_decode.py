"""Between latents and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyramid_seed.noise import NoiseKey, NoiseStreams, RecordedNoise
from pyramid_seed.pipelines.decode import decode_chunks, encode_image, to_uint8


def latents_of(pipe, frames=3):
    shape = (1, pipe.vae.config.latent_channels, frames, 8, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_chunks_are_the_clip(pipe):
    vae, latents = pipe.vae, latents_of(pipe)
    chunks = list(decode_chunks(vae, latents))
    ratio = vae.temporal_compression_ratio
    assert [chunk.shape[2] for chunk in chunks] == [1, ratio, ratio]
    whole = vae.decode(vae.denormalize_latents(latents)).sample.clamp(-1, 1)
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_shorter_clip_is_the_beginning_bitwise(pipe):
    latents = latents_of(pipe)
    whole = list(decode_chunks(pipe.vae, latents))
    for frames in (1, 2):
        shorter = list(decode_chunks(pipe.vae, latents[:, :, :frames]))
        assert all(torch.equal(a, b) for a, b in zip(shorter, whole[:frames], strict=True))


@torch.no_grad()
def test_latents_that_are_not_finite(pipe):
    latents = latents_of(pipe)
    latents[:, :, 1] = torch.nan
    chunks = decode_chunks(pipe.vae, latents)
    next(chunks)
    with pytest.raises(FloatingPointError, match="latent frame 1 are not finite"):
        next(chunks)


def test_to_uint8_rounds_to_the_nearest_level():
    levels = torch.arange(256)
    for offset in (-0.49, 0.0, 0.49):
        pixels = (levels + offset) / 127.5 - 1
        frames = to_uint8(pixels.clamp(-1, 1).expand(1, 3, 1, 1, 256))
        assert frames.shape == (1, 1, 1, 256, 3)
        assert frames.dtype == torch.uint8
        assert np.array_equal(frames[0, 0, 0, :, 1], levels)


@torch.no_grad()
def test_encode_image_draws_from_the_posterior(pipe):
    """Zero noise gives the mean, and the noise is scaled with the posterior's deviation."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = pipe.vae.encode(image.unsqueeze(2)).latent_dist
    shape = tuple(posterior.mean.shape)
    key = NoiseKey("posterior", 0, 0)
    still = encode_image(pipe.vae, image, RecordedNoise({key: torch.zeros(shape)}))
    assert torch.equal(still, pipe.vae.normalize_latents(posterior.mean))

    streams = NoiseStreams(5)
    drawn = encode_image(pipe.vae, image, streams)
    expected = posterior.mean + posterior.std * streams.draw(key, shape)
    assert torch.equal(drawn, pipe.vae.normalize_latents(expected))
    assert drawn.dtype == torch.float32
