"""Pipelines of which no clip can be promised are refused before any work, with the reason."""

from __future__ import annotations

import pytest
import torch
from diffusers import ContextParallelConfig
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
    apply_first_block_cache,
    apply_group_offloading,
)
from safetensors.torch import load_file, save_file

from pyramid_seed.api import generate
from pyramid_seed.loading import load_pipeline
from pyramid_seed.models.lora import check_lora
from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.reproduce import extend, regenerate, verify
from tests.cases import check_cases
from tests.pipelines.conftest import FAMILIES, FAMILY_NEUTRAL, REFERENCE


@FAMILY_NEUTRAL
def test_a_part_that_is_missing(pipe, small):
    def rule(name):
        other = PyramidFlowPipeline(**pipe.components | {name: None})
        for call in (lambda: other("a", **small), lambda: generate("a", pipeline=other)):
            with pytest.raises(ValueError, match=f"must have a {name}, got None"):
                call()

    check_cases(["scheduler", "transformer"], rule)


def test_a_vae_that_is_missing(pipe, family, small, known):
    """Latents are made without one, where it is known how it divides space and time."""
    other = PyramidFlowPipeline(**pipe.components | {"vae": None})
    with pytest.raises(
        ValueError, match=r"without a vae must be loaded by load_pipeline\(\.\.\., vae=None\)"
    ):
        other("a", **small)
    loaded = load_pipeline(REFERENCE / FAMILIES[family], device="cpu", vae=None)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded("a red circle", seed=7, **small).latents, known().latents)
    image = torch.zeros(3, 64, 64)
    ignore = lambda *_: None  # noqa: E731
    for wanted in ({"output_type": "np"}, {"image": image}, {"callback_on_chunk_end": ignore}):
        with pytest.raises(ValueError, match=r"must have a vae, got None; .* output_type='latent'"):
            loaded("a", **small | wanted)
    with pytest.raises(ValueError, match="must have a vae, got None"):
        generate("a", pipeline=loaded, height=64, width=64, num_frames=1)


def test_text_and_the_rest_loaded_apart(family, small, known):
    folder = REFERENCE / FAMILIES[family]
    encoders = {f"text_encoder{end}": None for end in ("", "_2", "_3")}
    text = load_pipeline(folder, device="cpu", transformer=None, vae=None)
    rest = load_pipeline(folder, device="cpu", **encoders)
    rest.set_progress_bar_config(disable=True)
    assert (text.transformer, text.vae, rest.text_encoder) == (None, None, None)
    with torch.no_grad():
        embeddings = text.encode_prompt("a red circle")._asdict()
    assert torch.equal(rest(**embeddings, seed=7, **small).latents, known().latents)
    with pytest.raises(ValueError, match=r"the text encoders have been freed.* give prompt_embeds"):
        rest("a red circle", **small)
    with pytest.raises(ValueError, match="must have a transformer, got None"):
        text("a red circle", **small)


@FAMILY_NEUTRAL
def test_parts_that_cannot_be_left_out(family, pipe):
    for error, message, options in (
        (TypeError, r"vae can only be left out \(vae=None\)", {"vae": pipe.vae}),
        (ValueError, "scheduler cannot be left out", {"scheduler": None}),
        (
            ValueError,
            "compile is for the transformer, which is left out",
            {"transformer": None, "compile": True},
        ),
        (TypeError, "vea", {"vea": None}),
        (ValueError, "device_map must name one device, .* got 'balanced'", {"device_map": "balanced"}),
        (ValueError, "device_map must name one device", {"device_map": {"vae": "cpu"}}),
        (ValueError, "give either device or device_map", {"device_map": "cpu", "device": "cpu"}),
    ):
        with pytest.raises(error, match=message):
            load_pipeline(REFERENCE / FAMILIES[family], **options)
    assert load_pipeline(REFERENCE / FAMILIES[family], device_map="cpu").device.type == "cpu"


@FAMILY_NEUTRAL
def test_a_transformer_compiled_as_a_whole(own_pipe, small):
    with pytest.raises(ValueError, match=r"use pipeline\.transformer\.compile_repeated_blocks\(\)"):
        own_pipe.transformer.compile(backend="eager")
    assert not own_pipe.is_compiled
    own_pipe.transformer = torch.compile(own_pipe.transformer, backend="eager")
    assert own_pipe.is_compiled
    with pytest.raises(ValueError, match="cannot be compiled as a whole"):
        own_pipe("a", **small)


