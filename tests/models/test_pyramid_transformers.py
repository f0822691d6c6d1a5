"""What holds for the transformers of both families: parity with the reference, causality, features."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from peft import LoraConfig
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from pyramid_seed.choices import ATTENTION_PATHS
from pyramid_seed.geometry import history_plan
from pyramid_seed.models.stage_context import StageMemory
from pyramid_seed.models.transformer_pyramid_base import PyramidTransformer3DModel
from pyramid_seed.models.transformer_pyramid_flux import PyramidFluxTransformer3DModel
from pyramid_seed.models.transformer_pyramid_sd3 import PyramidSD3Transformer3DModel
from pyramid_seed.noise import initial_pyramid
from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler
from tests.cases import check_cases

REFERENCE = Path(__file__).parents[1] / "reference"
NUM_STAGES = 3


@dataclass(frozen=True)
class Family:
    model_class: type[PyramidTransformer3DModel]
    config: dict
    checkpoint: str
    published_keys: str


COMMON = {
    "patch_size": 2,
    "in_channels": 16,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
}
FAMILIES = {
    "miniflux": Family(
        PyramidFluxTransformer3DModel,
        {**COMMON, "num_layers": 2, "num_single_layers": 2, "axes_dims_rope": (4, 6, 6)},
        "miniflux-tiny",
        "miniflux_transformer",
    ),
    "sd3": Family(
        PyramidSD3Transformer3DModel,
        {**COMMON, "num_layers": 3, "sample_size": 16, "pos_embed_max_size": 24},
        "sd3-tiny",
        "sd3_transformer",
    ),
}


class CountedCalls(TorchDispatchMode):
    """Counts the calls of operations with a word in their name."""

    def __init__(self, word):
        super().__init__()
        self.word, self.count = word, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += self.word in str(func)
        return func(*args, **(kwargs or {}))


def build(family: Family) -> PyramidTransformer3DModel:
    """The family's transformer with the random weights that the reference vectors were made with."""
    folder = REFERENCE / family.checkpoint / "diffusion_transformer_384p"
    model = family.model_class(**family.config)
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return model.eval()


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def model(family):
    return build(family)


@pytest.fixture(params=ATTENTION_PATHS)
def path(request):
    return request.param


