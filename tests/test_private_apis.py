"""Every private name that is used does what it is used for, and none is used anywhere else."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import accelerate
import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from torch import nn
from transformers import CLIPTextConfig

from pyramid_seed import private_apis
from pyramid_seed.checkpoints.load import load_components
from pyramid_seed.checkpoints.source import read_source
from tests.conftest import REFERENCE

PACKAGE = Path(private_apis.__file__).parent
# A named tuple's public methods; what diffusers asks of subclasses; types of argparse, which has no others.
NOT_PRIVATE = {
    "_asdict",
    "_fields",
    "_execution_device",
    "_keep_in_fp32_modules",
    "_keys_to_ignore_on_load_unexpected",
}
NOT_PRIVATE |= {"_ArgumentGroup", "_SubParsersAction", "_ActionsContainer"}


@pytest.fixture
def kept_precision():
    before = private_apis.fp32_precision("cuda", "matmul")
    yield
    private_apis.set_fp32_precision("cuda", "matmul", before)


def test_has_bfloat16_kernels():
    """oneDNN needs more than the least of CPUs for it."""
    assert isinstance(private_apis.has_bfloat16_kernels(), bool)
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        assert not private_apis.has_bfloat16_kernels()


def test_fp32_precision(kept_precision):
    for precision in ("ieee", "tf32"):
        private_apis.set_fp32_precision("cuda", "matmul", precision)
        assert private_apis.fp32_precision("cuda", "matmul") == precision
        assert torch.backends.cuda.matmul.fp32_precision == precision


def test_active_attention_backend():
    assert private_apis.is_attention_dispatcher_loaded()
    before = private_apis.active_attention_backend()
    with diffusers.attention_backend("_native_math"):
        assert private_apis.active_attention_backend() == "_native_math"
        private_apis.set_active_attention_backend("native")
        assert private_apis.active_attention_backend() == "native"
    assert private_apis.active_attention_backend() == before


@torch.no_grad()
def test_onednn_linear():
    layer, x = nn.Linear(64, 32), torch.randn(2, 20, 64)
    for bias in (layer.bias, None):
        torch.testing.assert_close(
            private_apis.onednn_linear(x, layer.weight, bias), F.linear(x, layer.weight, bias)
        )


def test_is_compiled():
    layer = nn.Linear(2, 2)
    assert not private_apis.is_compiled(layer)
    wrapped = torch.compile(layer, backend="eager")
    assert private_apis.is_compiled(wrapped)
    assert not private_apis.is_compiled(layer)
    layer.compile(backend="eager")
    assert private_apis.is_compiled(layer)


def test_num_writes():
    weight = torch.zeros(2)
    before = private_apis.num_writes(weight)
    assert private_apis.num_writes(weight) == before
    weight.add_(1)
    assert private_apis.num_writes(weight) > before
    with torch.inference_mode():
        assert private_apis.num_writes(torch.zeros(2)) == 0


def test_attention_implementation():
    for name in ("eager", "sdpa"):
        config = CLIPTextConfig(attn_implementation=name)
        assert private_apis.attention_implementation(config) == name
    assert private_apis.attention_implementation(object()) is None


def test_has_offload_hook():
    layer = nn.Linear(2, 2)
    assert not private_apis.has_offload_hook(layer)
    accelerate.cpu_offload_with_hook(layer, "cpu")
    assert private_apis.has_offload_hook(layer)


def test_diffusers_hooks():
    layer = nn.Linear(2, 2)
    assert private_apis.diffusers_hooks(layer) == {}
    hook = ModelHook()
    HookRegistry.check_if_exists_or_initialize(layer).register_hook(hook, "any")
    assert private_apis.diffusers_hooks(layer) == {"any": hook}


class Block(nn.Module):
    """Text and video in, (text, video) out, the video doubled."""

    def forward(self, hidden_states, encoder_hidden_states):
        return encoder_hidden_states, 2 * hidden_states


class Blocks(nn.Module, diffusers.CacheMixin):
    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block(), Block()])

    def forward(self, video, text):
        for block in self.transformer_blocks:
            text, video = block(video, encoder_hidden_states=text)
        return video


def test_register_transformer_block():
    config = diffusers.FirstBlockCacheConfig(threshold=1e9)
    with pytest.raises(ValueError, match="not registered"):
        Blocks().enable_cache(config)
    private_apis.register_transformer_block(Block)
    model = Blocks()
    model.enable_cache(config)
    with model.cache_context("any"):
        assert model(torch.ones(1, 2, 3), torch.zeros(1, 2, 3)).eq(4).all()


def test_without_group_offload():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    with private_apis.without_group_offload(model):
        pass
    assert not any(private_apis.diffusers_hooks(module) for module in model.modules())
    cpu = torch.device("cpu")
    apply_group_offloading(model, cpu, cpu, offload_type="leaf_level")
    before = [sorted(private_apis.diffusers_hooks(module)) for module in model.modules()]
    assert any(before)
    with private_apis.without_group_offload(model):
        assert not any(private_apis.diffusers_hooks(module) for module in model.modules())
    assert [sorted(private_apis.diffusers_hooks(module)) for module in model.modules()] == before


def test_lora_options(tmp_path):
    peft = pytest.importorskip("peft")
    transformer = load_components(read_source(REFERENCE / "miniflux-tiny", variant="384p"))["transformer"]
    trained = copy.deepcopy(transformer)
    trained.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    trained.save_lora_adapter(tmp_path)

    class Pipeline:
        """What is asked for its components: whether hooks must be taken off them."""

        hf_device_map = None
        num_asked = 0

        @property
        def components(self):
            self.num_asked += 1
            return {"transformer": transformer}

    pipeline = Pipeline()
    transformer.load_lora_adapter(tmp_path, prefix=None, **private_apis.lora_options(pipeline))
    assert pipeline.num_asked > 0


def test_nothing_private_of_others_is_used_elsewhere():
    """Names with an underscore that the package does not define itself, on anything but `self` and `cls`."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    own = {name for tree in trees.values() for node in ast.walk(tree) for name in defined_names(node)}
    offenders = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {name}"
        for path, tree in trees.items()
        if path.name != "private_apis.py"
        for node in ast.walk(tree)
        for name in private_names(node)
        if name not in own | NOT_PRIVATE
    ]
    assert offenders == []


def defined_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.attr]
    return [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []


def private_names(node: ast.AST) -> list[str]:
    names: list[str] = []
    if isinstance(node, ast.Attribute):
        is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        names = [] if is_own else [node.attr]
    elif isinstance(node, ast.ImportFrom):
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    elif isinstance(node, ast.Import):
        names = [part for alias in node.names for part in alias.name.split(".")]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        is_lookup = node.func.id in ("getattr", "hasattr", "setattr")
        names = [value.value for value in node.args[1:2] if is_lookup and isinstance(value, ast.Constant)]
    return [name for name in names if name.startswith("_") and not name.startswith("__")]
