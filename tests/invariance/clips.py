"""What is compared: a clip's identity, of the embedded model and of all families with random weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyramid_seed import Beginning, load_pipeline
from pyramid_seed.api import image_digest
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.pipelines import PyramidFlowPipelineOutput
from pyramid_seed.pipelines.clip_pipeline import ClipPipeline
from pyramid_seed.pipelines.pipeline_helios import SeededHeliosPipeline
from pyramid_seed.provenance.manifest import unit_digests
from tests.reference import helios_tiny

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
MODELS: dict[str, tuple[str, str | None]] = {
    "tiny": ("embedded:tiny", None),
    "miniflux": (str(REFERENCE / "miniflux-tiny"), "384p"),
    "sd3": (str(REFERENCE / "sd3-tiny"), "384p"),
    "helios": ("distilled", None),
    "helios-image": ("base", None),
}
"""Folder and variant; of Helios the name of a model that `helios_tiny` makes."""

PICTURE = Image.open(REFERENCE / "i2v_input.png").convert("RGB").resize((64, 64))
PROMPT = "a red circle moves to the right on a white background"
# Other lengths, in words and in tokens.
PROMPTS = [PROMPT, "star", "a big yellow triangle, slowly, slowly, moves up and up on a grey ground"]
SEEDS = [1, 2**32 + 1, 2**64 - 1]

SETTINGS = {
    "height": 64,
    "width": 64,
    "num_inference_steps": [1, 2, 1],
    "guidance_scale": 3.0,
    "max_sequence_length": 32,
    "output_type": "uint8",
}


def load(name: str, **options: Any) -> ClipPipeline:
    """One of `MODELS`, on the CPU in float32 unless told otherwise, without a bar."""
    model, variant = MODELS[name]
    with TemporaryDirectory() as folder:  # weights are read into memory
        model = helios_tiny.saved(model, Path(folder)) if name.startswith("helios") else model
        pipe = load_pipeline(model, variant=variant, **{"device": "cpu", **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(pipe: ClipPipeline, prompt: Any = PROMPT, *, units: int = 2, **changes: Any) -> Any:
    """Clips of `units` units, seed 1, with the settings changed as given."""
    settings = {**SETTINGS, "seed": 1, "num_frames": pipe.geometry.num_frames(units), **changes}
    if begins_with_image(pipe):
        settings |= {"image": PICTURE.resize((settings["width"], settings["height"]))}
        settings |= {"num_inference_steps": 2} if "num_inference_steps" not in changes else {}
    return pipe(prompt, **settings)


def begins_with_image(pipe: ClipPipeline) -> bool:
    """Whether all clips of this model begin with `PICTURE`: those of Helios-Base."""
    return type(pipe) is SeededHeliosPipeline


def assert_same(one: PyramidFlowPipelineOutput, other: PyramidFlowPipelineOutput) -> None:
    """Bitwise: text, noise, latents, frames."""
    assert one.text_digests == other.text_digests
    assert one.ledgers == other.ledgers
    assert torch.equal(one.latents, other.latents)
    assert np.array_equal(one.frames, other.frames)


def beginning(pipe: ClipPipeline, latents: torch.Tensor, units: int) -> Beginning:
    """The first units of latents (1, C, t, h, w)."""
    frames = pipe.geometry.frames_per_unit
    digest = image_digest(PICTURE) if begins_with_image(pipe) else None
    return Beginning(latents[:, :, : units * frames], image_digest=digest, frames_per_unit=frames)


def clip_of(output: PyramidFlowPipelineOutput, index: int) -> PyramidFlowPipelineOutput:
    """One clip of a batch, as if it had been made alone."""
    return PyramidFlowPipelineOutput(
        frames=output.frames[index : index + 1],
        latents=output.latents[index : index + 1],
        seeds=[output.seeds[index]],
        ledgers=[output.ledgers[index]],
        text_digests=[output.text_digests[index]],
        stage_digests=[output.stage_digests[index]],
    )


def identity(output: PyramidFlowPipelineOutput) -> dict[str, Any]:
    """The only clip of an output as plain values, to be compared across processes."""
    return {
        "text": output.text_digests[0],
        "ledger": output.ledgers[0].to_list(),
        "stages": output.stage_digests[0],
        "units": unit_digests(output.latents),
        "frames": frames_digest(output.frames[0]),
    }
