"""What diffusers asks of a pipeline and no other test of ours has."""

from __future__ import annotations

import torch

from pyramid_seed.pipelines import PyramidFlowPipeline
from tests.pipelines.conftest import (  # noqa: F401 - fixtures
    FAMILY_NEUTRAL,
    family,
    load,
    pipe,
)


@FAMILY_NEUTRAL
def test_dtypes(pipe, tmp_path):  # noqa: F811
    pipe.save_pretrained(tmp_path)
    mixed = PyramidFlowPipeline.from_pretrained(
        tmp_path, dtype={"transformer": torch.bfloat16, "default": torch.float32}
    )
    assert (mixed.transformer.dtype, mixed.vae.dtype) == (torch.bfloat16, torch.float32)
    alias = PyramidFlowPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert (alias.transformer.dtype, alias.vae.dtype) == (torch.bfloat16, torch.bfloat16)
