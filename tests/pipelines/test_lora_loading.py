"""LoRA on the pipeline, with the methods of diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from pyramid_seed.pipelines import PyramidFlowPipeline
from tests.cases import check_cases
from tests.pipelines.conftest import FAMILY_NEUTRAL

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


@FAMILY_NEUTRAL
def test_unloading_gives_the_plain_model_bit_for_bit(own_pipe, lora, small, known):
    own_pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    own_pipe.unload_lora_weights()
    assert torch.equal(own_pipe("a", seed=7, **small).latents, known("a", num_frames=1).latents)
    assert own_pipe.loras_in_use() == ()


@FAMILY_NEUTRAL
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


@FAMILY_NEUTRAL
def test_what_another_pipeline_of_the_same_parts_knows(own_pipe, lora):
    own_pipe.load_lora_weights(lora)
    own_pipe.fuse_lora()
    own_pipe.unload_lora_weights()
    other = PyramidFlowPipeline.from_pipe(own_pipe)
    assert other.loras_in_use() == own_pipe.loras_in_use() != ()


@FAMILY_NEUTRAL
def test_an_adapter_on_another_part_is_not_known(own_pipe):
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), own_pipe.text_encoder)
    assert own_pipe.loras_in_use() is None


@FAMILY_NEUTRAL
def test_group_offload_and_a_lora(own_pipe, lora, small):
    own_pipe.load_lora_weights(lora)
    plain = own_pipe("a", seed=7, **small).latents
    own_pipe.unload_lora_weights()
    own_pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    own_pipe.load_lora_weights(lora)
    assert torch.equal(own_pipe("a", seed=7, **small).latents, plain)


def test_saved_as_trainers_of_diffusers_do(own_pipe, small, tmp_path):
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"], init_lora_weights=False)
    own_pipe.transformer.add_adapter(config, "style")
    expected = own_pipe("a", seed=7, **small).latents
    tensors = get_peft_model_state_dict(own_pipe.transformer, adapter_name="style")
    metadata = own_pipe.transformer.peft_config["style"].to_dict()
    own_pipe.transformer.unload_lora()

    assert own_pipe.save_lora_weights(tmp_path, tensors, transformer_lora_adapter_metadata=metadata) is None
    file = tmp_path / "pytorch_lora_weights.safetensors"
    read, told = own_pipe.lora_state_dict(file, return_lora_metadata=True)
    assert {name.removeprefix("transformer.") for name in read} == set(tensors)
    assert told["transformer.lora_alpha"] == 6
    assert set(PyramidFlowPipeline.lora_state_dict(tmp_path)) == set(read)
    own_pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert torch.equal(own_pipe("a", seed=7, **small).latents, expected)
    assert [(lora.file, lora.scale) for lora in own_pipe.loras_in_use()] == [(file.name, 1.0)]

    tensors |= {"proj_out.alpha": torch.ones(())}
    assert PyramidFlowPipeline.lora_state_dict(tensors, return_alphas=True)[1] == {"proj_out.alpha": 1}
    own_pipe.save_lora_weights(tmp_path / "other", tensors, is_main_process=False)
    assert not (tmp_path / "other").exists()


@FAMILY_NEUTRAL
def test_what_cannot_be_saved_is_refused(pipe, tmp_path):
    tensors = {"proj_out.lora_A.weight": torch.ones(2, 2)}
    (tmp_path / "file").touch()
    for error, message, arguments in (
        (ValueError, "must hold the tensors of a LoRA, got none", (tmp_path,)),
        (FileExistsError, "must be a folder, it is a file", (tmp_path / "file", tensors)),
        (ValueError, "safe_serialization must be True", (tmp_path, tensors, True, None, None, False)),
    ):
        with pytest.raises(error, match=message):
            pipe.save_lora_weights(*arguments)
    with pytest.raises(TypeError, match="lora_state_dict takes no colour"):
        pipe.lora_state_dict(tensors, colour=1)


@FAMILY_NEUTRAL
def test_what_does_not_fit_is_refused_and_leaves_the_model_as_it_was(own_pipe, lora, tmp_path):
    """Not with torch's words, when half of it is in."""
    tensors = load_file(lora)
    first = next(name for name in tensors if name.endswith("to_q.lora_A.weight"))
    second = first.replace("lora_A", "lora_B")
    rank, width = tensors[first].shape
    before = sorted(own_pipe.transformer.state_dict())

    def rule(changes, message, metadata=None):
        save_file(tensors | changes, tmp_path / "other.safetensors", metadata)
        with pytest.raises(ValueError, match=message):
            own_pipe.load_lora_weights(tmp_path / "other.safetensors")
        assert sorted(own_pipe.transformer.state_dict()) == before

    zeros = torch.zeros
    cases = {
        "width": (
            {first: zeros(rank, width + 1)},
            rf"must have shape \(rank, {width}\) here, got \({rank}, ",
        ),
        "out": ({second: zeros(9, rank)}, r"lora_B\.weight must have shape \(\d+, rank\) here, got \(9, 2\)"),
        "ranks": ({first: zeros(rank + 1, width)}, r"must have one rank, .* \(3, \d+\) and .*lora_B"),
        "rank 0": ({first: zeros(0, width), second: zeros(width, 0)}, "must have shape"),
        "dimensions": ({first: zeros(rank, width, 1, 1)}, "must have shape"),
        "integers": ({first: zeros(rank, width, dtype=torch.int32)}, "must be of F16, .* is of I32"),
        "a norm": (
            {"norm_out.norm.lora_A.weight": zeros(1, 1), "norm_out.norm.lora_B.weight": zeros(1, 1)},
            "no norm",
        ),
        "a kind": ({first.replace("lora_A", "lora_Z"): zeros(1)}, r"this one has no .*lora_Z\.weight"),
        "no JSON": ({}, "as JSON", {"lora_adapter_metadata": "{"}),
        "no object": ({}, "as an object, got 5", {"lora_adapter_metadata": "5"}),
        "odd": ({}, "cannot be loaded|must be|r", {"lora_adapter_metadata": '{"r": "x", "peft_type": 7}'}),
    }
    check_cases(cases, rule)


