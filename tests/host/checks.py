"""What diffusers' own suite asks of pipelines, models and schedulers, and what of it holds here.

One row per behaviour: where it is tested, or why it is not for this pipeline. A refusal has both.
"""

from __future__ import annotations

from dataclasses import dataclass

HERE = "host/test_model.py"
PIPELINE_HERE = "host/test_pipeline.py"
PIPELINE = "pipelines/test_pipeline.py"
PARTS = "pipelines/test_parts.py"
FEATURES = "pipelines/test_features.py"
INPUTS = "pipelines/test_inputs.py"
LORA = "pipelines/test_lora_loading.py"
MODEL_LORA = "models/test_lora.py"
MODEL = "models/test_pyramid_transformers.py"
VAE = "models/test_autoencoder_kl_causal_video.py"
SCHEDULER = "schedulers/test_scheduling_pyramid_flow_match.py"


@dataclass(frozen=True)
class Check:
    """A behaviour.

    Attributes:
        what: it is.
        where: `file::test` under tests/, or "" if it is not tested.
        why: it is refused, or not for this pipeline; "" if it holds.
    """

    what: str
    where: str = ""
    why: str = ""


NO_IMAGE_ADAPTERS = "there are no IP adapters for Pyramid Flow: its text encoders see no image"
NO_TEXT_LORA = "LoRA is of the transformer alone: no trainer makes others for these models"
ONE_DEVICE = "a clip is made on one device; several clips are made at once, by a process for each device"

