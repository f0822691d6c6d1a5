"""The sizes at which things are measured, and models of these sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils import logging
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers.utils import logging as transformers_logging

from pyramid_seed import (
    AutoencoderKLCausalVideo,
    PyramidFlowMatchEulerDiscreteScheduler,
    PyramidFlowPipeline,
    PyramidFluxTransformer3DModel,
    load_pipeline,
)
from pyramid_seed.loading import default_device

logging.disable_progress_bar()
transformers_logging.disable_progress_bar()

EMBEDDED = "embedded:tiny"
NUM_TEXT, NUM_REAL_TEXT = 128, 24
"""Text tokens, and how many of them are not padding: a prompt of one sentence."""
PROMPT = "a red circle moves to the right on a white background"


@dataclass(frozen=True)
class Size:
    """What is computed at a size.

    Attributes:
        name: tiny, mid or full.
        description: for people.
        height, width: pixels.
        num_units: units of the clip.
        num_steps: Euler steps of each stage, in all units.
        transformer, vae, t5, clip: arguments of models with random weights; empty for the embedded model.
        dtype: of weights and computation.
        needs_gpu: refuse to run on a CPU.
    """

    name: str
    description: str
    height: int
    width: int
    num_units: int
    num_steps: tuple[int, int, int]
    transformer: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    t5: Mapping[str, Any] = field(default_factory=dict)
    clip: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    needs_gpu: bool = False


TINY = Size("tiny", "the embedded model, 64x64", 64, 64, 5, (8, 8, 8))
MID = Size(
    "mid",
    "miniFLUX with 7 heads instead of 30 (109 M parameters) and its VAE a quarter as wide, 192x320, "
    "random weights",
    192,
    320,
    5,
    (1, 1, 1),
    transformer={"num_attention_heads": 7, "joint_attention_dim": 1024},
    vae={
        "encoder_block_out_channels": (32, 64, 128, 128),
        "decoder_block_out_channels": (32, 64, 128, 128),
        "norm_num_groups": 8,
    },
    t5={"d_model": 1024, "d_ff": 2816, "num_layers": 8, "num_heads": 16},
    clip={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4},
)
FULL = Size(
    "full",
    "miniFLUX (1.97 B parameters) with its VAE and T5-XXL, 768x1280, random weights",
    768,
    1280,
    16,
    (20, 20, 20),
    transformer={"num_attention_heads": 30},
    vae={"norm_num_groups": 32},
    t5={"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
    clip={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
    dtype=torch.bfloat16,
    needs_gpu=True,
)
SIZES = {size.name: size for size in (TINY, MID, FULL)}


def device_for(size: Size, device: str | None) -> torch.device:
    """The device to measure on: the one asked for, else the accelerator, else the CPU.

    Raises:
        ValueError: the size needs a GPU and the device is none.
    """
    chosen = torch.device(device) if device else default_device()
    if size.needs_gpu and chosen.type == "cpu":
        raise ValueError(
            f"--size {size.name} ({size.description}) needs a GPU, got the CPU; "
            "use --size mid, which is the same structure scaled down"
        )
    return chosen


def make_pipeline(size: Size, device: torch.device, *, with_text: bool = True) -> PyramidFlowPipeline:
    """A pipeline of a size; its random weights are the same each time (on one device).

    Tokenizers and scheduler are the embedded model's. Without text, the pipeline needs embeddings.
    """
    pipeline = load_pipeline(EMBEDDED, device="cpu")
    if not size.transformer:
        pipeline = pipeline.to(device)
    else:
        modules: dict[str, Any] = {"text_encoder": None, "text_encoder_2": None}
        with _seeded(device):
            modules["transformer"] = _frozen(PyramidFluxTransformer3DModel(**size.transformer), size)
            if with_text:
                modules["text_encoder"] = _frozen(_clip(size, len(pipeline.tokenizer)), size)
                modules["text_encoder_2"] = _frozen(_t5(size, len(pipeline.tokenizer_2)), size)
        pipeline = PyramidFlowPipeline(
            scheduler=PyramidFlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config),
            vae=make_vae(size, device),
            tokenizer=pipeline.tokenizer,
            tokenizer_2=pipeline.tokenizer_2,
            **modules,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_vae(size: Size, device: torch.device) -> AutoencoderKLCausalVideo:
    """The autoencoder of a size alone."""
    if not size.vae:
        return load_pipeline(EMBEDDED, device="cpu").vae.to(device)
    with _seeded(device):
        return _frozen(AutoencoderKLCausalVideo(**size.vae), size)


def call_settings(pipeline: PyramidFlowPipeline, size: Size) -> dict[str, Any]:
    """Arguments of the pipeline's call that make the clip of a size, guided throughout, from seed 0."""
    settings = {
        "height": size.height,
        "width": size.width,
        "num_frames": pipeline.geometry.num_frames(size.num_units),
        "num_inference_steps": list(size.num_steps),
        "guidance_scale": 5.0,
        "max_sequence_length": NUM_TEXT,
        "seed": 0,
    }
    if pipeline.text_encoder is not None:
        return {**settings, "prompt": PROMPT, "negative_prompt": ""}
    pair = text_inputs(pipeline.transformer, pipeline.device)
    names = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_attention_mask": "encoder_attention_mask",
        "pooled_prompt_embeds": "pooled_projections",
    }
    negative, positive = (
        {sign + name: pair[given][index : index + 1] for name, given in names.items()}
        for index, sign in enumerate(("negative_", ""))
    )
    return {**settings, **positive, **negative}


def text_inputs(transformer: PyramidFluxTransformer3DModel, device: torch.device) -> dict[str, torch.Tensor]:
    """Random text of a guidance pair, as the transformer takes it; `NUM_REAL_TEXT` of its tokens are real."""
    config, generator = transformer.config, torch.Generator().manual_seed(1)
    mask = (torch.arange(NUM_TEXT) < NUM_REAL_TEXT).long().repeat(2, 1)
    embeds = torch.randn(2, NUM_TEXT, config.joint_attention_dim, generator=generator)
    pooled = torch.randn(2, config.pooled_projection_dim, generator=generator)
    return {
        "encoder_hidden_states": embeds.to(device, transformer.dtype),
        "encoder_attention_mask": mask.to(device),
        "pooled_projections": pooled.to(device, transformer.dtype),
    }


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        yield


def _frozen(model: Any, size: Size) -> Any:
    kept = model._keep_in_fp32_modules or ()
    for name, weight in model.named_parameters():
        if not any(part in name.split(".") for part in kept):
            weight.data = weight.data.to(size.dtype)
    return model.eval().requires_grad_(False)


def _clip(size: Size, vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        **size.clip, vocab_size=vocabulary, num_attention_heads=12, max_position_embeddings=NUM_TEXT
    )
    return CLIPTextModel(config)


def _t5(size: Size, vocabulary: int) -> T5EncoderModel:
    config = T5Config(**size.t5, vocab_size=vocabulary, d_kv=64, feed_forward_proj="gated-gelu")
    return T5EncoderModel(config)