@pytest.fixture
def inputs():
    """A call with history at two resolutions, as of the third unit at full size."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    mask = torch.ones(2, 10)
    mask[0, 4:] = 0
    return {
        "hidden_states": normal(2, 16, 1, 8, 16),
        "history": [normal(2, 16, 2, 2, 4), normal(2, 16, 1, 4, 8)],
        "timestep": torch.tensor([700.0, 300.0]),
        "encoder_hidden_states": normal(2, 10, 32),
        "encoder_attention_mask": mask,
        "pooled_projections": normal(2, 24),
    }


@torch.no_grad()
def velocity(model, inputs, **changes):
    return model(**{**inputs, **changes}).sample


def to_bfloat16(inputs):
    return {
        **inputs,
        "hidden_states": inputs["hidden_states"].bfloat16(),
        "history": [clip.bfloat16() for clip in inputs["history"]],
        "encoder_hidden_states": inputs["encoder_hidden_states"].bfloat16(),
        "pooled_projections": inputs["pooled_projections"].bfloat16(),
    }


# Parity ---------------------------------------------------------------------------------------------------


def clean_pyramid(latents):
    """Clean latents (1, C, T, H, W) at every stage, the coarsest first."""
    levels = [latents]
    for _ in range(NUM_STAGES - 1):
        halved = F.interpolate(levels[0][0].transpose(0, 1), scale_factor=0.5, mode="bilinear")
        levels.insert(0, halved.transpose(0, 1)[None])
    return levels


def replay(vectors, steps, guidance, video_guidance, image_to_video):
    """The recorded transformer calls: current latents, history, timestep and the velocity that came out.

    Inputs were not recorded. They are made again by integrating the recorded velocities, so that no error of
    the model under test gets into them; where they lead to is checked against the recorded latents.
    """
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    latents = vectors["latents"]
    batch = vectors["velocity.000"].shape[0]
    first_unit = 1 if image_to_video else 0
    call = jump = 0
    for unit in range(first_unit, latents.shape[2]):
        noise_frame = unit - first_unit
        noise = vectors["noise.initial"][:, :, noise_frame : noise_frame + 1]
        sample = initial_pyramid(noise, NUM_STAGES)[0]
        clean = clean_pyramid(latents[:, :, :unit])
        scale = guidance if unit == 0 else video_guidance
        for stage in range(NUM_STAGES):
            if stage > 0:
                upsample_scale, noise_scale = scheduler.renoise_coefficients(stage)
                enlarged = sample.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
                sample = upsample_scale * enlarged + noise_scale * vectors[f"noise.jump.{jump}"]
                jump += 1
            history = [
                clean[clip.stage][:, :, clip.start : clip.stop].expand(batch, -1, -1, -1, -1)
                for clip in history_plan(unit, NUM_STAGES, stage)
            ]
            scheduler.set_timesteps(steps[min(unit, len(steps) - 1)], stage)
            for timestep in scheduler.timesteps:
                recorded = vectors[f"velocity.{call:03d}"]
                told = vectors[f"timestep.{call:03d}"]
                yield sample.expand(batch, -1, -1, -1, -1), history, told, recorded
                guided = recorded[:1] + scale * (recorded[-1:] - recorded[:1]) if batch == 2 else recorded
                sample = scheduler.step(guided, timestep, sample).prev_sample
                call += 1
        torch.testing.assert_close(sample, latents[:, :, unit : unit + 1], rtol=0, atol=1e-5)
    assert f"velocity.{call:03d}" not in vectors


@pytest.mark.parametrize("path", ATTENTION_PATHS)
@pytest.mark.parametrize(
    ("name", "vector_file", "steps", "guidance", "video_guidance", "image_to_video"),
    [
        ("miniflux", "miniflux_t2v", (3, 2), 7.0, 5.0, False),
        ("miniflux", "miniflux_t2v_unguided", (2,), 0.0, 0.0, False),
        ("miniflux", "miniflux_i2v", (2,), 7.0, 4.0, True),
        ("sd3", "sd3_t2v", (2,), 7.0, 5.0, False),
    ],
)
def test_every_recorded_velocity(name, vector_file, steps, guidance, video_guidance, image_to_video, path):
    vectors = load_file(REFERENCE / f"{vector_file}.safetensors")
    model = build(FAMILIES[name])
    model.set_attention_path(path)
    guided = vectors["velocity.000"].shape[0] == 2
    text = {
        argument: torch.cat([vectors[f"negative_{key}"], vectors[key]]) if guided else vectors[key]
        for argument, key in {
            "encoder_hidden_states": "prompt_embeds",
            "encoder_attention_mask": "prompt_attention_mask",
            "pooled_projections": "pooled_prompt_embeds",
        }.items()
    }
    for sample, history, timestep, recorded in replay(
        vectors, steps, guidance, video_guidance, image_to_video
    ):
        actual = velocity(model, text, hidden_states=sample, history=history, timestep=timestep)
        torch.testing.assert_close(actual, recorded, rtol=0, atol=1e-5)


def test_names_and_shapes_of_the_published_checkpoint(family):
    expected = json.loads((REFERENCE / "state_dict_keys.json").read_text())[family.published_keys]
    with torch.device("meta"):
        published = family.model_class()
    assert {name: list(value.shape) for name, value in published.state_dict().items()} == expected


# Who sees whom --------------------------------------------------------------------------------------------


def test_padding_changes_nothing(model, inputs):
    def rule(path):
        model.set_attention_path(path)
        longer = F.pad(inputs["encoder_hidden_states"], (0, 0, 0, 7), value=3.0)
        mask = F.pad(inputs["encoder_attention_mask"], (0, 7))
        padded = velocity(model, inputs, encoder_hidden_states=longer, encoder_attention_mask=mask)
        if path == "prefix":
            assert torch.equal(padded, velocity(model, inputs))
        torch.testing.assert_close(padded, velocity(model, inputs), rtol=0, atol=1e-6)

    check_cases(ATTENTION_PATHS, rule)


def test_what_the_padding_holds_changes_no_bit(model, inputs):
    def rule(path):
        model.set_attention_path(path)
        changed = inputs["encoder_hidden_states"].clone()
        changed[inputs["encoder_attention_mask"] == 0] = 100
        assert torch.equal(velocity(model, inputs, encoder_hidden_states=changed), velocity(model, inputs))

    check_cases(ATTENTION_PATHS, rule)


def test_text_history_and_pooled_embedding_matter(model, inputs):
    plain = velocity(model, inputs)
    oldest, newest = inputs["history"]
    changes = [
        {"history": [oldest + 1, newest]},
        {"history": [oldest.flip(2), newest]},
        {"history": [oldest, newest + 1]},
        {"encoder_hidden_states": inputs["encoder_hidden_states"] + 1},
        {"pooled_projections": inputs["pooled_projections"] + 1},
        {"timestep": inputs["timestep"] + 10},
    ]
    for change in changes:
        assert (velocity(model, inputs, **change) - plain).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4


def test_text_and_history_do_not_see_the_current_latents(model, inputs):
    def rule(path):
        model.set_attention_path(path)
        seen = []
        block = [*model._blocks()][-2]
        handle = block.register_forward_hook(lambda module, args, output: seen.append(output))
        velocity(model, inputs)
        velocity(model, inputs, hidden_states=inputs["hidden_states"] + 1)
        handle.remove()
        (text, video), (text_after, video_after) = seen
        history_tokens = 2 * 1 * 2 + 2 * 4
        torch.testing.assert_close(text_after, text, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            video_after[:, :history_tokens], video[:, :history_tokens], rtol=0, atol=1e-6
        )
        assert (video_after - video)[:, history_tokens:].abs().max() > 1e-3

    check_cases(ATTENTION_PATHS, rule)


def test_text_sees_the_first_latent_frame_only(model, inputs):
    def rule(path):
        model.set_attention_path(path)
        seen = []
        handle = [*model._blocks()][-2].register_forward_hook(
            lambda module, args, output: seen.append(output[0])
        )
        oldest, newest = inputs["history"]
        first_frame = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1)
        velocity(model, inputs)
        velocity(model, inputs, history=[oldest + (1 - first_frame), newest + 1])
        velocity(model, inputs, history=[oldest + first_frame, newest])
        handle.remove()
        plain, later_changed, first_changed = (text[1] for text in seen)  # the sample without padding
        torch.testing.assert_close(later_changed, plain, rtol=0, atol=1e-6)
        assert (first_changed - plain).abs().max() > 1e-3

    check_cases(ATTENTION_PATHS, rule)


def test_a_frame_does_not_see_later_frames_of_its_clip(model, inputs):
    def rule(path):
        model.set_attention_path(path)
        current = inputs["hidden_states"].repeat(1, 1, 2, 1, 1)
        changed = current.clone()
        changed[:, :, 1] += 1
        before = velocity(model, inputs, hidden_states=current)
        after = velocity(model, inputs, hidden_states=changed)
        torch.testing.assert_close(after[:, :, 0], before[:, :, 0], rtol=0, atol=1e-6)
        assert (after - before)[:, :, 1].abs().max() > 1e-3

    check_cases(ATTENTION_PATHS, rule)


# Paths of attention ---------------------------------------------------------------------------------------


def test_all_paths_agree(model, inputs):
    assert model.attention_path == "grouped"
    velocities = {}
    for path in ATTENTION_PATHS:
        with model.attention_path_set(path):
            velocities[path] = velocity(model, inputs)
    assert model.attention_path == "grouped"
    for path in ("grouped", "prefix"):
        assert (velocities[path] - velocities["reference"]).norm() <= 1e-6 * velocities["reference"].norm()
    with pytest.raises(
        ValueError, match="must be grouped or prefix or reference, got 'dense'; use 'grouped'"
    ):
        model.set_attention_path("dense")


def test_a_backend_that_takes_no_mask_gets_none(model, inputs):
    """Those need a GPU: here the choice alone is seen, and torch's own flash attention stands for them."""
    for block in model._blocks():
        block.attn.processor._attention_backend = AttentionBackendName._NATIVE_FLASH
    assert (model.attention_backend, model.attention_path) == ("_native_flash", "prefix")
    memory = StageMemory()
    velocity(model, inputs, memory=memory)
    assert all(call.mask is None for call in memory.context.attention.calls)
    model.reset_attention_backend()
    assert (model.attention_backend, model.attention_path) == (None, "grouped")


