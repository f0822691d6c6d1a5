"""The embedded VAE's weights, computed: the linear codec and the best linear decoder, as a causal video VAE.

Shortcuts and resamplers of the VAE are linear, and its resnets add nothing when their last convolution is
zero. A normalisation with one group and a SiLU let a signal x through where the channels hold x, -x and a
large constant -K: mean and standard deviation are then nearly the same for every frame and can be undone, and
silu(x) - silu(-x) = x. The constant itself ends in silu(-K) = 0.

The first latent frame has maps of its own, so each network has one resnet that copies channels in the first
frame only: there, a constant channel has no past. So the encoder is `LinearCodec`, and the decoder the best
linear map from a latent and its neighbours in space and in the past (least squares) to pixels, which unlike
the codec's own inverse leaves no blocks. Channels that are not needed have random weights, or are zero before
the output: a training may start from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from codec import FACTOR, LATENT_CHANNELS, LinearCodec, cut
from torch import Tensor, nn

from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from pyramid_seed.models.causal_video_blocks import CausalConv3d, CausalResnetBlock, FrameGroupNorm

PIXEL_CONSTANT = 32.0
"""K before the decoder's output, where the signal are pixels in [-1, 1]."""

LATENT_CONSTANT = 256.0
"""K where the signal are latents of unit variance."""

INDICATOR = 4.0
"""Value of the channel whose past tells the first frame from the later ones."""

GATE = 48.0
"""What is subtracted from a gated channel in later frames; latents are below 10."""

GATE_CONSTANT = 2000.0
"""K within a gating resnet."""

OPEN = 8.0
"""A constant that is gated itself."""

RIDGE = 1e-4
"""Variance of the noise that inputs are taken to have in the fit, as a part of the largest one's."""

NOW, BEFORE = 2, 1
"""Index in time of the taps of a causal kernel."""

BLOCK = 3 * FACTOR**3
FIRST_BLOCK = 3 * FACTOR**2


@dataclass(frozen=True)
class LinearDecoder:
    """Causal kernels from latents, and a channel of ones, to the pixels of a block.

    Attributes:
        later: (BLOCK, LATENT_CHANNELS + 1, 3, 3, 3), for every latent frame.
        first: (FIRST_BLOCK, LATENT_CHANNELS + 1, 1, 3, 3), added to the last frame of the first block.
    """

    later: Tensor
    first: Tensor


def codec_inverse(codec: LinearCodec) -> LinearDecoder:
    """The codec's own decoder: each block from its own latent."""
    later = torch.zeros(BLOCK, LATENT_CHANNELS + 1, 3, 3, 3)
    later[:, :-1, NOW, 1, 1] = torch.linalg.pinv(codec.later)
    first = torch.zeros(FIRST_BLOCK, LATENT_CHANNELS + 1, 1, 3, 3)
    first[:, :-1, 0, 1, 1] = torch.linalg.pinv(codec.first) - _last_frame(later[:, :-1, NOW, 1, 1])
    return LinearDecoder(later, first)


def fit_decoder(codec: LinearCodec, clips: Tensor) -> LinearDecoder:
    """The kernels with the least squared error on clips (N, 3, T, H, W), in closed form."""
    count = LATENT_CHANNELS + 1
    squares = torch.zeros(27 * count, 27 * count, dtype=torch.float64)
    products = torch.zeros(27 * count, BLOCK, dtype=torch.float64)
    for clip in clips.split(8):
        rows = _neighbourhoods(codec.encode(clip), frames=3)[:, 1:].flatten(0, 2)
        squares += (rows.T @ rows).double()
        products += (rows.T @ _rows(cut(clip[:, :, 1:], FACTOR))).double()
    later = _solve(squares, products).reshape(BLOCK, count, 3, 3, 3)

    stills = clips[:, :, :1]
    rows = _neighbourhoods(codec.encode(stills), frames=1).flatten(0, 2)
    missing = _rows(cut(stills, 1)) - rows @ _last_frame(later[:, :, NOW]).flatten(1).T
    first = _solve((rows.T @ rows).double(), (rows.T @ missing).double())
    return LinearDecoder(later, first.reshape(FIRST_BLOCK, count, 1, 3, 3))


