"""Weights that are no longer those of their files are told; what changes no bit is not."""

from __future__ import annotations

import pytest
import torch

from pyramid_seed import generate, load_pipeline, regenerate
from pyramid_seed.provenance.show import describe
from tests.conftest import REFERENCE


@pytest.fixture
def clip_of(quick):
    settings = {name: value for name, value in quick.items() if name not in ("model", "variant")}
    settings["num_frames"] = 1
    return lambda pipeline: generate("a boat", seed=1, pipeline=pipeline, **settings)


def load(family="miniflux", dtype=torch.float32):
    return load_pipeline(REFERENCE / f"{family}-tiny", variant="384p", device="cpu", dtype=dtype)


@pytest.mark.parametrize("family", ["miniflux", pytest.param("sd3", marks=pytest.mark.slow)])
def test_the_same_dtype_is_the_same_clip_whatever_brought_the_model_there(clip_of, family):
    loaded = clip_of(load(family, torch.bfloat16))
    for bring in (
        lambda pipe: pipe.to(torch.bfloat16),
        lambda pipe: pipe.to("cpu", torch.bfloat16),
        lambda pipe: [part.bfloat16() for part in pipe.components.values() if hasattr(part, "bfloat16")],
    ):
        pipeline = load(family)
        bring(pipeline)
        assert pipeline.transformer.time_text_embed.timestep_embedder.linear_1.weight.dtype == torch.float32
        clip = clip_of(pipeline)
        assert torch.equal(clip.latents, loaded.latents)
        assert clip.digest == loaded.digest
        assert clip.manifest["weights"] == loaded.manifest["weights"]


def write(pipeline):
    weight = pipeline.transformer.proj_out.weight
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()


CHANGES = {
    "trained": (write, "transformer.proj_out.weight was written to"),
    "loaded over": (
        lambda pipe: pipe.vae.load_state_dict(pipe.vae.state_dict()),
        r"vae\..* was written to",
    ),
    "replaced": (
        lambda pipe: setattr(
            pipe.transformer.proj_out, "bias", torch.nn.Parameter(pipe.transformer.proj_out.bias + 1)
        ),
        "transformer.proj_out.bias was replaced",
    ),
    "rounded": (
        lambda pipe: pipe.to(torch.bfloat16).to(torch.float32),
        "(transformer|vae) is in float32 again after a dtype of fewer bits",
    ),
}


@pytest.mark.slow
def test_changed_weights_are_null_with_the_reason_and_cannot_be_made_again(clip_of):
    assert clip_of(load()).weights is not None
    for name, (change, reason) in CHANGES.items():
        pipeline = load()
        change(pipeline)
        clip = clip_of(pipeline)
        assert clip.manifest["weights"] is None, name
        with pytest.raises(ValueError, match=f"weights that no file holds .{reason}"):
            regenerate(clip)
        assert "weights that no file holds" in dict(describe(clip.manifest))["model"]
        assert regenerate(clip, pipeline=pipeline, progress=False).digest == clip.digest


def test_a_model_loaded_in_fewer_bits_is_not_one_in_float32(clip_of):
    assert clip_of(load(dtype=torch.bfloat16).to(torch.float32)).manifest["weights"] is None


def test_what_changes_no_weight_is_not_told(clip_of):
    pipeline = load()
    plain = clip_of(pipeline)
    for change in (
        lambda: pipeline.to("cpu"),
        lambda: pipeline.transformer.requires_grad_(False),
        lambda: pipeline.offload_text_encoders(),
        lambda: pipeline.vae.eval(),
    ):
        change()
        assert clip_of(pipeline).manifest["weights"] == plain.manifest["weights"] is not None