def test_what_a_stage_remembers_changes_no_bit(model, inputs):
    def rule(path):
        model.set_attention_path(path)
        memory = StageMemory()
        assert torch.equal(velocity(model, inputs, memory=memory), velocity(model, inputs))
        later = {"timestep": inputs["timestep"] - 100, "hidden_states": inputs["hidden_states"] * 0.9}
        other = {"history": [], "encoder_hidden_states": torch.zeros(2, 10, 32)}
        assert torch.equal(
            velocity(model, inputs, **later, **other, memory=memory), velocity(model, inputs, **later)
        )

    check_cases(ATTENTION_PATHS, rule)


@torch.no_grad()
@pytest.mark.usefixtures("onednn")
def test_linear_layers_of_the_blocks_run_through_onednn(model, inputs):
    counts = {}
    for path in ATTENTION_PATHS:
        model.set_attention_path(path)
        with CountedCalls("_linear_pointwise") as calls:
            velocity(model, inputs)
        counts[path] = calls.count
    assert counts["reference"] == 0
    assert counts["grouped"] == counts["prefix"] >= 6 * len(model._blocks())


@pytest.mark.parametrize("history", [True, False])
def test_the_last_block_needs_the_current_tokens_only(model, inputs, monkeypatch, history):
    if not history:
        inputs["history"] = []
    short = velocity(model, inputs)
    last = type([*model._blocks()][-1])
    whole = last.__base__.forward
    monkeypatch.setattr(last, "forward", lambda *args: whole(*args))
    torch.testing.assert_close(velocity(model, inputs), short, rtol=0, atol=1e-6)


