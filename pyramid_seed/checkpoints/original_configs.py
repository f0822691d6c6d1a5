"""Turns the config.json of an original folder into arguments of our model, and accounts for every key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..families.pyramid_flow import MINIFLUX, PyramidFlowFamily


def values_of_original(
    title: str,
    config: Mapping[str, Any],
    *,
    copied: Mapping[str, str],
    fixed: Mapping[str, Any],
    needed: Collection[str] = (),
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The copied values of an original config under our names; every other key must be accounted for.

    Args:
        title: the config's name in messages.
        config: as read. Keys that begin with an underscore are diffusers' own and are ignored.
        copied: our name for each key whose value is copied; all must be there.
        fixed: keys for which our model implements only one value.
        needed: those in `fixed` that must be there, too.
        ignored: keys that mean nothing to us.

    Raises:
        ValueError: a key is missing or unknown, or a value is not the fixed one.
    """
    if missing := sorted({*copied, *needed} - set(config)):
        raise ValueError(f"{title} must have {', '.join(missing)}")
    for key, value in config.items():
        if key in fixed and value != fixed[key]:
            raise ValueError(f"{key} must be {fixed[key]!r} in {title}, got {value!r}")
        if not key.startswith("_") and key not in {*copied, *fixed, *ignored}:
            raise ValueError(f"unknown key {key!r} in {title}, with value {value!r}")
    return {ours: config[key] for key, ours in copied.items()}


# Values that the original's loader overrides, or that only concern its training.
_SET_BY_LOADER = (
    "use_flash_attn",
    "use_t5_mask",
    "use_temporal_causal",
    "add_temp_pos_embed",
    "temp_pos_embed_type",
    "interp_condition_pos",
    "use_gradient_checkpointing",
    "gradient_checkpointing_ratio",
)
_COMMON = (
    "in_channels",
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
)
_MINIFLUX_PATCH_SIZE = 2


def transformer_config_from_original(family: PyramidFlowFamily, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the family's transformer, from the config.json of an original diffusion_transformer.

    Raises:
        ValueError: a key is missing or unknown, or our model does not implement a value.
    """
    title = f"the original {family.name} transformer config"
    return _miniflux_config(title, config) if family is MINIFLUX else _sd3_config(title, config)


def _miniflux_config(title: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The original counts the channels of 2 x 2 patches made by its pipeline, as patches of size 1.

    Our model counts latent channels and makes the patches itself.
    """
    names = (*_COMMON, "num_single_layers", "axes_dims_rope")
    values = values_of_original(
        title,
        config,
        copied={name: name for name in names},
        fixed={"patch_size": 1},
        needed=["patch_size"],
        ignored=_SET_BY_LOADER,
    )
    channels, rest = divmod(values["in_channels"], _MINIFLUX_PATCH_SIZE**2)
    if rest:
        raise ValueError(
            f"in_channels must be a multiple of {_MINIFLUX_PATCH_SIZE**2} in {title}, "
            f"got {values['in_channels']}"
        )
    return values | {"in_channels": channels, "patch_size": _MINIFLUX_PATCH_SIZE}


def _sd3_config(title: str, config: Mapping[str, Any]) -> dict[str, Any]:
    names = (*_COMMON, "patch_size", "sample_size", "pos_embed_max_size")
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    fixed = {
        "pos_embed_type": "sincos",
        "qk_norm": "rms_norm",
        "caption_projection_dim": heads * head_dim if heads and head_dim else None,
    }
    return values_of_original(
        title,
        config,
        copied={name: name for name in names},
        fixed=fixed,
        needed=fixed,
        # max_num_frames belongs to sin-cos time positions, but the loader sets rotary ones.
        ignored=(*_SET_BY_LOADER, "max_num_frames"),
    )


VAE_NAMES = {
    "encoder_in_channels": "in_channels",
    "encoder_out_channels": "latent_channels",
    "encoder_block_out_channels": "encoder_block_out_channels",
    "encoder_layers_per_block": "encoder_layers_per_block",
    "encoder_spatial_down_sample": "spatial_down_sample",
    "encoder_temporal_down_sample": "temporal_down_sample",
    "encoder_norm_num_groups": "norm_num_groups",
    "decoder_out_channels": "out_channels",
    "decoder_block_out_channels": "decoder_block_out_channels",
    "decoder_layers_per_block": "decoder_layers_per_block",
    "decoder_spatial_up_sample": "spatial_up_sample",
    "decoder_temporal_up_sample": "temporal_up_sample",
}
"""Our name for each key of the original's VAE config whose value is copied."""
_VAE_FIXED = {
    "encoder_act_fn": "silu",
    "decoder_act_fn": "silu",
    "encoder_type": "causal_vae_conv",
    "decoder_type": "causal_vae_conv",
    "encoder_double_z": True,
    "add_post_quant_conv": True,
}
# sample_size only sets the size of tiles, the original never uses scaling_factor, and its loader sets
# interpolate to False whatever the file says.
_VAE_IGNORED = ("sample_size", "scaling_factor", "interpolate")


def vae_config_from_original(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `AutoencoderKLCausalVideo`, from the config.json in an original causal_video_vae folder.

    The latent statistics are not in that file: miniFLUX's are used unless the caller sets others.

    Raises:
        ValueError: a needed key is missing, or this model does not implement a value.
    """
    num_down = len(config.get("encoder_block_out_channels", ()))
    num_up = len(config.get("decoder_block_out_channels", ()))
    fixed = _VAE_FIXED | {
        "encoder_down_block_types": ["DownEncoderBlockCausal3D"] * num_down,
        "decoder_up_block_types": ["UpDecoderBlockCausal3D"] * num_up,
        "encoder_block_dropout": [0.0] * num_down,
        "decoder_block_dropout": [0.0] * num_up,
        "downsample_scale": 2 ** sum(config.get("encoder_spatial_down_sample", ())),
        # Two of its names for one value of ours.
        "decoder_in_channels": config.get("encoder_out_channels"),
        "decoder_norm_num_groups": config.get("encoder_norm_num_groups"),
    }
    return values_of_original(
        "the original VAE config", config, copied=VAE_NAMES, fixed=fixed, ignored=_VAE_IGNORED
    )
