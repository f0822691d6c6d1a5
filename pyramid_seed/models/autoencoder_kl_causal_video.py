"""The causal video autoencoder of Pyramid Flow (arXiv:2410.05954, section 3.4), as a diffusers model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from .causal_video_blocks import CausalConv3d, CausalDecoder, CausalEncoder, Levels, TemporalCache
from .chunked import ChunkedRunner, TileGrid, Tiling, run_chunked
from .rounding import RoundingMixin

_TILE_SIZES = (
    "tile_sample_min_height",
    "tile_sample_min_width",
    "tile_sample_stride_height",
    "tile_sample_stride_width",
)


class AutoencoderKLCausalVideo(RoundingMixin, ModelMixin, AutoencoderMixin, ConfigMixin):
    """Variational autoencoder for images and clips, causal in time.

    Pixels are (batch, in_channels, num_frames, height, width) in [-1, 1], with num_frames = r k + 1, r the
    temporal compression ratio, and height and width multiples of s, the spatial one. Latents are (batch,
    latent_channels, k + 1, height / s, width / s). The first frame has its own latent frame; an image is a
    clip of one frame.

    The defaults are the published checkpoints' sizes: 335 M parameters, compression 8x8x8.

    Args:
        in_channels, out_channels: channels of the pixels.
        latent_channels: channels of the latents.
        encoder_block_out_channels, decoder_block_out_channels: width of each block, finest first.
        encoder_layers_per_block: resnets in each block of the encoder, finest first.
        decoder_layers_per_block: resnets in each block of the decoder, coarsest first, as its blocks run.
        spatial_down_sample, temporal_down_sample: whether each encoder block halves space, time.
        spatial_up_sample, temporal_up_sample: whether each decoder block (coarsest first) doubles it.
        norm_num_groups: groups of every group normalisation.
        mid_block_add_attention: whether there is self-attention (within a frame) at the coarsest level.
        shift_factor, scaling_factor: the first latent frame of a clip is normalised as
            (latent - shift) * scaling. The defaults of the four statistics are miniFLUX's.
        video_shift_factor, video_scaling_factor: the same for all later latent frames.

    Raises:
        ValueError: the blocks' sequences differ in length, a block has no resnets, or the decoder does not
            undo the encoder's compression.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("CausalDownBlock", "CausalUpBlock", "CausalMidBlock")
    _group_offload_block_modules = ("quant_conv", "post_quant_conv", "encoder", "decoder")

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 16,
        encoder_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        decoder_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        encoder_layers_per_block: Sequence[int] = (2, 2, 2, 2),
        decoder_layers_per_block: Sequence[int] = (3, 3, 3, 3),
        spatial_down_sample: Sequence[bool] = (True, True, True, False),
        temporal_down_sample: Sequence[bool] = (True, True, True, False),
        spatial_up_sample: Sequence[bool] = (True, True, True, False),
        temporal_up_sample: Sequence[bool] = (True, True, True, False),
        norm_num_groups: int = 32,
        mid_block_add_attention: bool = True,
        shift_factor: float = -0.04,  # noqa: ARG002 - read from the config
        scaling_factor: float = 1 / 1.8726,  # noqa: ARG002 - read from the config
        video_shift_factor: float = -0.2343,  # noqa: ARG002 - read from the config
        video_scaling_factor: float = 1 / 3.0986,  # noqa: ARG002 - read from the config
    ) -> None:
        super().__init__()
        encoder = Levels(
            encoder_layers_per_block, encoder_block_out_channels, spatial_down_sample, temporal_down_sample
        )
        decoder = Levels(
            decoder_layers_per_block, decoder_block_out_channels[::-1], spatial_up_sample, temporal_up_sample
        )
        _check_levels("encoder", encoder)
        _check_levels("decoder", decoder)
        for axis, halvings, doublings in (
            ("spatial", sum(encoder.space), sum(decoder.space)),
            ("temporal", sum(encoder.time), sum(decoder.time)),
        ):
            if halvings != doublings:
                raise ValueError(
                    f"the decoder must double what the encoder halves, got {halvings} {axis} halvings and "
                    f"{doublings} doublings"
                )

        both = (norm_num_groups, mid_block_add_attention)
        self.encoder = CausalEncoder(in_channels, 2 * latent_channels, encoder, *both)
        self.quant_conv = CausalConv3d(2 * latent_channels, 2 * latent_channels, kernel_size=1)
        self.post_quant_conv = CausalConv3d(latent_channels, latent_channels, kernel_size=1)
        self.decoder = CausalDecoder(latent_channels, out_channels, decoder, *both)

        self.use_slicing = False
        self.use_tiling = False
        self.temporal_chunk_size: int | None = None
        # The original's defaults: tiles of 256 pixels, a quarter of them overlapping.
        self.tile_sample_min_height = 256
        self.tile_sample_min_width = 256
        self.tile_sample_stride_height = 192
        self.tile_sample_stride_width = 192

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent pixel, in height and in width."""
        return 2 ** sum(self.config.spatial_down_sample)

    @property
    def temporal_compression_ratio(self) -> int:
        """Frames per latent frame, after the first."""
        return 2 ** sum(self.config.temporal_down_sample)

    @property
    def tile_grid(self) -> TileGrid:
        """The tiles that `enable_tiling` cuts images into, in pixels."""
        return self._tile_grids()[0]

    # Memory modes

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_sample_stride_height: int | None = None,
        tile_sample_stride_width: int | None = None,
    ) -> None:
        """Encode and decode images larger than a tile in overlapping tiles that are blended.

        Sizes and strides are in pixels, multiples of `spatial_compression_ratio`, stride <= size; those not
        given stay as they were. The result is close to the one without tiles, not equal to it: normalisation
        and attention see one tile at a time.

        Raises:
            ValueError: a size or stride breaks these rules.
        """
        given = (
            tile_sample_min_height,
            tile_sample_min_width,
            tile_sample_stride_height,
            tile_sample_stride_width,
        )
        chosen = zip(_TILE_SIZES, given, strict=True)
        sizes = {name: getattr(self, name) if value is None else value for name, value in chosen}
        for name, value in sizes.items():
            _check_multiple(name, value, self.spatial_compression_ratio)
        for axis in ("height", "width"):
            size, stride = sizes[f"tile_sample_min_{axis}"], sizes[f"tile_sample_stride_{axis}"]
            if stride > size:
                raise ValueError(
                    f"tile_sample_stride_{axis} must be at most tile_sample_min_{axis} = {size}, got {stride}"
                )
        for name, value in sizes.items():
            setattr(self, name, value)
        self.use_tiling = True

    @property
    def tiling(self) -> tuple[int, ...] | None:
        """The `enable_tiling` arguments in force; None without tiles."""
        return tuple(getattr(self, name) for name in _TILE_SIZES) if self.use_tiling else None

    @contextmanager
    def tiling_set(self, tiling: Sequence[int] | None) -> Iterator[None]:
        """Use these tiles, or none, inside a `with`, and restore the previous ones after it."""
        before = {name: getattr(self, name) for name in ("use_tiling", *_TILE_SIZES)}
        try:
            if tiling is None:
                self.use_tiling = False
            elif tuple(tiling) != self.tiling:
                self.enable_tiling(*tiling)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def enable_temporal_chunking(self, num_latent_frames: int = 1) -> None:
        """Encode and decode the first frame, then `num_latent_frames` latent frames at a time.

        The result equals that of the whole clip up to the rounding of kernels; apart from input and output,
        memory no longer grows with the number of frames.

        Raises:
            ValueError: `num_latent_frames` is below 1.
        """
        if num_latent_frames < 1:
            raise ValueError(f"num_latent_frames must be at least 1, got {num_latent_frames}; use 1")
        self.temporal_chunk_size = num_latent_frames

    def disable_temporal_chunking(self) -> None:
        """Encode and decode all frames of a clip at once."""
        self.temporal_chunk_size = None

    # Latent statistics

    def normalize_latents(self, latents: Tensor, first_frame_index: int = 0) -> Tensor:
        """Latents as `encode` returns them -> about zero mean and unit variance.

        Args:
            latents: (B, latent_channels, T, H, W).
            first_frame_index: index in the clip of the first latent frame given; frame 0 has its own
                statistics.

        Raises:
            ValueError: `latents` has another shape, or `first_frame_index` is negative.
        """
        shift, scale = self._latent_statistics(latents, first_frame_index)
        return ((latents - shift) * scale).to(latents.dtype)

    def denormalize_latents(self, latents: Tensor, first_frame_index: int = 0) -> Tensor:
        """The inverse of `normalize_latents`, with the same arguments: latents for `decode`."""
        shift, scale = self._latent_statistics(latents, first_frame_index)
        return (latents / scale + shift).to(latents.dtype)

    def _latent_statistics(self, latents: Tensor, first_frame_index: int) -> tuple[Tensor, Tensor]:
        """Shift and scale, (T, 1, 1) each, in at least float32, so that bf16 latents are rounded once."""
        self._check_shape(latents, self.config.latent_channels, "latents")
        if first_frame_index < 0:
            raise ValueError(f"first_frame_index must be at least 0, got {first_frame_index}; use 0")
        config = self.config
        statistics = [
            (config.shift_factor, config.scaling_factor)
            if index == 0
            else (config.video_shift_factor, config.video_scaling_factor)
            for index in range(first_frame_index, first_frame_index + latents.shape[2])
        ]
        dtype = torch.promote_types(latents.dtype, torch.float32)
        shift, scale = torch.tensor(statistics, dtype=dtype, device=latents.device).unbind(1)
        return shift[:, None, None], scale[:, None, None]

    # Encode and decode

    @apply_forward_hook
    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Pixels (B, in_channels, T, H, W) in [-1, 1] -> the posterior over latents (not normalised).

        Raises:
            ValueError: T is not r k + 1, H or W is not a multiple of the spatial ratio, or x is not 5-D.
        """
        self._check_shape(x, self.config.in_channels, "x")
        ratio = self.temporal_compression_ratio
        num_frames, height, width = x.shape[2:]
        if (num_frames - 1) % ratio:
            below = (num_frames - 1) // ratio * ratio + 1
            raise ValueError(
                f"num_frames must be {ratio}k + 1, got {num_frames}; use {below} or {below + ratio}"
            )
        _check_multiple("height", height, self.spatial_compression_ratio)
        _check_multiple("width", width, self.spatial_compression_ratio)

        chunk_size = None if self.temporal_chunk_size is None else self.temporal_chunk_size * ratio
        tiling = Tiling(*self._tile_grids()) if self.use_tiling else None
        parts = run_chunked(self._encode_chunk, x, chunk_size, tiling, self.use_slicing)
        moments = torch.cat(list(parts), dim=2)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latents (B, latent_channels, T, H, W), not normalised -> pixels, about [-1, 1], not clamped.

        The pixels are (B, out_channels, r (T - 1) + 1, s H, s W).

        Raises:
            ValueError: `z` does not have 5 dimensions and latent_channels.
        """
        sample = torch.cat(list(self.decode_chunks(z, self.temporal_chunk_size)), dim=2)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    @apply_forward_hook
    def decode_chunks(self, z: Tensor, chunk_size: int | None = 1) -> Iterator[Tensor]:
        """Decode step by step: an iterator of pixels (B, out_channels, t, s H, s W) in order of time.

        The first step returns t = 1 frame, each later one r frames per latent frame. What is remembered
        between steps belongs to the iterator: several may run in turn, and one may be dropped half way.
        Tiling and slicing are those in force at the call.

        The chunks of the first n latent frames do not depend on the frames after them: with the same chunk
        size they have the same bits, as long as n - 1 is a multiple of it.

        Args:
            z: latents (B, latent_channels, T, H, W), not normalised.
            chunk_size: latent frames in one step; None decodes the whole clip in one step.

        Raises:
            ValueError: (at the call) `z` has the wrong shape, or `chunk_size` is below 1.
        """
        self._check_shape(z, self.config.latent_channels, "z")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}; use 1")
        return run_chunked(self._decode_chunk, z, chunk_size, self._decode_tiling(), self.use_slicing)

    @apply_forward_hook
    def chunk_decoder(self) -> ChunkedRunner:
        """`decode_chunks` for latents that are still being made: call it with one chunk after another.

        A call takes latents (B, latent_channels, t, H, W), not normalised, and returns their pixels; the
        first one has t = 1. With one latent frame per call, they are bit for bit those of `decode_chunks`.
        The decoder owns what it remembers; tiling and slicing are those in force when it was made.
        """
        return ChunkedRunner(self._decode_chunk, self._decode_tiling(), self.use_slicing)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode; the latents are the posterior's mode, or drawn from it with `generator`."""
        posterior = self.encode(sample).latent_dist
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)

    def _check_shape(self, x: Tensor, channels: int, name: str) -> None:
        if x.ndim != 5 or x.shape[1] != channels or x.shape[2] == 0:
            raise ValueError(
                f"{name} must have shape (batch, {channels}, num_frames >= 1, height, width), "
                f"got {tuple(x.shape)}"
            )

    def _encode_chunk(self, pixels: Tensor, cache: TemporalCache | None) -> Tensor:
        return self.quant_conv(self.encoder(pixels, cache))

    def _decode_chunk(self, latents: Tensor, cache: TemporalCache | None) -> Tensor:
        return self.decoder(self.post_quant_conv(latents), cache)

    def _decode_tiling(self) -> Tiling | None:
        pixel_grid, latent_grid = self._tile_grids()
        return Tiling(latent_grid, pixel_grid) if self.use_tiling else None

    def _tile_grids(self) -> tuple[TileGrid, TileGrid]:
        """The tiles in pixels and in latent pixels."""
        ratio = self.spatial_compression_ratio
        height, width = self.tile_sample_min_height, self.tile_sample_min_width
        down, right = self.tile_sample_stride_height, self.tile_sample_stride_width
        latent_grid = TileGrid((height // ratio, width // ratio), (down // ratio, right // ratio))
        return TileGrid((height, width), (down, right)), latent_grid


def _check_levels(network: str, levels: Levels) -> None:
    lengths = [len(values) for values in levels]
    if not levels.num_layers or len(set(lengths)) > 1:
        raise ValueError(
            f"the {network}'s layers_per_block, block_out_channels, spatial and temporal flags must have one "
            f"entry per block, got {', '.join(map(str, lengths))} entries"
        )
    if min(levels.num_layers) < 1:
        raise ValueError(f"{network}_layers_per_block must be at least 1, got {list(levels.num_layers)}")


def _check_multiple(name: str, value: int, factor: int) -> None:
    if value < factor or value % factor:
        below = value // factor * factor
        nearest = f"{below} or {below + factor}" if below else f"{factor}"
        raise ValueError(f"{name} must be a multiple of {factor}, got {value}; use {nearest}")