@FAMILY_NEUTRAL
def test_group_offload_to_a_disk(own_pipe, small, known, tmp_path):
    with pytest.raises(ValueError, match="offload_to_disk_path must be left out"):
        own_pipe.enable_group_offload(
            torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
        )
    assert list(tmp_path.iterdir()) == []
    own_pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(own_pipe("a red circle", seed=7, **small).latents, known().latents)


@FAMILY_NEUTRAL
def test_a_single_model_offloaded_to_a_disk(own_pipe, small, tmp_path):
    apply_group_offloading(
        own_pipe.text_encoder_2,
        torch.device("cpu"),
        offload_type="leaf_level",
        offload_to_disk_path=str(tmp_path),
    )
    with pytest.raises(ValueError, match="text_encoder_2: offload_to_disk_path must be left out"):
        own_pipe("a", **small)


def test_a_single_model_offloaded_to_the_cpu_makes_the_same_clip(own_pipe, small, known):
    for part in (own_pipe.transformer, own_pipe.vae):
        apply_group_offloading(part, torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(own_pipe("a red circle", seed=7, **small).latents, known().latents)


@FAMILY_NEUTRAL
def test_hooks_that_no_manifest_would_tell_of(own_pipe, small):
    """As functions of diffusers put them on, past `enable_cache`."""
    apply_first_block_cache(own_pipe.transformer, FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(ValueError, match=r"transformer has a hook of diffusers.*fbc_.*enable_cache"):
        own_pipe("a", **small)
    with pytest.raises(ValueError, match="transformer has a hook of diffusers"):
        generate("a", pipeline=own_pipe, **small)


@FAMILY_NEUTRAL
def test_step_caches_that_do_not_work(own_pipe, small, known):
    def rule(config, reason):
        with pytest.raises(ValueError, match=rf"{type(config).__name__} cannot be used.*{reason}"):
            own_pipe.transformer.enable_cache(config)
        assert not own_pipe.transformer.is_cache_enabled

    check_cases(
        [
            (FasterCacheConfig(), "half of the pair"),
            (SeaCacheConfig(), "one schedule"),
            (TextKVCacheConfig(), "attention to text alone"),
        ],
        rule,
    )
    assert torch.equal(own_pipe("a red circle", seed=7, **small).latents, known().latents)


@FAMILY_NEUTRAL
def test_parallelism_leaves_nothing_behind(own_pipe):
    transformer = own_pipe.transformer
    with pytest.raises(ValueError, match="enable_parallelism is not supported"):
        transformer.enable_parallelism(config=ContextParallelConfig(ring_degree=2))
    marks = [getattr(each, "_parallel_config", None) for each in transformer.attn_processors.values()]
    assert marks == [None] * len(marks)


def test_a_clip_with_a_step_cache(quick):
    pipeline = load_pipeline(quick["model"], variant="384p", device="cpu")
    steps = quick | {"num_inference_steps": 3}
    plain = generate("a boat", seed=3, pipeline=pipeline, **steps)
    pipeline.transformer.enable_cache(TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1))
    clip = generate("a boat", seed=3, pipeline=pipeline, **steps)
    assert "cache" not in plain.manifest
    assert clip.digest != plain.digest
    told = clip.manifest["cache"]
    assert (told["config"], told["values"]["cache_interval"]) == ("TaylorSeerCacheConfig", 2)

    def rule(call):
        with pytest.raises(ValueError, match="made with the step cache TaylorSeerCacheConfig"):
            call(clip)

    check_cases([regenerate, verify, lambda clip: extend(clip, 17)], rule)
    again = regenerate(clip, pipeline=pipeline)
    assert (again.digest, again.manifest["cache"]) == (clip.digest, told)
    pipeline.transformer.disable_cache()
    with pytest.raises(ValueError, match=r"made with the step cache .*this pipeline has None"):
        extend(clip, 17, pipeline=pipeline)
    assert "cache" not in regenerate(clip, pipeline=pipeline).manifest


@FAMILY_NEUTRAL
def test_half_a_lora(own_pipe, tmp_path):
    peft = pytest.importorskip("peft")
    own_pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    own_pipe.transformer.save_lora_adapter(tmp_path, weight_name="whole.safetensors")
    own_pipe.transformer.unload_lora()
    whole = load_file(tmp_path / "whole.safetensors")

    def rule(kept):
        half = tmp_path / f"{kept}.safetensors"
        save_file({name: value for name, value in whole.items() if kept in name}, half)
        for read in (check_lora, own_pipe.load_lora_weights):
            with pytest.raises(ValueError, match="must hold both matrices of a layer"):
                read(half)

    check_cases(["lora_A", "lora_B"], rule)
    assert check_lora(tmp_path / "whole.safetensors").name == "whole.safetensors"
