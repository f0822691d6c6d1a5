"""The smallest pipelines of diffusers' own classes: random weights, real tokenizers, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.conftest import REFERENCE

_WIDTH = 32
"""Of the texts' embeddings."""


def _t5() -> dict[str, Any]:
    folder = REFERENCE / "miniflux-tiny"
    return {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
        "text_encoder": T5EncoderModel.from_pretrained(folder / "text_encoder_2").eval(),
    }


def _umt5() -> dict[str, Any]:
    parts = _t5()
    config = UMT5Config(
        vocab_size=parts["text_encoder"].config.vocab_size,
        d_model=_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
    )
    return parts | {"text_encoder": UMT5EncoderModel(config).eval()}


def _wan_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def _wan_like() -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": _WIDTH, "freq_dim": 16, "ffn_dim": 16, "num_layers": 1,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
    }  # fmt: skip


def wan() -> DiffusionPipeline:
    transformer = WanTransformer3DModel(**_wan_like())
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return WanPipeline(vae=_wan_vae(), transformer=transformer, scheduler=scheduler, **_umt5())


def skyreels() -> DiffusionPipeline:
    transformer = SkyReelsV2Transformer3DModel(**_wan_like())
    scheduler = UniPCMultistepScheduler(
        flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    return SkyReelsV2DiffusionForcingPipeline(
        vae=_wan_vae(), transformer=transformer, scheduler=scheduler, **_umt5()
    )


def ltx() -> DiffusionPipeline:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=1, caption_channels=_WIDTH,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(True, True, True, True, True),
        upsample_residual=(False, False, False, False), upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=True, patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler()
    for key, weight in vae.named_parameters():  # else the noise counts for nothing
        if "per_channel_scale" in key:
            weight.data.fill_(0.5)
    return LTXPipeline(vae=vae, transformer=transformer, scheduler=scheduler, **_t5())


def _cogvideox(scheduler: Any) -> DiffusionPipeline:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2,
        text_embed_dim=_WIDTH, num_layers=1, sample_width=2, sample_height=2, sample_frames=9, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=16,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    return CogVideoXPipeline(vae=vae, transformer=transformer, scheduler=scheduler, **_t5())


def cogvideox_ddim() -> DiffusionPipeline:
    return _cogvideox(CogVideoXDDIMScheduler())


def cogvideox_dpm() -> DiffusionPipeline:
    return _cogvideox(CogVideoXDPMScheduler())


def hunyuan() -> DiffusionPipeline:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, act_fn="silu", norm_num_groups=4,
        scaling_factor=0.476986, spatial_compression_ratio=8, temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "miniflux-tiny" / "tokenizer")
    sizes = {
        "vocab_size": len(tokenizer),
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    llama = LlamaModel(LlamaConfig(hidden_size=16, pad_token_id=1, **sizes)).eval()
    clip = CLIPTextModel(CLIPTextConfig(hidden_size=8, projection_dim=8, **sizes)).eval()
    return HunyuanVideoPipeline(
        text_encoder=llama, tokenizer=tokenizer, transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder_2=clip, tokenizer_2=tokenizer,
    )  # fmt: skip


def helios() -> DiffusionPipeline:
    """Its covariance is singular at the published gamma of 1/3, where its Cholesky raises on a CPU."""
    transformer = HeliosTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=_WIDTH, freq_dim=16, ffn_dim=16, num_layers=1, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_dim=(4, 4, 4), has_multi_term_memory_patch=True,
        guidance_cross_attn=True, zero_history_timestep=True,
    )  # fmt: skip
    return HeliosPyramidPipeline(
        vae=_wan_vae(), transformer=transformer, scheduler=HeliosScheduler(stages=3, gamma=0.3), **_umt5()
    )


_SMALL = {"num_inference_steps": 2, "guidance_scale": 2.0, "max_sequence_length": 16}
PIPELINES: dict[str, tuple[Callable[[], DiffusionPipeline], dict[str, Any]]] = {
    "Wan": (wan, {"height": 16, "width": 16, "num_frames": 9, **_SMALL}),
    "LTX": (ltx, {
        "height": 32, "width": 32, "num_frames": 9, **_SMALL,
        "decode_timestep": 0.05, "decode_noise_scale": 0.025,
    }),
    "CogVideoX DDIM": (cogvideox_ddim, {"height": 16, "width": 16, "num_frames": 8, **_SMALL}),
    "CogVideoX DPM": (cogvideox_dpm, {
        "height": 16, "width": 16, "num_frames": 8, **_SMALL, "num_inference_steps": 3,
    }),
    "SkyReels": (skyreels, {
        "height": 16, "width": 16, "num_frames": 17, "base_num_frames": 9, "overlap_history": 5,
        "addnoise_condition": 20, **_SMALL,
    }),
    "HunyuanVideo": (hunyuan, {
        "height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": 16,
        "prompt_template": {"template": "{}", "crop_start": 0},
    }),
    "Helios": (helios, {
        "height": 64, "width": 64, "num_frames": 33, "pyramid_num_inference_steps_list": [1, 1, 1],
        "num_latent_frames_per_chunk": 5, "guidance_scale": 2.0, "max_sequence_length": 16,
    }),
}  # fmt: skip
"""What makes each, and the arguments of a small call."""


@cache
def made(name: str) -> tuple[DiffusionPipeline, dict[str, Any]]:
    """A pipeline, the same in every process, and a call of it; shared, so not to be changed."""
    make, call = PIPELINES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = make()
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    texts: dict[str, Any] = {"prompt": "a boat", "negative_prompt": "red"}
    if name in ("SkyReels", "Helios"):  # they clean texts with a package that is none of our dependencies
        numbers = torch.Generator().manual_seed(1)
        names = ("prompt_embeds", "negative_prompt_embeds")
        texts = {"prompt": None} | {key: torch.randn(1, 16, _WIDTH, generator=numbers) for key in names}
    return pipe, {**call, **texts, "output_type": "np"}
