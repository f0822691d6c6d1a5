"""What `GuidedTransformer` keeps between the steps of a stage."""

from __future__ import annotations

import pytest
import torch

from pyramid_seed.pipelines.guided import GuidedTransformer


@pytest.fixture
def built(pipe, monkeypatch):
    """Batch sizes for which the shared pipeline's transformer built a context."""
    batches = []
    build = type(pipe.transformer)._stage_context

    def counted(self, latents, *arguments):
        batches.append(latents.shape[0])
        return build(self, latents, *arguments)

    monkeypatch.setattr(type(pipe.transformer), "_stage_context", counted)
    return batches


def test_a_context_is_built_once_a_stage(make, built):
    make(num_inference_steps=2)
    assert built == [2] * 6  # two units of three stages


def test_the_reference_path_builds_it_at_every_step(pipe, make, built):
    with pipe.transformer.attention_path_set("reference"):
        make(num_inference_steps=2)
    assert built == [2] * 12


def test_guidance_may_end_and_begin_again_within_a_stage(pipe, built):
    text = [pipe.remembered_text(prompt, 32) for prompt in ("a boat", "fog and rain")]
    model = GuidedTransformer(pipe.transformer, *text, None, torch.device("cpu"))
    latents = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def velocity(scale):
        model.guidance_scale = scale
        return model(latents, [], torch.tensor(500.0))

    with torch.no_grad():
        model.start_stage(num_steps=4)
        guided, plain = velocity(3.0), velocity(1.0)
        assert not torch.equal(guided, plain)
        assert torch.equal(velocity(3.0), guided)
        assert torch.equal(velocity(1.0), plain)
        assert built == [2, 1]
        model.start_stage(num_steps=4)
        assert torch.equal(velocity(3.0), guided)
        assert built == [2, 1, 2]