CHECKS: dict[str, tuple[Check, ...]] = {
    "pipeline": (
        Check("saved and loaded, the same output", "invariance/test_repeat.py::test_a_pipeline_saved_and_loaded"),
        Check("arguments of a call, and those in batches", f"{PIPELINE}::test_arguments_of_diffusers"),
        Check("a batch is consistent, and gives what each item gives", "invariance/test_neighbours.py::test_three_clips_forth_and_back"),
        Check("tuple and output object are equal", f"{PIPELINE}::test_tuple_and_dict"),
        Check("components make an equal pipeline; from_pipe", f"{PIPELINE}::test_from_pipe_and_components"),
        Check("float16", f"{PIPELINE}::test_fp16_is_refused", "activations of these models overflow in float16"),
        Check("bfloat16", f"{PIPELINE}::test_bf16"),
        Check("optional components", f"{PIPELINE}::test_a_saved_pipeline_has_the_same_parts"),
        Check("components left out", f"{PARTS}::test_text_and_the_rest_loaded_apart"),
        Check("to device and dtype", f"{PIPELINE}::test_to"),
        Check("dtype by component, dtype under its old name", f"{PIPELINE_HERE}::test_dtypes"),
        Check("several outputs per prompt", f"{PIPELINE}::test_num_videos_per_prompt"),
        Check("guidance is on above 1", f"{PIPELINE}::test_guidance_runs_a_pair"),
        Check("callbacks get and replace tensors", f"{PIPELINE}::test_latents_are_replaced"),
        Check("callbacks change guidance", f"{PIPELINE}::test_guidance_is_changed_for_the_rest_of_the_unit"),
        Check("variants are saved and loaded; wrong ones raise", f"{PIPELINE}::test_variants"),
        Check("texts are encoded in isolation", f"{PIPELINE}::test_text_and_the_rest_work_apart"),
        Check("np, pt and pil are the same", f"{PIPELINE}::test_every_type_is_the_same_clip"),
        Check("images of every kind are the same", f"{PIPELINE}::test_images_of_every_kind_give_the_same_clip"),
        Check("latents as input", f"{INPUTS}::test_value_errors", "every unit and stage draws noise; noise= takes draws"),
        Check("loaded by DiffusionPipeline", f"{PIPELINE}::test_a_fresh_process_finds_the_classes"),
        Check("a map of devices", f"{PARTS}::test_parts_that_cannot_be_left_out", ONE_DEVICE),
        Check("VAE slices and tiles", "invariance/test_memory_modes.py::test_slicing"),
        Check("attention slicing, xformers", why="diffusers' attention dispatcher took their place: set_attention_backend"),
        Check("FreeU", why="it scales skip connections of a U-Net; there is none"),
        Check("Karras schedulers", why="stages need the times of flow matching with renoise between them"),
        Check("IP adapters", why=NO_IMAGE_ADAPTERS),
    ),
    "memory": (
        Check("model offload, twice", "invariance/test_memory_modes.py::test_model_offload_of_accelerate"),
        Check("sequential offload, twice", f"{PIPELINE}::test_offload_hooks_of_accelerate"),
        Check("offload without an accelerator raises", f"{PIPELINE}::test_cpu_offload_needs_an_accelerator"),
        Check("group offload of a pipeline", f"{PIPELINE}::test_group_offload"),
        Check("group offload of a model", f"{PARTS}::test_a_single_model_offloaded_to_the_cpu_makes_the_same_clip"),
        Check("group offload to a disk", f"{PARTS}::test_group_offload_to_a_disk", "weights that two layers share are lost"),
        Check("layerwise casting", f"{MODEL}::test_layerwise_casting"),
        Check("layerwise casting while training", f"{HERE}::test_layerwise_casting_while_training"),
    ),
    "model": (
        Check("saved and loaded, the same output", f"{MODEL}::test_save_and_load_bitwise"),
        Check("variants, shards, both", f"{HERE}::test_variants_and_shards"),
        Check("loaded in a dtype", f"{MODEL}::test_bfloat16"),
        Check("modules that stay in float32", f"{HERE}::test_modules_that_stay_in_float32"),
        Check("the same input gives the same output", f"{HERE}::test_the_same_input_gives_the_same_output"),
        Check("tuple and output object are equal", f"{MODEL}::test_outputs_hold_tensors"),
        Check("attributes are those of the config", f"{HERE}::test_attributes"),
        Check("spread over devices", f"{PARTS}::test_parallelism_leaves_nothing_behind", ONE_DEVICE),
        Check("single files", why="diffusers converts single files of models in its own table; load_pipeline reads folders"),
    ),
    "training": (
        Check("gradients reach the weights, also with EMA", f"{HERE}::test_training"),
        Check("mixed precision", f"{HERE}::test_mixed_precision"),
        Check("gradient checkpointing", f"{MODEL}::test_gradient_checkpointing_gives_the_same_gradients"),
    ),
    "attention": (
        Check("fused projections", f"{FEATURES}::test_fused_projections"),
        Check("processors are read and set", f"{HERE}::test_attention_processors"),
        Check("backends are set, by a context, too", f"{MODEL}::test_attention_backend"),
    ),
    "caches": (
        Check("on, off, twice, reset", f"{HERE}::test_step_caches_are_put_on_and_off"),
        Check("steps are skipped, output is near", f"{MODEL}::test_step_cache"),
        Check("nothing leaks into another call", f"{PIPELINE}::test_no_call_and_no_clip_leaks_into_another"),
        Check("FasterCache", f"{PARTS}::test_step_caches_that_do_not_work", "it leaves out half of the pair of guidance"),
        Check("SeaCache", f"{PARTS}::test_step_caches_that_do_not_work", "it needs one schedule for the whole clip"),
        Check("TextKVCache", f"{PARTS}::test_step_caches_that_do_not_work", "text and video are one sequence here"),
    ),
    "lora": (
        Check("saved and loaded, metadata included", f"{LORA}::test_saved_as_trainers_of_diffusers_do"),
        Check("scale, fuse, unload", f"{LORA}::test_load_scale_fuse_and_unload"),
        Check("several, weighted, deleted", f"{MODEL_LORA}::test_two_of_them_in_their_order"),
        Check("scales by block", f"{MODEL_LORA}::test_what_no_file_holds_is_not_known"),
        Check("a name that is not there, biases, a fuse of NaN", f"{HERE}::test_lora_errors"),
        Check("missing and unexpected keys", f"{MODEL_LORA}::test_a_lora_of_another_model_is_refused"),
        Check("group offload", f"{LORA}::test_group_offload_and_a_lora"),
        Check("swapped in place", f"{LORA}::test_swapped_in_place"),
        Check("swapped in compiled blocks", f"{LORA}::test_compiled_blocks_stay_as_they_are"),
        Check("a swap that cannot be", f"{HERE}::test_swaps_that_cannot_be"),
        Check("LoRA of text encoders", f"{LORA}::test_an_adapter_on_another_part_is_not_known", NO_TEXT_LORA),
    ),
    "quantisation": (
        Check("torchao and Quanto, saved and loaded", f"{FEATURES}::test_quantised_as_it_is_loaded"),
        Check("other parts than the transformer", f"{FEATURES}::test_what_cannot_be_quantised_is_refused", "no manifest would tell"),
    ),
    "compile": (
        Check("repeated blocks, whole graphs, other shapes", f"{MODEL}::test_compiled_blocks_agree"),
        Check("no recompilation for a longer history", f"{MODEL}::test_a_longer_history_does_not_compile_again"),
        Check("the whole model", f"{PARTS}::test_a_transformer_compiled_as_a_whole", "the history is a list that grows"),
        Check("ahead of time", f"{HERE}::test_export", "for one length of history, on the reference path: elsewhere the text's padding decides shapes"),
    ),
    "scheduler": (
        Check("config is saved and loaded", f"{SCHEDULER}::test_config_round_trip"),
        Check("a step, its shape and output", f"{SCHEDULER}::test_a_step_is_the_euler_step_in_float32_and_keeps_no_counter"),
        Check("compatible schedulers, trained betas", why="no other scheduler has stages; flow matching has no betas"),
    ),
}  # fmt: skip
