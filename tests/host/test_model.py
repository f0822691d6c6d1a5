"""What diffusers asks of a model and no other test of ours has, on the transformers of both families."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers.hooks import HookRegistry
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tests.models.test_pyramid_transformers import (  # noqa: F401 - fixtures
    family,
    inputs,
    model,
    to_bfloat16,
    velocity,
)
from tests.pipelines.test_pipeline import CACHES

# ruff: noqa: F811
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


def loss_of(model, inputs):
    return model(**inputs).sample.float().square().mean()


@pytest.mark.parametrize("variant", [None, "ours"])
@pytest.mark.parametrize("shard_size", ["10GB", "50KB"])
def test_variants_and_shards(tmp_path, family, model, inputs, variant, shard_size):
    model.save_pretrained(tmp_path, variant=variant, max_shard_size=shard_size)
    is_sharded = bool(list(tmp_path.glob("*.index*.json")))
    assert is_sharded == (shard_size == "50KB")
    loaded = family.model_class.from_pretrained(tmp_path, variant=variant).eval()
    assert torch.equal(velocity(loaded, inputs), velocity(model, inputs))
    with pytest.raises(OSError, match="theirs"):
        family.model_class.from_pretrained(tmp_path, variant="theirs")


def test_modules_that_stay_in_float32(tmp_path, family, model):
    model.save_pretrained(tmp_path)
    for half in (
        family.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16),
        copy.deepcopy(model).to(torch.bfloat16),
    ):
        for name, weight in half.named_parameters():
            is_kept = any(part in name.split(".") for part in model._keep_in_fp32_modules)
            assert weight.dtype == (torch.float32 if is_kept else torch.bfloat16), name


def test_the_same_input_gives_the_same_output(model, inputs):
    first = velocity(model, inputs)
    assert first.shape == inputs["hidden_states"].shape
    assert torch.equal(velocity(model, inputs), first)


def test_attributes(model, inputs):
    assert model.config.in_channels == 16
    with pytest.warns(FutureWarning, match="in_channels"):
        assert model.in_channels == 16
    assert model.proj_out is dict(model.named_children())["proj_out"]
    with pytest.raises(AttributeError, match="colour"):
        _ = model.colour


def test_training(model, inputs):
    """Weights that act get a gradient, a step lowers the loss, and an average of weights follows."""
    model.train()
    average = EMAModel(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = loss_of(model, inputs)
    before.backward()
    without = {name for name, value in model.named_parameters() if value.grad is None}
    assert len(without) < 0.2 * len(list(model.parameters())), without
    optimizer.step()
    average.step(model.parameters())
    assert loss_of(model, inputs) < before


def test_mixed_precision(model, inputs):
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, inputs)
    loss.backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


def test_layerwise_casting_while_training(tmp_path, family, model, inputs):
    model.save_pretrained(tmp_path)
    half = family.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16).train()
    half.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    loss_of(half, to_bfloat16(inputs)).backward()
    assert any(value.grad is not None for value in half.parameters())


@pytest.mark.slow
def test_export(model, inputs):
    """For one length of text and history, where the mask of the text is data; elsewhere it decides shapes."""
    model.set_attention_path("reference")
    expected = velocity(model, inputs)
    program = torch.export.export(model, (), kwargs=inputs).module()
    mask = inputs["encoder_attention_mask"]
    inputs["encoder_attention_mask"] = mask.roll(1, dims=0)
    for given in (inputs | {"encoder_attention_mask": mask}, inputs):
        assert torch.equal(program(**given).sample, velocity(model, given))
    assert torch.equal(program(**inputs | {"encoder_attention_mask": mask}).sample, expected)
    model.set_attention_path("grouped")
    with pytest.raises(GuardOnDataDependentSymNode):
        torch.export.export(model, (), kwargs=inputs)


def test_attention_processors(model, inputs):
    plain, processors = velocity(model, inputs), model.attn_processors
    assert processors
    model.set_attn_processor({name: copy.copy(processor) for name, processor in processors.items()})
    assert torch.equal(velocity(model, inputs), plain)
    with pytest.raises(ValueError, match="number of processors"):
        model.set_attn_processor(dict(list(processors.items())[:-1]))


@pytest.mark.parametrize("config", CACHES, ids=lambda config: type(config).__name__)
def test_step_caches_are_put_on_and_off(model, inputs, config):
    plain = velocity(model, inputs)
    model.enable_cache(config)
    assert model.is_cache_enabled
    with pytest.raises(ValueError, match="already been enabled"):
        model.enable_cache(config)
    assert any(hasattr(module, "_diffusers_hook") for module in model.modules())
    with model.cache_context("pair"):
        velocity(model, inputs)
    HookRegistry.check_if_exists_or_initialize(model).reset_stateful_hooks()
    with model.cache_context("pair"):
        torch.testing.assert_close(velocity(model, inputs), plain, rtol=0, atol=1e-5)
    model.disable_cache()
    assert not model.is_cache_enabled
    assert torch.equal(velocity(model, inputs), plain)


def lora_file(model, folder, name="a", **options):
    options = {"r": 4, "lora_alpha": 4, "target_modules": ["to_q"], "init_lora_weights": False, **options}
    model.add_adapter(LoraConfig(**options), name)
    model.save_lora_adapter(folder, adapter_name=name, weight_name=f"{name}.safetensors")
    model.unload_lora()
    return folder / f"{name}.safetensors"


def test_lora_errors(model, inputs, tmp_path):
    with pytest.raises(ValueError, match="not found"):
        model.save_lora_adapter(tmp_path, adapter_name="nobody")
    file = lora_file(model, tmp_path)
    tensors = load_file(file)
    for metadata in ({"lora_alpha": "large"}, {"colour": 1}):
        text = {"lora_adapter_metadata": json.dumps(metadata)}
        save_file(tensors, tmp_path / "wrong.safetensors", text)
        with pytest.raises((TypeError, ValueError, KeyError)):
            model.load_lora_adapter(tmp_path / "wrong.safetensors", prefix=None)
        assert model.loras_in_use() == ()
    model.load_lora_adapter(file, prefix=None, adapter_name="a")
    with pytest.raises(ValueError, match="already in use"):
        model.load_lora_adapter(file, prefix=None, adapter_name="a")
    layer = model.transformer_blocks[0].attn.to_q
    layer.lora_A["a"].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN|broken"):
        model.fuse_lora(safe_fusing=True)


def test_swaps_that_cannot_be(model, tmp_path):
    few, more = (
        lora_file(model, tmp_path, name, target_modules=targets)
        for name, targets in (("few", ["to_q"]), ("more", ["to_q", "to_k"]))
    )
    model.load_lora_adapter(few, prefix=None, adapter_name="style")
    before = model.loras_in_use()
    with pytest.raises(
        ValueError, match=r"must act on layers of 'style' alone, it also acts on .*attn\.to_k"
    ):
        model.load_lora_adapter(more, prefix=None, adapter_name="style", hotswap=True)
    assert model.loras_in_use() == before
    with pytest.raises(RuntimeError, match="before loading the first adapter"):
        model.enable_lora_hotswap(target_rank=8)
