"""Train the causal video autoencoder of the embedded model.

    python scripts/tiny/train_vae.py

The linear codec is the teacher, and the VAE starts as the codec with the best linear decoder
(`linear_start.py`). The encoder stays that, since it is exact, and so does what is linear in the decoder. Its
resnets, which add nothing at first, learn what a linear map cannot do: to turn the codec's latents, some with
a little noise on them, into pixels, so that it forgives what a transformer gets slightly wrong. A checkpoint
is written every few minutes, and the same command goes on from it. To end a training early, start it again
with fewer --steps, at least --decay-steps more than were made.
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
from codec import LATENT_CHANNELS, load_codec
from linear_start import LinearDecoder, codec_inverse, fit_decoder, start_as_codec
from recognise import recognise
from torch import nn
from training import (
    WORK_FOLDER,
    Schedule,
    append_log,
    check_same_beginning,
    digest_of,
    draw_curves,
    load_checkpoint,
    pick_device,
    save_checkpoint,
    smooth,
    update_average,
)

from pyramid_seed.models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo

ENCODER_CHANNELS = (24, 48, 80)
DECODER_CHANNELS = (16, 32, 64)
CLIP_SHAPES = ((5, 4), (9, 2), (17, 1))
"""Frames and clips of a batch, in turn: few and many of each, at about the same cost."""

LATENT_NOISE = 0.3
CLEAN_SHARE = 1 / 2
"""Clips that are decoded without noise on their latents."""

POSTERIOR_LOG_VARIANCE = -6.0
GATE = "mid_block.resnets.0"
"""The resnet that tells the first frame from the later ones."""

WARMUP_STEPS = 50
VALIDATION_CLIPS = 12
FITTED_CLIPS = 160
_START_STRIDE = 7  # from step to step; has no divisor in common with the numbers of starts, 29, 25 and 17
EMA_DECAY = 0.995


def build_vae(decoder: LinearDecoder | None = None) -> AutoencoderKLCausalVideo:
    """The embedded model's VAE, compression 4x4x4; it starts as the codec, or with another linear decoder.

    Norms have one group: with more of them, channels lose their relative size, and a decoder helps itself
    with a bright spot somewhere, which is then seen as a ring.
    """
    vae = AutoencoderKLCausalVideo(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=ENCODER_CHANNELS,
        decoder_block_out_channels=DECODER_CHANNELS,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(2, 2, 1),
        spatial_down_sample=(True, True, False),
        temporal_down_sample=(True, True, False),
        spatial_up_sample=(True, True, False),
        temporal_up_sample=(True, True, False),
        norm_num_groups=1,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
        video_shift_factor=0.0,
        video_scaling_factor=1.0,
    )
    with torch.no_grad():
        log_variance = vae.encoder.conv_out.conv
        log_variance.weight[LATENT_CHANNELS:].zero_()
        log_variance.bias[LATENT_CHANNELS:].fill_(POSTERIOR_LOG_VARIANCE)
    codec = load_codec()
    start_as_codec(vae, codec, decoder or codec_inverse(codec))
    return vae


def training_clips(step: int) -> torch.Tensor:
    """The clips of one step, (B, 3, T, 64, 64) in [-1, 1]: new scenes, from any of their frames on."""
    frames, count = CLIP_SHAPES[step % len(CLIP_SHAPES)]
    first = step * max(count for _, count in CLIP_SHAPES)
    clips = render_seeds(world.TRAIN_SEEDS[first : first + count], world.TRAIN_FRAMES)
    start = step // len(CLIP_SHAPES) * _START_STRIDE % (world.TRAIN_FRAMES - frames + 1)
    return clips[:, :, start : start + frames]


class ResnetOptimizer:
    """Muon for the kernels of the decoder's resnets, AdamW for their norms and biases; nothing else learns.

    torch's Muon takes matrices: a kernel is one of (outputs, inputs and places), and shares its memory.
    """

    def __init__(self, decoder: nn.Module, learning_rate: float) -> None:
        trained = [
            parameter
            for name, parameter in decoder.named_parameters()
            if "resnets" in name and "conv_shortcut" not in name and not name.startswith(GATE)
        ]
        for parameter in trained:
            parameter.requires_grad_(True)
        self.parameters = trained
        self._kernels = [parameter for parameter in trained if parameter.ndim > 1]
        self._matrices = [nn.Parameter(kernel.detach().flatten(1)) for kernel in self._kernels]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                self._matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(
                [parameter for parameter in trained if parameter.ndim == 1],
                lr=learning_rate,
                betas=(0.9, 0.99),
                weight_decay=0.0,
            ),
        ]
        self._learning_rate = learning_rate

    def step(self, factor: float) -> None:
        """One step at a part of the learning rate, from the gradients of `parameters`, which it drops."""
        for matrix, kernel in zip(self._matrices, self._kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self._learning_rate * factor
            part.step()
        for parameter in self.parameters:
            parameter.grad = None


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
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--decay-steps", type=int, default=1000, help="the last ones, with a falling rate")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of the products")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="stop at this step (the schedule is that of --steps)")
    parser.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    torch.manual_seed(arguments.seed)

    arguments.out.mkdir(parents=True, exist_ok=True)
    codec = load_codec(device)
    fitted = render_seeds(world.TRAIN_SEEDS[-FITTED_CLIPS:], world.TRAIN_FRAMES)
    vae = build_vae(fit_decoder(load_codec(), fitted)).to(device)
    average = copy.deepcopy(vae).eval().requires_grad_(False)
    vae.requires_grad_(False)
    optimizer = ResnetOptimizer(vae.decoder, arguments.learning_rate)
    generator = torch.Generator(device).manual_seed(arguments.seed)
    schedule = Schedule(arguments.steps, WARMUP_STEPS, arguments.decay_steps)
    checkpoint, log = arguments.out / "checkpoint.pt", arguments.out / "log.jsonl"
    first_step, seconds_before = 0, 0.0
    if (state := load_checkpoint(checkpoint, device)) is not None:
        check_same_beginning(state, {"seed": arguments.seed})
        vae.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for part, saved in zip(optimizer.parts, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        generator.set_state(state["generator"].cpu())
        first_step, seconds_before = state["step"], state["seconds"]
        schedule.check_resumable(first_step, Schedule(*state["schedule"]))
        print(f"going on from step {first_step}")

    held_out_seeds = world.HELD_OUT_SEEDS[:VALIDATION_CLIPS]
    held_out = render_seeds(held_out_seeds).to(device)
    last_step = min(arguments.steps, arguments.stop_after or arguments.steps)
    started = last_save = time.perf_counter()
    smoothed: float | None = None
    for step in range(first_step, last_step):
        clip = training_clips(step).to(device)
        latents = codec.encode(clip)
        level = torch.rand(len(clip), 1, 1, 1, 1, generator=generator, device=device)
        level = LATENT_NOISE * (level - CLEAN_SHARE).clamp(min=0) / (1 - CLEAN_SHARE)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            decoded = vae.decode(latents + level * noise).sample
            loss = F.mse_loss(decoded.float(), clip)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1.0)
        optimizer.step(schedule.factor(step))
        update_average(average, vae, min(EMA_DECAY, (step + 1) / (step + 10)))
        smoothed = smooth(smoothed, loss.item())

        done, now = step + 1, time.perf_counter()
        if done % 100 == 0 or done == last_step:
            scores = validate(average, held_out, held_out_seeds)
            row = {"step": done, "seconds": seconds_before + now - started, "train_loss": smoothed, **scores}
            append_log(log, row)
            print(" ".join(f"{name}={value:.4g}" for name, value in row.items()), flush=True)
        if now - last_save > 180 or done == last_step:
            last_save = now
            save_checkpoint(
                checkpoint,
                {
                    "model": vae.state_dict(),
                    "average": average.state_dict(),
                    "optimizers": [part.state_dict() for part in optimizer.parts],
                    "generator": generator.get_state(),
                    "step": done,
                    "schedule": (schedule.steps, schedule.warmup, schedule.decay),
                    "seconds": seconds_before + now - started,
                    "seed": arguments.seed,
                },
            )
            average.save_pretrained(arguments.out / "model")
            draw_curves(log, arguments.out / "curves.png", "VAE of the embedded model")
    print(f"step {last_step}, weights {digest_of(average)}")


if __name__ == "__main__":
    main()