def _rows(blocks: Tensor) -> Tensor:
    """Blocks (B, D, T, H, W) as rows (B * T * H * W, D)."""
    return blocks.movedim(1, -1).flatten(0, -2)


def _solve(squares: Tensor, products: Tensor) -> Tensor:
    """Least squares by the normal equations, as a matrix (outputs, inputs); every input has some noise."""
    ridge = RIDGE * squares.diagonal().max()
    return torch.linalg.solve(squares + ridge * torch.eye(len(squares)), products).T.float()


def _neighbourhoods(latents: Tensor, frames: int) -> Tensor:
    """Latents (B, C, T, H, W) and ones, each place with 3x3 in space and `frames` up to it, zeros outside.

    (B, T, H * W, (C + 1) * frames * 9), the order of a kernel's weights.
    """
    batch, _, length, height, width = latents.shape
    padded = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    padded = F.pad(padded, (1, 1, 1, 1, frames - 1, 0))
    views = padded.unfold(2, frames, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    return views.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(batch, length, height * width, -1)


def _last_frame(blocks: Tensor) -> Tensor:
    """The values of the last frame in rows over block values, (BLOCK, ...) to (FIRST_BLOCK, ...)."""
    return blocks.unflatten(0, (3, FACTOR, FACTOR * FACTOR))[:, -1].flatten(0, 1)


@torch.no_grad()
def start_as_codec(vae: AutoencoderKLCausalVideo, codec: LinearCodec, decoder: LinearDecoder) -> None:
    """Set the weights of a VAE of `train_vae.build_vae` in place; the posterior's variance is left alone."""
    for name, parameter in vae.named_parameters():
        if "resnets" in name and name.endswith(("conv2.conv.weight", "conv2.conv.bias")):
            parameter.zero_()
    for convolution in (vae.quant_conv.conv, vae.post_quant_conv.conv):
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(_bias(convolution))
    _start_decoder(vae.decoder, decoder)
    _start_encoder(vae.encoder, codec)


def _start_decoder(network: Any, decoder: LinearDecoder) -> None:
    """Coarsest channels: z, -z, indicator, -K, z of the first frame only, one in the first frame only. After
    it: the values of a block still to be placed, (RGB, time, row, column) of ever smaller parts."""
    count = LATENT_CHANNELS
    indicator, constant, gated, one = 2 * count, 2 * count + 1, 2 * count + 2, 3 * count + 2
    signal = torch.eye(count)
    _set(network.conv_in, _at_its_place(torch.cat([signal, -signal, torch.zeros(count + 3, count)])))
    network.conv_in.conv.bias[indicator] = INDICATOR
    network.conv_in.conv.bias[constant] = -LATENT_CONSTANT
    gate = network.mid_block.resnets[0]
    _gate_first_frame(gate, range(count), range(count, 2 * count), indicator, constant)
    _write(gate.conv2, range(gated, gated + count), range(count), range(count, 2 * count))
    gate.conv2.conv.weight[one, 2 * count, NOW, 1, 1] = 1 / _silu(OPEN)
    gate.conv2.conv.bias[constant] = LATENT_CONSTANT  # it has done its work

    first, second, last = network.up_blocks
    channels = network.conv_in.conv.out_channels
    kernel = torch.zeros(BLOCK, channels, 3, 3, 3)
    kernel[:, :count] = decoder.later[:, :-1]
    kernel[:, indicator] = decoder.later[:, -1] / INDICATOR
    of_first = kernel.unflatten(0, (3, FACTOR, FACTOR * FACTOR))[:, -1]
    of_first[:, :, gated : gated + count, NOW] += decoder.first[:, :-1, 0].unflatten(0, (3, -1))
    of_first[:, :, one, NOW] += decoder.first[:, -1, 0].unflatten(0, (3, -1))
    # From (RGB, time, row twice, column twice) to (RGB, time, inner row and column, outer ones).
    kernel = kernel.unflatten(0, (3, FACTOR, 2, 2, 2, 2)).permute(0, 1, 3, 5, 2, 4, 6, 7, 8, 9).flatten(0, 5)
    _set(first.upsamplers[0].conv, kernel)
    places = torch.eye(48).reshape(3, 2, 2, 4, 48)  # RGB, time twice, row and column
    _set(first.temporal_upsamplers[0].conv, _at_its_place(places.permute(0, 2, 3, 1, 4).flatten(0, 3)))
    _set(second.resnets[0].conv_shortcut, _at_its_place(torch.eye(24), taps=1))
    _set(second.upsamplers[0].conv, _at_its_place(torch.eye(24)))
    _set(second.temporal_upsamplers[0].conv, _at_its_place(torch.eye(6)))

    shortcut = last.resnets[0].conv_shortcut
    signal = torch.cat([torch.eye(3), -torch.eye(3)])
    _set_all(shortcut, signal)
    shortcut.conv.bias[len(signal)] = -PIXEL_CONSTANT
    _undo(network.conv_norm_out, {len(signal): -PIXEL_CONSTANT})
    _start_output(network.conv_out, 3, len(signal))


def _start_encoder(network: Any, codec: LinearCodec) -> None:
    """Channels of the coarsest level: z as for a later frame, -z, d, -d, indicator, -K, where z + d is right
    for the first frame. Before it: the values of a block gathered so far, (RGB, time, row, column)."""
    count = LATENT_CHANNELS
    first, second, last = network.down_blocks
    _set(network.conv_in, _at_its_place(torch.eye(3)))
    # A stride of 2 in space sees columns 2x and 2x + 1 with taps 1 and 2; in time, frames 2t - 1 and 2t.
    kernel = torch.zeros(3, 2, 2, 3, 3, 3, 3)
    for row in range(2):
        for column in range(2):
            kernel[:, row, column, :, NOW, 1 + row, 1 + column] = torch.eye(3)
    _set(first.downsamplers[0].conv, kernel.flatten(0, 2))
    kernel = torch.zeros(3, 2, 4, 12, 3, 3, 3)
    for time in range(2):
        kernel[:, time, :, :, BEFORE + time, 1, 1] = torch.eye(12).reshape(3, 4, 12)
    _set(first.temporal_downsamplers[0].conv, kernel.flatten(0, 2))
    _set(second.resnets[0].conv_shortcut, _at_its_place(torch.eye(24), taps=1))

    # Latents, (RGB, time twice, row twice, column twice); parts of z for either outer time, and d.
    later = codec.later.reshape(count, 3, 2, 2, 2, 2, 2, 2)
    difference = torch.zeros_like(later)
    difference[:, :, 1, 1] = codec.first.reshape(count, 3, 2, 2, 2, 2) - later[:, :, 1, 1]
    parts = torch.cat([later[:, :, 0], later[:, :, 1], difference[:, :, 1]])
    kernel = torch.zeros(3 * count, 24, 3, 3, 3)
    for row in range(2):
        for column in range(2):
            kernel[:, :, NOW, 1 + row, 1 + column] = parts[:, :, :, row, :, column].flatten(1)
    _set(second.downsamplers[0].conv, kernel)
    kernel = torch.zeros(2, count, 3, count, 3, 3, 3)
    for output, part, tap in ((0, 0, BEFORE), (0, 1, NOW), (1, 2, NOW)):
        kernel[output, :, part, :, tap, 1, 1] = torch.eye(count)
    _set(second.temporal_downsamplers[0].conv, kernel.flatten(2, 3).flatten(0, 1))

    shortcut = last.resnets[0].conv_shortcut
    signs = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    _set_all(shortcut, torch.kron(signs, torch.eye(count)))
    indicator, constant = 4 * count, 4 * count + 1
    shortcut.conv.bias[indicator] = INDICATOR
    shortcut.conv.bias[constant] = -LATENT_CONSTANT
    gate, after = network.mid_block.resnets
    _gate_first_frame(gate, range(2 * count, 3 * count), range(3 * count, 4 * count), indicator, constant)
    _write(gate.conv2, range(count), range(count), range(count, 2 * count))
    _write(gate.conv2, range(count, 2 * count), range(count, 2 * count), range(count))
    gate.conv2.conv.bias[constant] = LATENT_CONSTANT
    after.conv2.conv.bias[constant] = -LATENT_CONSTANT
    _undo(network.conv_norm_out, {indicator: INDICATOR, constant: -LATENT_CONSTANT})
    network.conv_out.conv.weight[:count, 2 * count : constant + 1] = 0.0
    _start_output(network.conv_out, count, 2 * count)


def _gate_first_frame(
    resnet: CausalResnetBlock, positive: range, negative: range, indicator: int, constant: int
) -> None:
    """Let the hidden channels be x, -x (for x in the channels `positive`, -x in `negative`) and OPEN in the
    first frame, and zero, after the second SiLU, in all later ones."""
    count = len(positive)
    _undo(resnet.norm1, {indicator: INDICATOR, constant: -LATENT_CONSTANT})
    hidden = resnet.conv1.conv
    hidden.weight[: 2 * count + 2] = 0.0
    _bias(hidden)[: 2 * count + 2] = 0.0
    for index, (plus, minus) in enumerate(zip(positive, negative, strict=True)):
        for output, sign in ((index, 1.0), (count + index, -1.0)):
            hidden.weight[output, plus, NOW, 1, 1] = sign
            hidden.weight[output, minus, NOW, 1, 1] = -sign
    hidden.weight[: 2 * count + 1, indicator, BEFORE, 1, 1] = -GATE / _silu(INDICATOR)
    _bias(hidden)[2 * count] = OPEN
    _bias(hidden)[2 * count + 1] = -GATE_CONSTANT
    _undo(resnet.norm2, {2 * count: OPEN, 2 * count + 1: -GATE_CONSTANT})


def _write(convolution: CausalConv3d, outputs: range, positive: range, negative: range) -> None:
    """The outputs become silu(x) - silu(-x) = x of the channels that hold the two."""
    for output, plus, minus in zip(outputs, positive, negative, strict=True):
        convolution.conv.weight[output, plus, NOW, 1, 1] = 1.0
        convolution.conv.weight[output, minus, NOW, 1, 1] = -1.0


def _undo(norm: FrameGroupNorm, constants: Mapping[int, float]) -> None:
    """Scale and shift that undo a normalisation of channels in which only these constants are large."""
    channels = norm.num_channels
    mean = sum(constants.values()) / channels
    variance = sum(value * value for value in constants.values()) / channels - mean * mean
    norm.weight.fill_(math.sqrt(variance))
    norm.bias.fill_(mean)


def _start_output(convolution: CausalConv3d, outputs: int, signals: int) -> None:
    """The outputs become x from channels that hold x and -x; others, zero so far, keep random weights."""
    signal = torch.eye(outputs)
    kernel = _at_its_place(torch.cat([signal, -signal], dim=1))
    convolution.conv.weight[:outputs, :signals] = kernel
    _bias(convolution.conv)[:outputs] = 0.0


def _at_its_place(matrix: Tensor, taps: int = 3) -> Tensor:
    """A matrix (out, in) as a causal kernel that looks at its own place only."""
    kernel = torch.zeros(*matrix.shape, taps, taps, taps)
    kernel[..., taps - 1, taps // 2, taps // 2] = matrix
    return kernel


def _set(convolution: CausalConv3d, kernel: Tensor) -> None:
    """The first outputs of a convolution become those of `kernel` on the first inputs, and nothing else."""
    outputs, inputs = kernel.shape[:2]
    convolution.conv.weight[:outputs] = 0.0
    convolution.conv.weight[:outputs, :inputs] = kernel
    _bias(convolution.conv)[:outputs] = 0.0


def _set_all(shortcut: CausalConv3d, matrix: Tensor) -> None:
    """A convolution without neighbours becomes `matrix`, and zero in all other outputs."""
    shortcut.conv.weight.zero_()
    _bias(shortcut.conv).zero_()
    _set(shortcut, _at_its_place(matrix, taps=1))


def _bias(convolution: nn.Conv3d) -> Tensor:
    if convolution.bias is None:
        raise ValueError("every convolution of the VAE must have a bias")
    return convolution.bias


def _silu(value: float) -> float:
    return value / (1 + math.exp(-value))
