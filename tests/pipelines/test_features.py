"""Features of diffusers on the tiny checkpoints of both families: they work, or say why not."""

from __future__ import annotations

import pytest
import torch
from diffusers import PipelineQuantizationConfig, QuantoConfig, TorchAoConfig
from PIL import Image

from pyramid_seed.api import generate
from pyramid_seed.loading import load_pipeline
from pyramid_seed.models.transformer_pyramid_sd3 import PyramidSD3Transformer3DModel
from pyramid_seed.provenance.show import describe
from pyramid_seed.reproduce import verify
from tests.pipelines.conftest import FAMILIES, REFERENCE, quiet


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().mean() / b.abs().mean())


def test_fused_projections(own_pipe, small, known):
    transformer = own_pipe.transformer
    if isinstance(transformer, PyramidSD3Transformer3DModel):
        with pytest.raises(NotImplementedError, match="not supported by the SD3 family"):
            transformer.fuse_qkv_projections()
        return
    transformer.fuse_qkv_projections()
    assert any("to_qkv" in name for name, _ in transformer.named_modules())
    torch.testing.assert_close(
        own_pipe("a red circle", seed=7, **small).latents, known().latents, rtol=0, atol=1e-4
    )


def test_frozen_weights_change_no_bit(own_pipe, small, known):
    """torch picks other kernels for some layouts where weights require gradients."""
    small["output_type"] = "uint8"
    for part in own_pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    output, expected = own_pipe("a red circle", seed=7, **small), known(output_type="uint8")
    assert output.text_digests == expected.text_digests
    assert torch.equal(output.latents, expected.latents)
    assert (output.frames == expected.frames).all()


def test_int8_weights(own_pipe, small, known):
    quantization = pytest.importorskip("torchao.quantization", reason="needs the extra `quant`")
    quantization.quantize_(own_pipe.transformer, quantization.Int8WeightOnlyConfig())
    assert type(own_pipe.transformer.proj_out.weight).__name__ == "Int8Tensor"
    both = own_pipe(["a red circle", "a boat"], seed=7, **small).latents
    assert 0 < relative_difference(both[:1], known().latents) < 0.05
    assert torch.equal(own_pipe("a boat", seed=7, **small).latents, both[1:])


def quantization_config(backend):
    if backend == "quanto":
        pytest.importorskip("optimum.quanto", reason="needs optimum-quanto")
        return PipelineQuantizationConfig(quant_mapping={"transformer": QuantoConfig(weights_dtype="int8")})
    quantization = pytest.importorskip("torchao.quantization", reason="needs the extra `quant`")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    return PipelineQuantizationConfig(quant_mapping={"transformer": config})


@pytest.mark.parametrize("backend", ["torchao", "quanto"])
def test_quantised_as_it_is_loaded(family, pipe, small, known, tmp_path, backend):
    """The manifest tells it; saved and loaded again, the weights give the same bits."""
    config, settings = quantization_config(backend), {"height": 64, "width": 64, "num_frames": 1}
    pipe.save_pretrained(tmp_path / "plain")
    quantised = quiet(load_pipeline(tmp_path / "plain", quantization_config=config, device="cpu"))
    latents = quantised("a red circle", seed=7, **small).latents
    assert 0 < relative_difference(latents, known().latents) < 0.05
    made = generate("a boat", seed=7, pipeline=quantised, preset="tiny", progress=False, **settings)
    assert made.manifest["quantization"]["quant_method"] == backend
    assert made.manifest["weights"] is not None
    assert ("quantised", backend) in describe(made.manifest)
    assert verify(made, pipeline=quantised, progress=False).difference is None
    with pytest.raises(
        ValueError, match=f"was made with weights quantised by {backend}: .*; here are plain weights"
    ):
        verify(made, model=tmp_path / "plain", progress=False)

    quantised.save_pretrained(tmp_path / "int8")
    loaded = quiet(load_pipeline(tmp_path / "int8", device="cpu"))
    assert torch.equal(loaded("a red circle", seed=7, **small).latents, latents)
    again = generate("a boat", seed=7, pipeline=loaded, preset="tiny", progress=False, **settings)
    assert again.digest == made.digest
    assert verify(again, model=tmp_path / "int8", progress=False).difference is None


def test_weights_quantised_in_memory_are_not_those_of_the_files(family):
    quantization = pytest.importorskip("torchao.quantization", reason="needs the extra `quant`")
    pipeline = load_pipeline(REFERENCE / FAMILIES[family], device="cpu")
    quantization.quantize_(pipeline.transformer, quantization.Int8WeightOnlyConfig())
    settings = {"height": 64, "width": 64, "num_frames": 1, "preset": "tiny", "progress": False}
    clip = generate("a boat", seed=7, pipeline=pipeline, **settings)
    assert clip.manifest["weights"] is None
    assert "was replaced since it was loaded" in clip.manifest["weights_note"]


def test_what_cannot_be_quantised_is_refused(family):
    def of(*parts):
        return PipelineQuantizationConfig(
            quant_mapping=dict.fromkeys(parts, QuantoConfig(weights_dtype="int8"))
        )

    for error, message, given in (
        (TypeError, "quantization_config must be a PipelineQuantizationConfig, got str", "int8"),
        (ValueError, "must name the transformer alone, got vae; use", of("vae")),
        (ValueError, "must name the transformer alone, got transformer, vae; use", of("transformer", "vae")),
        (ValueError, "in the original layout; load it without", of("transformer")),
    ):
        with pytest.raises(error, match=message):
            load_pipeline(REFERENCE / FAMILIES[family], quantization_config=given)


def test_an_image_and_a_clip_from_it(pipe, make):
    image = make(num_frames=1, output_type="pil").frames[0][0]
    assert isinstance(image, Image.Image)
    assert image.size == (64, 64)
    clip = make(image=image, num_frames=17, output_type="uint8")
    assert clip.frames.shape == (1, 17, 64, 64, 3)
    assert next(entry.key.stream for entry in clip.ledgers[0]) == "posterior"