@pytest.fixture
def two_loras(own_pipe, tmp_path) -> list[Path]:
    """Of other ranks, alphas and layers."""
    for name, rank, alpha, targets in (("a", 4, 6, ["to_q", "to_k"]), ("b", 2, 3, ["to_q"])):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        own_pipe.transformer.add_adapter(config, name)
        own_pipe.transformer.save_lora_adapter(tmp_path, adapter_name=name, weight_name=f"{name}.safetensors")
        own_pipe.transformer.unload_lora()
    return [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


@FAMILY_NEUTRAL
@pytest.mark.parametrize("target_rank", [None, 8])
def test_swapped_in_place(own_pipe, two_loras, small, target_rank):
    """Loaded in the place of another: scales count for the new one, and what acts is told."""
    first, second = two_loras
    own_pipe.load_lora_weights(second, adapter_name="style")
    expected = {}
    for scale in (1.0, 0.7):
        own_pipe.set_adapters("style", scale)
        expected[scale] = own_pipe("a", seed=7, **small).latents
    own_pipe.unload_lora_weights()

    if target_rank is not None:
        own_pipe.enable_lora_hotswap(target_rank=target_rank)
    own_pipe.load_lora_weights(first, adapter_name="style")
    assert [(lora.file, lora.padded_rank) for lora in own_pipe.loras_in_use()] == [(first.name, target_rank)]
    own_pipe.load_lora_weights(second, adapter_name="style", hotswap=True)
    for scale, latents in expected.items():
        (lora,) = own_pipe.loras_in_use()
        assert (lora.file, lora.scale, lora.padded_rank) == (second.name, 1.0, target_rank or 4)
        own_pipe.set_adapters("style", scale)
        assert own_pipe.loras_in_use()[0].scale == scale
        assert difference(own_pipe("a", seed=7, **small).latents, latents) < 1e-4
        own_pipe.set_adapters("style", 1.0)
    with pytest.raises(ValueError, match="no existing adapter by that name"):
        own_pipe.load_lora_weights(second, adapter_name="other", hotswap=True)


@pytest.mark.slow
def test_compiled_blocks_stay_as_they_are(own_pipe, two_loras, small):
    """With the backend `eager`, which compiles nothing but guards as the others."""
    first, second = two_loras
    own_pipe.enable_lora_hotswap(target_rank=8)
    own_pipe.load_lora_weights(first, adapter_name="style")
    own_pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    before = own_pipe("a", seed=7, **small).latents
    with torch._dynamo.config.patch(error_on_recompile=True):
        own_pipe.load_lora_weights(second, adapter_name="style", hotswap=True)
        assert difference(own_pipe("a", seed=7, **small).latents, before) > 1e-2
        own_pipe.set_adapters("style", 0.5)  # a number in place of a tensor
        with pytest.raises(torch._dynamo.exc.RecompileError):
            own_pipe("a", seed=7, **small)
