"""Use the pipeline as in diffusers: a LoRA, a callback, and a list of prompts with one seed each.

python examples/diffusers_habits.py    # needs peft: pip install "pyramid-seed[lora]"
"""

from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from pyramid_seed import load_pipeline

pipe = load_pipeline("embedded:tiny")
pipe.set_progress_bar_config(disable=True)
settings = {
    "height": 64,
    "width": 64,
    "num_frames": 9,
    "num_inference_steps": [2, 2, 2],
    "guidance_scale": 3.0,
}

# This LoRA is random, not trained, so that the example runs anywhere. Trainers call save_lora_weights.
pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights="gaussian"))
layers = get_peft_model_state_dict(pipe.transformer)
generator = torch.Generator().manual_seed(0)
layers = {name: torch.randn(layer.shape, generator=generator) / 10 for name, layer in layers.items()}
with TemporaryDirectory() as folder:
    pipe.save_lora_weights(folder, transformer_lora_layers=layers)
    pipe.transformer.delete_adapters("default")
    pipe.load_lora_weights(folder, adapter_name="style")
    pipe.set_adapters("style", 0.5)

steps = []


def on_step_end(pipeline, step, timestep, tensors):
    """`current_place` says which step this is; you may read or replace the tensors."""
    steps.append(pipeline.current_place)
    return tensors


output = pipe(
    ["a red circle moves to the right", "a blue square grows"],
    seed=[1, 2],
    callback_on_step_end=on_step_end,
    **settings,
)
print(f"{len(steps)} steps, the last one at {steps[-1]}")

# Each clip of a list is the one that its own seed gives, whatever else is in the list.
alone = pipe("a blue square grows", seed=2, **settings)
assert torch.equal(alone.latents[0], output.latents[1])

pipe.disable_lora()
plain = pipe("a blue square grows", seed=2, **settings)
assert not torch.equal(plain.latents, alone.latents)
