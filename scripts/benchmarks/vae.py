"""`vae`: decoding a clip, against overlapping tiles; and its peak memory by length, in fresh processes."""

from __future__ import annotations

import argparse

import torch

from pyramid_seed import AutoencoderKLCausalVideo
from pyramid_seed.pipelines.decode import decode_chunks, to_uint8

from .baseline import decode_in_overlapping_tiles
from .fresh import run_fresh
from .measure import BASELINE, PRODUCT, Bar, Result, compared
from .sizes import SIZES, Size, device_for, make_vae

NUM_UNITS = 3
"""Latent frames whose decoding is timed: 17 frames of the published structure."""
LENGTHS = {"tiny": (2, 4), "mid": (4, 16), "full": (4, 16)}
"""Latent frames of the two clips whose peak memory is compared: 25 and 121 frames, 5 and 13 for tiny."""
TILES = {"tiny": (32, 24)}


@torch.no_grad()
def measure(options: argparse.Namespace) -> Result:
    """Normalised latents to uint8 frames."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    vae = make_vae(size, device)
    latents = random_latents(vae, size, NUM_UNITS, device)
    row = compared(
        f"{NUM_UNITS} latent frames of {size.height}x{size.width}",
        lambda: decode_streaming(vae, latents),
        lambda: decode_in_overlapping_tiles(vae, latents, *TILES.get(size.name, ())),
        options.repeats,
        device,
    )
    peaks = {}
    if not options.no_memory:
        for label in (PRODUCT, BASELINE):
            peaks[label] = [_peak(size, label, units, options.device) for units in LENGTHS[size.name]]
    bars = []
    if size.name != "tiny":
        bars.append(Bar("VAE decode", row.median_ratio, 1.3))
    factor = vae.temporal_compression_ratio
    counts = [(units - 1) * factor + 1 for units in LENGTHS[size.name]]
    if peaks:
        bars += memory_bars(size, counts[1] - counts[0], *peaks[PRODUCT])
    return Result(
        command="vae",
        what=f"decoder of {size.description}, to frames of 8 bits",
        baseline="tiles of 256 pixels every 192, each over the whole clip, blended line by line; the clip in "
        "memory"
        if size.name != "tiny"
        else "tiles of 32 pixels every 24, otherwise the same",
        rows=[row],
        bars=bars,
        facts={
            f"peak bytes, {label}, {count} frames": peak
            for label, own in peaks.items()
            for count, peak in zip(counts, own, strict=True)
        },
        device=device,
    )


def memory_bars(size: Size, more_frames: int, short: int, long: int) -> list[Bar]:
    """What is asked of the peak memory, in bytes, of decoding a short clip and one with `more_frames` more.

    The ratio is one of whole processes, in which interpreter and torch weigh most: whoever holds the clip may
    pass it. So the growth has a limit, too: half of the least that holding them takes, a byte a value.
    Of the tiny size that is less than what the allocator's rounding makes of a peak.
    """
    bars = [Bar("peak memory, long / short clip", long / short, 1.1, is_lower_limit=False)]
    if size.name != "tiny":
        held = more_frames * size.height * size.width * 3
        growth, limit = (long - short) / 2**20, held / 2 / 2**20
        bars.append(Bar("peak memory, long - short clip, MiB", growth, limit, is_lower_limit=False))
    return bars


def random_latents(
    vae: AutoencoderKLCausalVideo, size: Size, units: int, device: torch.device
) -> torch.Tensor:
    """Normalised latents (1, C, units, h, w), float32."""
    ratio = vae.spatial_compression_ratio
    shape = (1, vae.config.latent_channels, units, size.height // ratio, size.width // ratio)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def decode_streaming(vae: AutoencoderKLCausalVideo, latents: torch.Tensor) -> int:
    """Decode as a generation does, each chunk handed on and dropped; how many frames there were."""
    return sum(to_uint8(chunk).cpu().shape[1] for chunk in decode_chunks(vae, latents))


@torch.no_grad()
def decode_once(size_name: str, way: str, units: int, device: str | None) -> None:
    """What a fresh process does whose peak is taken."""
    size = SIZES[size_name]
    chosen = device_for(size, device)
    vae = make_vae(size, chosen)
    latents = random_latents(vae, size, units, chosen)
    if way == PRODUCT:
        decode_streaming(vae, latents)
    else:
        decode_in_overlapping_tiles(vae, latents, *TILES.get(size_name, ()))


def _peak(size: Size, way: str, units: int, device: str | None) -> int:
    return run_fresh("benchmarks.vae", "decode_once", [size.name, way, units, device])["peak"]
