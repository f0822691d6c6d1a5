"""LoRA on the pipeline, with the methods of diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pyramid_seed.pipelines import PyramidFlowPipeline

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture
def small(small) -> dict:
    return small | {"num_frames": 1}


@pytest.fixture
def lora(pipe, own_pipe, tmp_path) -> Path:
    """A LoRA for the family, as a trainer of diffusers saves it."""
    own_pipe.transformer.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_k", "add_v_proj"], init_lora_weights=False)
    )
    own_pipe.transformer.save_lora_adapter(tmp_path, weight_name="style.safetensors")
    own_pipe.transformer.unload_lora()
    return tmp_path / "style.safetensors"


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def test_load_scale_fuse_and_unload(own_pipe, lora, small, known):
    plain = known("a", num_frames=1).latents

    def latents(**changes):
        return own_pipe("a", seed=7, **small, **changes).latents

    own_pipe.load_lora_weights(lora, adapter_name="style")
    full = latents()
    assert difference(full, plain) > 1e-2
    own_pipe.set_adapters("style", 0.5)
    half = latents()
    assert 1e-3 < difference(half, plain) < difference(full, plain)
    assert [(lora.adapter, lora.scale) for lora in own_pipe.loras_in_use()] == [("style", 0.5)]
    own_pipe.set_adapters("style", 1.0)
    assert torch.equal(latents(attention_kwargs={"scale": 0.5}), half)
    assert torch.equal(latents(), full)
    own_pipe.disable_lora()
    assert torch.equal(latents(), plain)
    own_pipe.enable_lora()
    own_pipe.fuse_lora()
    fused = latents()
    assert difference(fused, full) < 1e-3
    own_pipe.unload_lora_weights()
    assert torch.equal(latents(), fused)
    assert [(lora.scale, lora.fused) for lora in own_pipe.loras_in_use()] == [(1.0, True)]


def test_unloading_gives_the_plain_model_bit_for_bit(own_pipe, lora, small, known):
    own_pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    own_pipe.unload_lora_weights()
    assert torch.equal(own_pipe("a", seed=7, **small).latents, known("a", num_frames=1).latents)
    assert own_pipe.loras_in_use() == ()


def test_unfused_weights_are_rounded_and_not_known(own_pipe, lora, small, known):
    own_pipe.load_lora_weights(lora)
    own_pipe.fuse_lora()
    own_pipe.unfuse_lora()
    own_pipe.unload_lora_weights()
    assert difference(own_pipe("a", seed=7, **small).latents, known("a", num_frames=1).latents) < 1e-3
    assert own_pipe.loras_in_use() is None


def test_names_with_the_prefix_of_a_pipeline(own_pipe, lora, small, tmp_path):
    bare, prefixed = tmp_path / "bare.safetensors", tmp_path / "prefixed.safetensors"
    save_file(load_file(lora), bare)
    save_file({f"transformer.{name}": value for name, value in load_file(lora).items()}, prefixed)
    own_pipe.load_lora_weights(bare, adapter_name="plain")
    plain = own_pipe("a", seed=7, **small).latents
    own_pipe.unload_lora_weights()
    own_pipe.load_lora_weights(prefixed, adapter_name="prefixed")
    assert torch.equal(own_pipe("a", seed=7, **small).latents, plain)


def test_what_another_pipeline_of_the_same_parts_knows(own_pipe, lora):
    own_pipe.load_lora_weights(lora)
    own_pipe.fuse_lora()
    own_pipe.unload_lora_weights()
    other = PyramidFlowPipeline.from_pipe(own_pipe)
    assert other.loras_in_use() == own_pipe.loras_in_use() != ()


def test_an_adapter_on_another_part_is_not_known(own_pipe):
    own_pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    assert own_pipe.loras_in_use() is None


def test_group_offload_and_a_lora(own_pipe, lora, small):
    own_pipe.load_lora_weights(lora)
    plain = own_pipe("a", seed=7, **small).latents
    own_pipe.unload_lora_weights()
    own_pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    own_pipe.load_lora_weights(lora)
    assert torch.equal(own_pipe("a", seed=7, **small).latents, plain)
