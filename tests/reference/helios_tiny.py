"""Tiny Helios models with random weights, and what diffusers' own pipelines make of them.

    python tests/reference/helios_tiny.py    # record the vectors anew, beside this file

The weights follow from a seed, drawn in float64 and so equal on all machines. Of diffusers' pipelines only
the draws are replaced: white noise is that of `NoiseStreams`, and block noise is its product with the square
root of the covariance (their Cholesky root of the same matrix raises, as it is singular). What they draw for
an image or a video is answered in the order in which they ask.
"""

from __future__ import annotations

import types
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    HeliosDMDScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
)
from diffusers.models.autoencoders import vae as autoencoder
from diffusers.pipelines.helios import pipeline_helios, pipeline_helios_pyramid
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from pyramid_seed.noise import NoiseKey, NoiseStreams

HERE = Path(__file__).parent
CHANNELS, WIDTH = 4, 16
PROMPT, NEGATIVE, SEED = "a red circle moves to the right", "blurry", 2**63 + 11
# Two tokens side by side at the coarsest stage: with one, diffusers' CFG-Zero* raises.
SIZE: dict[str, Any] = {"height": 64, "width": 128, "num_frames": 66, "max_sequence_length": 16}
PICTURE = Image.open(HERE / "i2v_input.png").convert("RGB").resize((128, 64))
VIDEO = [Image.fromarray(np.roll(np.asarray(PICTURE), shift, axis=1)) for shift in range(132)]
LATENT_FRAMES = [0, 8, -9, -1]
"""Which latent frames are recorded: the first and the last one of the first and of the last chunk."""


@dataclass(frozen=True)
class Case:
    """A recorded clip: its model, the arguments of diffusers' call, those of ours, and those of both."""

    model: str
    theirs: dict[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)
    both: dict[str, Any] = field(default_factory=lambda: dict(SIZE))


CASES = {
    "base_guided": Case(
        "base",
        {"num_inference_steps": 3, "guidance_scale": 5.0},
        {"num_inference_steps": 3, "guidance_scale": 5.0},
    ),
    "mid_guided": Case(
        "mid",
        {"pyramid_num_inference_steps_list": [3, 2, 2], "guidance_scale": 5.0},
        {"num_inference_steps": [3, 2, 2], "guidance_scale": 5.0},
    ),
    "mid_unguided": Case(
        "mid",
        {"pyramid_num_inference_steps_list": [2, 2, 2], "guidance_scale": 1.0},
        {"num_inference_steps": 2, "guidance_scale": 1.0},
    ),
    "distilled_guided": Case(
        "distilled",
        {"pyramid_num_inference_steps_list": [2, 1, 2], "guidance_scale": 3.0},
        {"num_inference_steps": [2, 1, 2], "guidance_scale": 3.0},
    ),
    # An amplified first chunk has twice the steps.
    "distilled_unguided": Case(
        "distilled",
        {
            "pyramid_num_inference_steps_list": [1, 2, 1],
            "guidance_scale": 1.0,
            "is_amplify_first_chunk": True,
        },
        {"num_inference_steps": [2, 4, 2], "video_num_inference_steps": [1, 2, 1], "guidance_scale": 1.0},
    ),
    # Four chunks: of what the image puts before the first, the last one has only the image as a condition.
    "base_guided_image": Case(
        "base",
        {"num_inference_steps": 2, "guidance_scale": 5.0},
        {"num_inference_steps": 2, "guidance_scale": 5.0},
        {**SIZE, "image": PICTURE, "num_frames": 132},
    ),
    "mid_guided_image": Case(
        "mid",
        {"pyramid_num_inference_steps_list": [1, 2, 1], "guidance_scale": 5.0},
        {"num_inference_steps": [1, 2, 1], "guidance_scale": 5.0},
        {**SIZE, "image": PICTURE},
    ),
    "distilled_unguided_image": Case(
        "distilled",
        {
            "pyramid_num_inference_steps_list": [1, 1, 1],
            "guidance_scale": 1.0,
            "is_amplify_first_chunk": True,
        },
        {"num_inference_steps": 2, "video_num_inference_steps": 1, "guidance_scale": 1.0},
        {**SIZE, "image": PICTURE},
    ),
    # Four chunks, more than the history holds.
    "base_guided_video": Case(
        "base",
        {"num_inference_steps": 2, "guidance_scale": 5.0},
        {"num_inference_steps": 2, "guidance_scale": 5.0},
        {**SIZE, "video": VIDEO},
    ),
    "distilled_unguided_video": Case(
        "distilled",
        {"pyramid_num_inference_steps_list": [1, 1, 1], "guidance_scale": 1.0},
        {"num_inference_steps": 1, "guidance_scale": 1.0},
        {**SIZE, "video": VIDEO[:33]},
    ),
}


def with_weights(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The model in evaluation mode with random weights that make values of moderate size."""
    numbers = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        values = torch.randn(weight.shape, generator=numbers, dtype=torch.float64)
        scale = max(weight[0].numel(), 1) ** -0.5 if weight.ndim > 1 else 0.1
        mean = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0
        weight.data = (mean + scale * values).to(torch.float32)
    return model.eval()


def pipeline(name: str) -> HeliosPipeline | HeliosPyramidPipeline:
    """diffusers' pipeline of the tiny model "base", "mid" or "distilled"."""
    tokenizer = AutoTokenizer.from_pretrained(HERE / "miniflux-tiny" / "tokenizer_2")
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 2.5, 3.0], temperal_downsample=[False, True, True],
    )  # fmt: skip
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    transformer = HeliosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS,
        text_dim=WIDTH, freq_dim=16, ffn_dim=16, num_layers=1, rope_dim=(4, 4, 4),
    )  # fmt: skip
    parts = {
        "tokenizer": tokenizer,
        "vae": with_weights(vae, 1),
        "text_encoder": with_weights(encoder, 2),
        "transformer": with_weights(transformer, 3),
    }
    if name == "base":
        return HeliosPipeline(**parts, scheduler=HeliosScheduler(stages=1))
    if name == "mid":
        return HeliosPyramidPipeline(**parts, scheduler=HeliosScheduler(), is_cfg_zero_star=True)
    return HeliosPyramidPipeline(**parts, scheduler=HeliosDMDScheduler(), is_distilled=True)


