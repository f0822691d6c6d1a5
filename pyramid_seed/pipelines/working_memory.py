"""Memory that decoding needs besides weights: arithmetic over sizes, without tensors.

It adds up the tensors that are alive together at the peak, as torch counts them. What a kernel takes for
itself comes on top, unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..models.chunked import TileGrid

PAST_FRAMES = 2
"""How many past frames a convolution of the autoencoder remembers."""


def decode_bytes(
    config: Mapping[str, Any],
    height: int,
    width: int,
    itemsize: int,
    *,
    tiles: TileGrid | None = None,
    kernel_copies: bool = False,
) -> int:
    """Peak of decoding a latent frame in the middle of a clip of three or more.

    Adds up what the convolutions remember of the clip, and the most that is alive beside it. With tiles, each
    one has its own memory, but only one is computed at a time.

    Args:
        config: of the autoencoder.
        height, width: pixels.
        itemsize: bytes of a value.
        tiles: in pixels; None for the whole image at once.
        kernel_copies: count the channels-last copies that cuDNN makes of what a convolution reads and writes.
    """
    grid = TileGrid((height, width), (height, width)) if tiles is None else tiles
    sizes = [
        tuple(
            min(window.stop, side) - window.start for window, side in zip(place, (height, width), strict=True)
        )
        for row in grid.windows(height, width)
        for place in row
    ]
    layers = [[*_convolutions(config, *size)] for size in sizes]
    remembered = sum(kept for tile in layers for kept, *_ in tile)
    work = max(alive + copies * kernel_copies for tile in layers for _, alive, copies in tile)
    frames = 2 ** sum(map(bool, config["temporal_up_sample"]))
    stitched = 0 if len(sizes) == 1 else config["out_channels"] * frames * height * width
    return (remembered + work + stitched) * itemsize


def _convolutions(config: Mapping[str, Any], height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """For each convolution of the decoder: values remembered, alive around it, read and written."""
    ratio = 2 ** sum(map(bool, config["spatial_up_sample"]))
    area, frames = (height // ratio) * (width // ratio), 1

    def convolution(held: int, channels: int, out: int) -> tuple[int, int, int]:
        """`held`: alive beside what the convolution reads (after the past) and writes; all per pixel."""
        kept = PAST_FRAMES * channels * area
        read = kept + channels * frames * area
        return kept, held * area + read + out * area + kept, read + out * area

    def resnet(channels: int, out: int) -> Iterator[tuple[int, int, int]]:
        yield convolution(2 * channels * frames, channels, out * frames)
        yield convolution((channels + 2 * out) * frames, out, out * frames)

    channels = config["decoder_block_out_channels"][-1]
    yield convolution(config["latent_channels"], config["latent_channels"], channels)
    for _ in range(2):
        yield from resnet(channels, channels)
    levels = zip(
        config["decoder_layers_per_block"],
        reversed(config["decoder_block_out_channels"]),
        config["spatial_up_sample"],
        config["temporal_up_sample"],
        strict=True,
    )
    for num_layers, out, space, time in levels:
        for _ in range(num_layers):
            yield from resnet(channels, out)
            channels = out
        for is_wanted, factor in ((space, 4), (time, 2)):
            if not is_wanted:
                continue
            more = factor * channels * frames
            yield convolution(channels * frames, channels, more)
            yield 0, (channels * frames + 2 * more) * area, 0  # channels become pixels or frames
            if factor == 4:
                area *= 4
            else:
                frames *= 2
    yield convolution(2 * channels * frames, channels, config["out_channels"] * frames)
