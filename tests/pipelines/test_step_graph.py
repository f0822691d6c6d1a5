"""CUDA graphs of steps, without CUDA: what is refused. `invariance/test_gpu.py` compares their bits."""

from __future__ import annotations

import pytest
import torch
from diffusers import MagCacheConfig

from pyramid_seed.pipelines.step_graph import check_graphs

CUDA = torch.device("cuda")


def test_they_are_refused_without_cuda(own_pipe, small):
    with pytest.raises(ValueError, match="the transformer computes on cpu, where there are none; call"):
        own_pipe.enable_cuda_graphs()
    own_pipe._uses_cuda_graphs = True  # as if it had been moved since
    with pytest.raises(ValueError, match="computes on cpu"):
        own_pipe("a", seed=1, **small)
    own_pipe.disable_cuda_graphs()
    assert own_pipe("a", seed=1, **small).latents.isfinite().all()


def test_what_changes_from_step_to_step_is_refused(own_pipe):
    transformer = own_pipe.transformer
    check_graphs(transformer, CUDA)

    def offload():
        own_pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")

    def rule(change, message):
        change()
        with pytest.raises(ValueError, match=message):
            check_graphs(transformer, CUDA)

    rule(lambda: transformer.set_attention_path("reference"), "'reference' builds everything anew")
    transformer.set_attention_path("grouped")
    rule(lambda: transformer.enable_cache(MagCacheConfig(calibrate=True)), "a step cache leaves out")
    transformer.disable_cache()
    rule(offload, "hooks move the transformer's weights")
