"""Configs of original folders, under our names; those of transformers are read in test_load."""

from __future__ import annotations

import json

import pytest

from pyramid_seed.checkpoints.original_configs import vae_config_from_original
from tests.cases import check_cases
from tests.conftest import REFERENCE

ORIGINAL_CONFIG = json.loads((REFERENCE / "miniflux-tiny" / "causal_video_vae" / "config.json").read_text())


class TestVae:
    def test_values_come_under_our_names(self):
        config = vae_config_from_original(ORIGINAL_CONFIG)
        assert config["latent_channels"] == 16
        assert config["encoder_layers_per_block"] == [1, 2, 1, 1]
        assert config["decoder_layers_per_block"] == [1, 1, 2, 1]
        assert config["norm_num_groups"] == 4
        assert "shift_factor" not in config

    def test_what_we_do_not_have_is_refused(self):
        cases = [
            ("add_post_quant_conv", False),
            ("encoder_act_fn", "gelu"),
            ("decoder_type", "vae_conv"),
            ("encoder_block_dropout", [0.0, 0.1, 0.0, 0.0]),
            ("decoder_up_block_types", ["UpDecoderBlock2D"] * 4),
            ("decoder_norm_num_groups", 8),
            ("decoder_in_channels", 4),
            ("downsample_scale", 4),
            ("window", 3),
        ]

        def rule(key, value):
            with pytest.raises(ValueError, match=key):
                vae_config_from_original(ORIGINAL_CONFIG | {key: value})

        check_cases(cases, rule)

    def test_missing_key(self):
        config = {key: value for key, value in ORIGINAL_CONFIG.items() if key != "encoder_in_channels"}
        with pytest.raises(ValueError, match="must have encoder_in_channels"):
            vae_config_from_original(config)
