"""What only the miniFLUX transformer has; the rest is in test_pyramid_transformers.py."""

from __future__ import annotations

import pytest

from pyramid_seed.models.transformer_pyramid_flux import PyramidFluxTransformer3DModel


def test_rotary_dimensions_must_fill_the_head():
    with pytest.raises(ValueError, match=r"attention_head_dim 16, got \(4, 6, 8\) = 18"):
        PyramidFluxTransformer3DModel(attention_head_dim=16, axes_dims_rope=(4, 6, 8))
