"""Start the embedded VAE as the linear codec, so that training only has to add what a linear map cannot do.

Shortcuts and resamplers of the VAE are linear, its resnets add nothing when their last convolution is zero,
and one normalisation and one SiLU remain, before each output convolution. Both let a signal x through where
the channels hold x, -x and a constant -K: with one group, mean and standard deviation are then nearly the
same for every frame and can be undone, and silu(x) - silu(-x) = x. The constant itself ends in silu(-K) = 0.

So encoder and decoder begin as `LinearCodec` (for the first frame: as its map for later frames). Channels
that the codec does not need start at random, or at zero before the output.
"""

from __future__ import annotations

import math

import torch
from codec import FACTOR, LATENT_CHANNELS, LinearCodec
from torch import Tensor, nn

from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.models.causal_video_blocks import CausalConv3d

PIXEL_CONSTANT = 32.0
"""K in the decoder, whose signal are pixels in [-1, 1]."""

LATENT_CONSTANT = 64.0
"""K in the encoder, whose signal are latents of unit variance."""

HERE = 2
"""Index in time of the newest tap of a causal kernel."""


@torch.no_grad()
def start_as_codec(vae: AutoencoderKLCausalVideo, codec: LinearCodec) -> None:
    """Set the weights of a VAE of `train_vae.build_vae` in place; the posterior's variance is left alone."""
    for name, parameter in vae.named_parameters():
        if "resnets" in name and name.endswith(("conv2.conv.weight", "conv2.conv.bias")):
            parameter.zero_()
    for convolution in (vae.quant_conv.conv, vae.post_quant_conv.conv):
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    _start_decoder(vae.decoder, torch.linalg.pinv(codec.later))
    _start_encoder(vae.encoder, codec.later)


def _start_decoder(decoder: nn.Module, inverse: Tensor) -> None:
    """`inverse` (3*4*4*4, LATENT_CHANNELS). The channels stand for the values of a block still to be placed:
    all latents, then (RGB, time, row, column) of ever smaller parts of it."""
    first, second, last = decoder.up_blocks
    _set(decoder.conv_in, _spread(torch.eye(LATENT_CHANNELS)))
    blocks = inverse.reshape(3, FACTOR, 2, 2, 2, 2, LATENT_CHANNELS)  # RGB, time, row twice, column twice
    _set(first.upsamplers[0].conv, _spread(blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(0, 5)))
    _set(first.temporal_upsamplers[0].conv, _spread(_places(3, 2, 2, 4).permute(0, 2, 3, 1, 4).flatten(0, 3)))
    _set(second.resnets[0].conv_shortcut, _spread(torch.eye(24), taps=1))
    _set(second.upsamplers[0].conv, _spread(torch.eye(24)))
    _set(second.temporal_upsamplers[0].conv, _spread(torch.eye(6)))
    _start_output(last.resnets[0].conv_shortcut, decoder, torch.eye(3), PIXEL_CONSTANT)


def _places(*shape: int) -> Tensor:
    """The identity on channels of that shape, (*shape, channels)."""
    count = math.prod(shape)
    return torch.eye(count).reshape(*shape, count)


def _start_encoder(encoder: nn.Module, projection: Tensor) -> None:
    """`projection` (LATENT_CHANNELS, 3*4*4*4)."""
    first, second, last = encoder.down_blocks
    _set(encoder.conv_in, _spread(torch.eye(3)))
    # A stride of 2 in space sees columns 2x and 2x + 1 with taps 1 and 2; in time, frames 2t - 1 and 2t.
    kernel = torch.zeros(3, 2, 2, 3, 3, 3, 3)
    for row in range(2):
        for column in range(2):
            kernel[:, row, column, :, HERE, 1 + row, 1 + column] = torch.eye(3)
    _set(first.downsamplers[0].conv, kernel.flatten(0, 2))
    kernel = torch.zeros(3, 2, 4, 12, 3, 3, 3)
    for time in range(2):
        kernel[:, time, :, :, 1 + time, 1, 1] = torch.eye(12).reshape(3, 4, 12)
    _set(first.temporal_downsamplers[0].conv, kernel.flatten(0, 2))
    _set(second.resnets[0].conv_shortcut, _spread(torch.eye(24), taps=1))
    # Latents, (RGB, time twice, row twice, column twice).
    parts = projection.reshape(LATENT_CHANNELS, 3, 2, 2, 2, 2, 2, 2)
    kernel = torch.zeros(2, LATENT_CHANNELS, 24, 3, 3, 3)
    for row in range(2):
        for column in range(2):
            part = parts[:, :, :, :, row, :, column].permute(2, 0, 1, 3, 4, 5).flatten(2)
            kernel[:, :, :, HERE, 1 + row, 1 + column] = part
    _set(second.downsamplers[0].conv, kernel.flatten(0, 1))
    kernel = torch.zeros(LATENT_CHANNELS, 2, LATENT_CHANNELS, 3, 3, 3)
    for time in range(2):
        kernel[:, time, :, 1 + time, 1, 1] = torch.eye(LATENT_CHANNELS)
    _set(second.temporal_downsamplers[0].conv, kernel.flatten(1, 2))
    _start_output(last.resnets[0].conv_shortcut, encoder, torch.eye(LATENT_CHANNELS), LATENT_CONSTANT)


def _start_output(shortcut: CausalConv3d, network: nn.Module, signal: Tensor, constant: float) -> None:
    """Let `shortcut` make x, -x and the constant, and the output layers of `network` give x back.

    The other channels before the output are zero at first, so that they do not shift the mean; the output
    layer's weights for them stay random, so that they can learn.
    """
    count, channels = len(signal), shortcut.conv.out_channels
    _set(shortcut, _spread(torch.cat([signal, -signal, torch.zeros(channels - 2 * count, count)]), taps=1))
    shortcut.conv.bias[2 * count] = -constant
    network.conv_norm_out.weight.fill_(constant * math.sqrt(channels - 1) / channels)
    network.conv_norm_out.bias.fill_(-constant / channels)
    output = network.conv_out.conv
    output.weight[:count, : 2 * count] = _spread(torch.cat([signal, -signal], dim=1))
    output.bias[:count] = 0.0


def _spread(matrix: Tensor, taps: int = 3) -> Tensor:
    """A matrix (out, in) as a causal kernel that looks at its own place only."""
    kernel = torch.zeros(*matrix.shape, taps, taps, taps)
    kernel[..., taps - 1, taps // 2, taps // 2] = matrix
    return kernel


def _set(convolution: CausalConv3d, kernel: Tensor) -> None:
    """The first outputs of a convolution become those of `kernel` on the first inputs, and nothing else."""
    outputs, inputs = kernel.shape[:2]
    convolution.conv.weight[:outputs] = 0.0
    convolution.conv.weight[:outputs, :inputs] = kernel
    convolution.conv.bias[:outputs] = 0.0