def test_hardly_any_text(model, inputs):
    """One prompt of the pair, or both, may have no token at all."""

    def rule(num_text):
        mask = torch.zeros(2, 10)
        mask[0, :num_text] = 1
        assert velocity(model, inputs, encoder_attention_mask=mask).isfinite().all()

    check_cases([0, 1], rule)


# Features of diffusers ------------------------------------------------------------------------------------


def test_outputs_hold_tensors(model, inputs):
    with torch.no_grad():
        (sample,) = model(**inputs, return_dict=False)
        output = model(**inputs)
    assert list(output) == ["sample"]
    assert torch.equal(output.sample, sample)


def test_save_and_load_bitwise(tmp_path, family, model, inputs):
    model.save_pretrained(tmp_path)
    loaded = family.model_class.from_pretrained(tmp_path)
    assert torch.equal(velocity(loaded, inputs), velocity(model, inputs))
    assert {name: loaded.config[name] for name in family.config} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in family.config.items()
    }


def test_bfloat16(tmp_path, family, model, inputs):
    model.save_pretrained(tmp_path)
    half = family.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.time_text_embed.timestep_embedder.linear_1.weight.dtype == torch.float32
    assert half.proj_out.weight.dtype == torch.bfloat16
    result = velocity(half, to_bfloat16(inputs))
    assert result.dtype == torch.bfloat16
    expected = velocity(model, inputs)
    assert (result.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_layerwise_casting(tmp_path, family, model, inputs):
    model.save_pretrained(tmp_path)
    half = family.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    result = velocity(half, to_bfloat16(inputs))
    assert half.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    assert result.dtype == torch.bfloat16
    assert result.isfinite().all()


def test_gradient_checkpointing_gives_the_same_gradients(model, inputs, path):
    model.set_attention_path(path)
    model.train()

    def gradients():
        model.zero_grad()
        model(**inputs).sample.square().mean().backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    plain = gradients()
    model.enable_gradient_checkpointing()
    checkpointed = gradients()
    assert model.is_gradient_checkpointing
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backend(model, inputs, backend, path):
    model.set_attention_path(path)
    plain = velocity(model, inputs)
    with attention_backend("native"):  # puts back the process-wide choice that the next line makes
        model.set_attention_backend(backend)
        result = velocity(model, inputs)
    assert {processor._attention_backend for processor in model.attn_processors.values()} == {backend}
    torch.testing.assert_close(result, plain, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_lora(model, inputs):
    plain = velocity(model, inputs)
    torch.manual_seed(0)
    for name in ("first", "second"):
        config = LoraConfig(r=4, target_modules=["to_q", "add_k_proj", "proj_out"], init_lora_weights=False)
        model.add_adapter(config, adapter_name=name)
    outputs = []
    for name in ("first", "second"):
        model.set_adapter(name)
        outputs.append(velocity(model, inputs))
    assert (outputs[0] - plain).abs().max() > 1e-3
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
    assert torch.equal(velocity(model, inputs, attention_kwargs={"scale": 0.0}), plain)
    assert torch.equal(velocity(model, inputs), outputs[1])
    model.disable_adapters()
    assert torch.equal(velocity(model, inputs), plain)


def test_lora_from_a_file(tmp_path, family, model, inputs):
    plain = velocity(model, inputs)
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False))
    adapted = velocity(model, inputs)
    model.save_lora_adapter(tmp_path, weight_name="lora.safetensors")

    other = build(family)
    other.load_lora_adapter(tmp_path, prefix=None, weight_name="lora.safetensors")
    assert torch.equal(velocity(other, inputs), adapted)
    other.fuse_lora()
    torch.testing.assert_close(velocity(other, inputs), adapted, rtol=0, atol=1e-5)
    other.unfuse_lora()
    other.unload_lora()
    torch.testing.assert_close(velocity(other, inputs), plain, rtol=0, atol=1e-5)


