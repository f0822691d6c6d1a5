"""Train the causal video autoencoder of the embedded model.

    python scripts/tiny/train_vae.py

The linear codec is the teacher: the encoder learns to produce its latents, the decoder to turn such
latents, with a little noise on them, into pixels. So the latent space is known before training starts, and
the decoder forgives what a transformer gets slightly wrong. Needs the codec that `train_transformer.py`
writes when it starts. A checkpoint is written every few minutes, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import world
from clips import frames_of, render_seeds
from codec import LATENT_CHANNELS, LinearCodec
from recognise import recognise
from training import (
    WORK_FOLDER,
    append_log,
    draw_curves,
    load_checkpoint,
    pick_device,
    save_checkpoint,
    smooth,
    update_average,
    warmup_then_cosine,
)

from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo

BLOCK_CHANNELS = (16, 32, 64)
LATENT_NOISE = 0.15
CLEAN_SHARE = 1 / 3
"""Clips that are decoded without noise on their latents."""

POSTERIOR_LOG_VARIANCE = -6.0
EDGE_WEIGHT = 0.3
ENCODER_INTERVAL = 4
"""The encoder, which has the easier task, learns in every so many steps."""

COLOUR_AXES = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [-1.0, -1.0, 2.0]])
COLOUR_AXES /= COLOUR_AXES.norm(dim=1, keepdim=True)
COLOUR_AXES *= torch.tensor([[1.0], [3.0], [1.5]])
"""Brightness, red-green and blue-yellow, weighted: the grounds have no colour, so the colour axes are a
small part of the plain error, and the last to be learned."""
EMA_DECAY = 0.995


def build_vae() -> AutoencoderKLCausalVideo:
    """The embedded model's VAE with fresh weights: compression 4x4x4, latents of unit size."""
    vae = AutoencoderKLCausalVideo(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=BLOCK_CHANNELS,
        decoder_block_out_channels=BLOCK_CHANNELS,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(2, 2, 1),
        spatial_down_sample=(True, True, False),
        temporal_down_sample=(True, True, False),
        spatial_up_sample=(True, True, False),
        temporal_up_sample=(True, True, False),
        norm_num_groups=8,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
        video_shift_factor=0.0,
        video_scaling_factor=1.0,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("conv2.conv.weight"):
                parameter.mul_(0.1)  # small residual branches train faster from the start
        for convolution in (vae.quant_conv.conv, vae.post_quant_conv.conv):
            torch.nn.init.dirac_(convolution.weight)
            torch.nn.init.zeros_(convolution.bias)
        log_variance = vae.encoder.conv_out.conv
        log_variance.weight[LATENT_CHANNELS:].zero_()
        log_variance.bias[LATENT_CHANNELS:].fill_(POSTERIOR_LOG_VARIANCE)
    return vae


def frame_differences(clip: torch.Tensor) -> list[torch.Tensor]:
    """Differences between neighbours in time, rows and columns: where edges and motion are."""
    return [clip.diff(dim=dim) for dim in range(2, clip.ndim)]


def pixel_loss(prediction: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
    """Mean squared error on the weighted colour axes, plus a share of that of neighbours' differences."""
    axes = COLOUR_AXES.to(clip.device)
    prediction, clip = (torch.einsum("ac,bcthw->bathw", axes, pixels) for pixels in (prediction, clip))
    edges = [
        F.mse_loss(ours, theirs)
        for ours, theirs in zip(frame_differences(prediction), frame_differences(clip), strict=True)
        if theirs.numel()
    ]
    return F.mse_loss(prediction, clip) + EDGE_WEIGHT * torch.stack(edges).sum()


def encoder_loss(vae: AutoencoderKLCausalVideo, clip: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the posterior's mean; its variance stays what it was set to."""
    moments = vae.quant_conv(vae.encoder(clip))
    mean, log_variance = moments.chunk(2, dim=1)
    return F.mse_loss(mean, latents) + 0.01 * (log_variance - POSTERIOR_LOG_VARIANCE).pow(2).mean()


@torch.no_grad()
def validate(vae: AutoencoderKLCausalVideo, clips: torch.Tensor, seeds: range) -> dict[str, float]:
    """PSNR in dB of encoding and decoding, and the share of clips still recognised in all attributes."""
    decoded = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in clips.split(4)])
    error = (decoded.clamp(-1, 1) - clips).pow(2)
    right = [
        all(recognise(frames_of(clip)).agrees_with(world.sample_scene(seed)).values())
        for clip, seed in zip(decoded, seeds, strict=True)
    ]
    return {
        "psnr": float(10 * torch.log10(4 / error.mean())),
        "psnr_first_frame": float(10 * torch.log10(4 / error[:, :, :1].mean())),
        "recognised": float(np.mean(right)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=WORK_FOLDER / "vae", help="folder to write to")
    parser.add_argument("--codec", type=Path, default=WORK_FOLDER / "transformer" / "codec.pt")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of the products")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="stop at this step (the schedule is that of --steps)")
    parser.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    torch.manual_seed(arguments.seed)

    arguments.out.mkdir(parents=True, exist_ok=True)
    saved_codec = torch.load(arguments.codec, map_location=device, weights_only=True)
    codec = LinearCodec(saved_codec["first"], saved_codec["later"])
    vae = build_vae().to(device)
    average = copy.deepcopy(vae).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    generator = torch.Generator(device).manual_seed(arguments.seed)
    checkpoint, log = arguments.out / "checkpoint.pt", arguments.out / "log.jsonl"
    first_step, seconds_before = 0, 0.0
    if (state := load_checkpoint(checkpoint, device)) is not None:
        vae.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"].cpu())
        first_step, seconds_before = state["step"], state["seconds"]
        print(f"going on from step {first_step}")

    held_out_seeds = world.HELD_OUT_SEEDS[:24]
    held_out = render_seeds(held_out_seeds).to(device)
    last_step = min(arguments.steps, arguments.stop_after or arguments.steps)
    started = last_save = time.perf_counter()
    smoothed: dict[str, float] = {}
    for step in range(first_step, last_step):
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * warmup_then_cosine(step, arguments.steps, 100)
        seeds = world.TRAIN_SEEDS[step * arguments.batch_size : (step + 1) * arguments.batch_size]
        clip = render_seeds(seeds).to(device)
        latents = codec.encode(clip)
        level = torch.rand(len(seeds), 1, 1, 1, 1, generator=generator, device=device)
        level = LATENT_NOISE * (level - CLEAN_SHARE).clamp(min=0) / (1 - CLEAN_SHARE)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            decoded = vae.decode(latents + level * noise).sample
            losses = {"train_pixels": pixel_loss(decoded.float(), clip)}
            if step % ENCODER_INTERVAL == 0:
                losses["train_latents"] = encoder_loss(vae, clip, latents)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        update_average(average, vae, min(EMA_DECAY, (step + 1) / (step + 10)))
        for name, loss in losses.items():
            smoothed[name] = smooth(smoothed.get(name), loss.item())

        done, now = step + 1, time.perf_counter()
        if done % 100 == 0 or done == last_step:
            scores = validate(average, held_out, held_out_seeds)
            row = {"step": done, "seconds": seconds_before + now - started, **smoothed, **scores}
            append_log(log, row)
            print(" ".join(f"{name}={value:.4g}" for name, value in row.items()), flush=True)
        if now - last_save > 180 or done == last_step:
            last_save = now
            save_checkpoint(
                checkpoint,
                {
                    "model": vae.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "step": done,
                    "seconds": seconds_before + now - started,
                },
            )
            average.save_pretrained(arguments.out / "model")
            draw_curves(log, arguments.out / "curves.png", "VAE of the embedded model")


if __name__ == "__main__":
    main()
