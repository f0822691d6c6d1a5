"""The recorded runs of the original, replayed: text, latents, frames, and which draw goes where."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pyramid_seed.choices import ATTENTION_PATHS, DEFAULT_PATH
from pyramid_seed.noise import NoiseKey, RecordedNoise

REFERENCE = Path(__file__).parents[1] / "reference"
SUFFIX = ", hyper quality, Ultra HD, 8K"
NEGATIVE = "cartoon style, worst quality, low quality, blurry"
# Block noise x of the recordings is z * 2 / sqrt(3), z being white noise, where gamma is 1/3.
WHITE_OF_BLOCK_NOISE = 3**0.5 / 2


@dataclass(frozen=True)
class Case:
    family: str
    prompt: str
    settings: dict = field(default_factory=dict)
    negative_prompt: str = NEGATIVE
    image: bool = False


CASES = {
    "miniflux_t2v": Case(
        "miniflux",
        "a red circle moves to the right",
        {
            "height": 64,
            "width": 128,
            "num_frames": 33,
            "num_inference_steps": [3, 3, 3],
            "video_num_inference_steps": [2, 2, 2],
            "guidance_scale": 7.0,
            "video_guidance_scale": 5.0,
        },
    ),
    "miniflux_t2v_unguided": Case(
        "miniflux",
        "a yellow triangle falls",
        {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 0.0},
        negative_prompt="",
    ),
    "miniflux_i2v": Case(
        "miniflux",
        "the sea at sunset",
        {"num_frames": 17, "num_inference_steps": 2, "guidance_scale": 7.0, "video_guidance_scale": 4.0},
        image=True,
    ),
    "sd3_t2v": Case(
        "sd3",
        "a green square slides up",
        {
            "height": 64,
            "width": 128,
            "num_frames": 25,
            "num_inference_steps": 2,
            "guidance_scale": 7.0,
            "video_guidance_scale": 5.0,
        },
    ),
}


def recorded_draws(vectors: dict[str, torch.Tensor], image: bool) -> dict[NoiseKey, torch.Tensor]:
    """White noise by key, in the order in which it is drawn.

    The original drew the initial noise of the whole clip at once; with an image to start from, which is unit
    0, it left the last latent frame of it over.
    """
    initial = vectors["noise.initial"]
    draws = {NoiseKey("posterior", 0, 0): vectors["noise.posterior"]} if image else {}
    jump = 0
    for unit in range(int(image), initial.shape[2]):
        frame = unit - int(image)
        draws[NoiseKey("initial", unit, 0)] = initial[:, :, frame : frame + 1]
        for stage in (1, 2):
            draws[NoiseKey("renoise", unit, stage)] = vectors[f"noise.jump.{jump}"] * WHITE_OF_BLOCK_NOISE
            jump += 1
    assert f"noise.jump.{jump}" not in vectors
    return draws


# Each step by each path is in tests/models/test_pyramid_transformers.py: one run shows how they join.
RUNS = [
    pytest.param(
        name,
        path,
        id=f"{name}-{path}",
        marks=() if path == DEFAULT_PATH or name == "miniflux_i2v" else pytest.mark.slow,
    )
    for name, path in product(CASES, ATTENTION_PATHS)
]


@pytest.mark.parametrize(("name", "path"), RUNS)
def test_recorded_run(load, name, path):
    case = CASES[name]
    pipe, vectors = load(case.family), load_file(REFERENCE / f"{name}.safetensors")

    embeddings = pipe.encode_prompt(case.prompt + SUFFIX, case.negative_prompt)
    for name_of_values, values in embeddings._asdict().items():
        expected = vectors[name_of_values]
        torch.testing.assert_close(values, expected.to(values.dtype), rtol=0, atol=1e-5)

    draws = recorded_draws(vectors, case.image)
    noise = RecordedNoise(draws)
    with pipe.transformer.attention_path_set(path):
        output = pipe(
            case.prompt,
            negative_prompt=case.negative_prompt,
            image=Image.open(REFERENCE / "i2v_input.png") if case.image else None,
            prompt_suffix=SUFFIX,
            noise=noise,
            output_type="uint8",
            **case.settings,
        )

    noise.close()
    assert [entry.key for entry in output.ledgers[0]] == list(draws)
    assert output.seeds == [None]
    torch.testing.assert_close(output.latents, vectors["latents"], rtol=0, atol=1e-4)
    frames = torch.from_numpy(output.frames[0])
    assert frames.dtype == torch.uint8
    assert frames.shape == vectors["frames"].shape
    assert (frames.int() - vectors["frames"].int()).abs().max() <= 1