def as_unit(unit, stage, num_text):
    """A call as of that unit and stage, with so many real text tokens."""
    generator = torch.Generator().manual_seed(unit)
    sizes = [(4, 8), (8, 16), (16, 32)]
    mask = torch.ones(2, 10)
    mask[0, num_text:] = 0
    return {
        "hidden_states": torch.randn(2, 16, 1, *sizes[stage], generator=generator),
        "history": [
            torch.randn(2, 16, clip.stop - clip.start, *sizes[clip.stage], generator=generator)
            for clip in history_plan(unit, NUM_STAGES, stage)
        ],
        "timestep": torch.full((2,), 500.0),
        "encoder_hidden_states": torch.randn(2, 10, 32, generator=generator),
        "encoder_attention_mask": mask,
        "pooled_projections": torch.randn(2, 24, generator=generator),
    }


@pytest.mark.slow
def test_a_longer_history_does_not_compile_again(family, model):
    """Not the depth of the model either: the blocks of a kind share what was compiled."""
    from torch._dynamo.testing import CompileCounterWithBackend  # which takes a second to import

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    plain = build(family)
    assert not model.is_compiled
    model.compile_repeated_blocks(fullgraph=True, backend=counter)
    assert model.is_compiled
    counts = []
    for unit, stage, num_text in ((0, 0, 4), (1, 1, 4), (2, 2, 6), (3, 1, 9), (5, 0, 4)):
        call = as_unit(unit, stage, num_text)
        torch.testing.assert_close(velocity(model, call), velocity(plain, call), rtol=0, atol=1e-6)
        counts.append(counter.frame_count)
    assert counts[0] <= 5
    assert counts[1] <= counts[0] + 1
    assert counts[1:] == counts[1:2] * 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_compiled_blocks_agree(model, inputs):
    torch._dynamo.reset()
    plain = velocity(model, inputs)
    model.compile_repeated_blocks()
    torch.testing.assert_close(velocity(model, inputs), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "cache",
    [
        FirstBlockCacheConfig(threshold=1e9),
        MagCacheConfig(num_inference_steps=4, mag_ratios=[1.0] * 4, threshold=1e9, retention_ratio=0.0),
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=lambda: 500,
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_step_cache(model, inputs, cache):
    """A skipped step reuses what the blocks did; for the same input that changes nothing but rounding."""
    plain = velocity(model, inputs)
    calls = []
    model.transformer_blocks[1].attn.to_q.register_forward_hook(lambda *args: calls.append(1))
    model.enable_cache(cache)
    with model.cache_context("pair"):
        cached = [velocity(model, inputs) for _ in range(3)]
    assert len(calls) < 3
    for result in cached:
        torch.testing.assert_close(result, plain, rtol=0, atol=1e-5)
    model.disable_cache()
    assert torch.equal(velocity(model, inputs), plain)


def test_a_size_that_patches_do_not_fit(model, inputs):
    def rule(where):
        odd = torch.zeros(2, 16, 1, 4, 7)
        change = {"hidden_states": odd} if where == "current" else {"history": [odd]}
        with pytest.raises(ValueError, match=r"multiples of patch_size 2, got 4 x 7; use 4 x 8"):
            velocity(model, inputs, **change)

    check_cases(["current", "history"], rule)