class _Draws:
    """The draws of a whole run of diffusers, in the order in which it makes them."""

    def __init__(self, gamma: float) -> None:
        self.streams, self.unit, self.stage = NoiseStreams(SEED), -1, 0
        covariance = (1 + gamma) * torch.eye(4, dtype=torch.float64) - gamma
        values, vectors = torch.linalg.eigh(covariance)
        self.root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T

    def initial(self, batch: int, channels: int, height: int, width: int, *_: Any, **__: Any) -> torch.Tensor:
        self.unit, self.stage = self.unit + 1, 0
        shape = (batch, channels, 9, height // 8, width // 8)
        return self.streams.draw(NoiseKey("initial", self.unit, 0), shape)

    def block(self, batch: int, channels: int, frames: int, height: int, width: int, *_: Any) -> torch.Tensor:
        self.stage += 1
        shape = (batch, channels, frames, height, width)
        white = self.streams.draw(NoiseKey("renoise", self.unit, self.stage), shape).double()
        blocks = white.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).transpose(-2, -3)
        coloured = (blocks.flatten(-2) @ self.root).unflatten(-1, (2, 2)).transpose(-2, -3)
        return coloured.flatten(-4, -3).flatten(-2).float()

    def for_given(self, num_chunks: int) -> dict[str, list[torch.Tensor]]:
        """What is drawn, in order, for an image or for a video of so many chunks, 0 for an image.

        Normal values for posteriors, uniform and normal ones.
        """
        drawn: dict[str, list[torch.Tensor]] = {"posteriors": [], "uniform": [], "noises": []}
        parts = [("image", 0, 1), *(("history", k, 9) for k in range(num_chunks))]
        for name, part, frames in parts if num_chunks else [*parts, ("history", 0, 1)]:
            prefix, size = f"{name}_", (frames, SIZE["height"] // 8, SIZE["width"] // 8)
            posterior = self._draw(f"{prefix.removeprefix('image_')}posterior", part, (1, CHANNELS, *size))
            # Of the whole chunk of an image that does not move, they use the last frame.
            is_unmoved = (name, frames) == ("history", 1)
            before = posterior.new_zeros(1, CHANNELS, 8 if is_unmoved else 0, *size[1:])
            drawn["posteriors"].append(torch.cat([before, posterior], dim=2))
            white = self._draw(f"{prefix}sigma", part, (1, 1, frames, 1, 1))
            drawn["uniform"].append(torch.special.ndtr(white.double()).float().flatten())
            drawn["noises"].append(self._draw(f"{prefix}noise", part, (1, CHANNELS, *size)))
        return drawn

    def _draw(self, stream: Any, stage: int, shape: tuple[int, ...]) -> torch.Tensor:
        return self.streams.draw(NoiseKey(stream, 0, stage), shape)


def recorded(case: Case) -> torch.Tensor:
    """Latents (1, C, 4, 8, 16) of what diffusers makes, normalised: those that it is about to decode."""
    pipe = pipeline(case.model)
    pipe.set_progress_bar_config(disable=True)
    draws = _Draws(pipe.scheduler.config.gamma)
    pipe.prepare_latents, pipe.sample_block_noise = draws.initial, draws.block
    chunks: list[torch.Tensor] = []
    decode = pipe.vae.decode
    names = ("latents_mean", "latents_std")
    mean, std = (torch.tensor(pipe.vae.config[name]).view(1, -1, 1, 1, 1) for name in names)

    def keep(values: torch.Tensor, **arguments: Any) -> Any:
        chunks.append((values - mean) / std)
        return decode(values, **arguments)

    pipe.vae.decode = keep
    drawn = draws.for_given(len(case.both.get("video", ())) // 33)
    # They ask for no other random number: each list is used up, or not begun.
    answers = [
        patch.object(autoencoder, "randn_tensor", lambda *_, **__: drawn["posteriors"].pop(0)),
        patch.object(torch, "rand", lambda *_, **__: drawn["uniform"].pop(0)),
        *(
            patch.object(module, "randn_tensor", lambda *_, **__: drawn["noises"].pop(0))
            for module in (pipeline_helios, pipeline_helios_pyramid)
        ),
    ]
    with ExitStack() as stack:
        for answer in answers:
            stack.enter_context(answer)
        pipe(PROMPT, NEGATIVE, **case.both, **case.theirs, output_type="np")
    begins_with_text = not {"image", "video"} & case.both.keys()
    assert {len(left) for left in drawn.values()} == {2 if begins_with_text else 0}
    return torch.cat(chunks, dim=2)[:, :, LATENT_FRAMES].contiguous()


def saved(name: str, folder: Path) -> str:
    """The model in a folder, as diffusers saves it."""
    pipeline(name).save_pretrained(folder)
    return str(folder)


def main() -> None:
    # Not one of our dependencies; plain prompts need none of its repairs.
    for module in (pipeline_helios, pipeline_helios_pyramid):
        module.ftfy = types.SimpleNamespace(fix_text=str)
    save_file({name: recorded(case) for name, case in CASES.items()}, HERE / "helios_tiny.safetensors")


if __name__ == "__main__":
    main()
