"""LoRA on the transformers of both families: which files act, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from pyramid_seed.models.lora import find_lora_file, lora_prefix
from tests.cases import check_cases
from tests.models.test_pyramid_transformers import FAMILIES, build

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def model(family):
    return build(family)


@pytest.fixture
def files(family, tmp_path) -> dict[str, Path]:
    """LoRAs "a" and "b"; "b" has another alpha and more layers."""
    folder = tmp_path / "loras"
    for name, targets, alpha in (("a", ["to_q"], 4), ("b", ["to_q", "proj_out"], 6)):
        model = build(family)
        model.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False))
        model.save_lora_adapter(folder, weight_name=f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in ("a", "b")}


def acting(model):
    loras = model.loras_in_use()
    return None if loras is None else [(lora.adapter, lora.scale, lora.fused) for lora in loras]


def load(model, file, name):
    model.load_lora_adapter(file, prefix=None, adapter_name=name)


def test_a_file_is_told_by_name_size_and_digest(model, files):
    assert model.loras_in_use() == ()
    load(model, files["a"], "style")
    (lora,) = model.loras_in_use()
    content = files["a"].read_bytes()
    assert (lora.adapter, lora.file, lora.size) == ("style", "a.safetensors", len(content))
    assert lora.sha256 == hashlib.sha256(content).hexdigest()
    assert (lora.scale, lora.fused) == (1.0, False)


def test_the_scale_is_the_one_that_was_set(model, files):
    load(model, files["b"], "b")

    def rule(scale):
        model.set_adapters("b", scale)
        assert acting(model) == [("b", scale, False)]

    check_cases([0.7, 1 / 3, 0.0, -0.1, 1e-4], rule)


def test_two_of_them_in_their_order(model, files):
    load(model, files["a"], "a")
    load(model, files["b"], "b")
    for names in (["a", "b"], ["b", "a"]):
        model.set_adapters(names, [0.5, 0.25])
        assert acting(model) == [(names[0], 0.5, False), (names[1], 0.25, False)]
    model.disable_lora()
    assert acting(model) == []
    model.enable_lora()
    model.set_adapters("a")
    assert acting(model) == [("a", 1.0, False)]
    model.delete_adapters("a")
    model.set_adapters("b")
    assert acting(model) == [("b", 1.0, False)]
    model.unload_lora()
    assert acting(model) == []


def test_what_was_fused_stays_known(model, files):
    load(model, files["a"], "a")
    model.fuse_lora(0.5)
    assert acting(model) == [("a", 0.5, True)]
    model.unload_lora()
    assert acting(model) == [("a", 0.5, True)]
    load(model, files["b"], "b")
    assert acting(model) is None


@pytest.mark.parametrize("unload", [False, True])
def test_a_lora_taken_out_of_the_weights_leaves_rounding(model, files, unload):
    load(model, files["a"], "a")
    model.fuse_lora()
    model.unfuse_lora()
    if unload:
        model.unload_lora()
    assert acting(model) is None


def test_what_no_file_holds_is_not_known(model, files):
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False), "mine")
    assert acting(model) is None
    model.unload_lora()
    model.load_lora_adapter(load_file(files["a"]), prefix=None, adapter_name="tensors")
    assert acting(model) is None
    model.unload_lora()
    load(model, files["a"], "a")
    model.set_adapters("a", {"transformer_blocks.0": 0.5, "transformer_blocks.1": 0.7})
    assert acting(model) is None


def test_a_name_used_again_is_not_taken_for_the_file(model, files):
    load(model, files["a"], "a")
    model.delete_adapters("a")
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False), "a")
    assert acting(model) is None


def test_other_adapters_of_peft_are_not_known(model):
    from peft import LoHaConfig, inject_adapter_in_model

    inject_adapter_in_model(LoHaConfig(r=2, target_modules=["to_q"]), model)
    assert acting(model) is None


def test_a_lora_of_another_model_is_refused(model, files, tmp_path):
    tensors = load_file(files["a"])
    for name, changed, message in (
        ("layer", {f"other.{key}": value for key, value in tensors.items()}, "another model: .* other"),
        ("alpha", tensors | {"transformer_blocks.0.attn.to_q.alpha": torch.ones(())}, "to_q.alpha"),
        ("prefix", {f"unet.{key}": value for key, value in tensors.items()}, "another model"),
        ("empty", {}, "no tensor"),
    ):
        save_file(changed, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=message):
            load(model, tmp_path / f"{name}.safetensors", name)
    with pytest.raises(
        ValueError, match=r"no tensor of the LoRA has a name that begins with 'transformer\.'"
    ):
        model.load_lora_adapter(files["a"])
    assert acting(model) == []


def test_finding_a_file(files, tmp_path):
    assert find_lora_file(files["a"]) == files["a"]
    assert find_lora_file(str(files["a"].parent), "b.safetensors") == files["b"]
    with pytest.raises(
        ValueError, match=r"holds a\.safetensors, b\.safetensors; choose one with weight_name"
    ):
        find_lora_file(files["a"].parent)
    shutil.copy(files["a"], tmp_path / "only.safetensors")
    assert find_lora_file(tmp_path) == tmp_path / "only.safetensors"
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors does not exist"):
        find_lora_file(tmp_path / "gone.safetensors")
    (tmp_path / "lora.bin").touch()
    with pytest.raises(ValueError, match=r"must be a \.safetensors, got lora\.bin"):
        find_lora_file(tmp_path / "lora.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="not a readable"):
        build(FAMILIES["sd3"]).load_lora_adapter(tmp_path / "broken.safetensors")


def test_prefix():
    assert lora_prefix(["transformer.proj_out.lora_A.weight"]) == "transformer"
    assert lora_prefix(["transformer_blocks.0.attn.to_q.lora_A.weight"]) is None
