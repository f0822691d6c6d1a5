"""The embedded model's golden clips: bit for bit where that is promised, within one grey level elsewhere.

Only a change of weights, or of the arithmetic on purpose, is a reason to renew them:
`pytest tests/test_golden.py -m "slow or not slow" --clip-regression-renew`. tests/golden/noise.json is not
renewed, ever.
"""

from __future__ import annotations

import pytest

from pyramid_seed import generate

CLIPS = {
    "default": {
        "prompt": "a red circle moves to the right on a white background",
        "seed": 42,
        "attention": "prefix",  # here and below: as of clips made before there was "grouped"
    },
    "grouped": {
        "prompt": "a big green square moves up on a white background",
        "seed": 11,
        "num_inference_steps": [2, 1, 1],
        "video_num_inference_steps": [1, 1, 2],
    },
    "short": {
        "prompt": "a big blue square grows on a black background",
        "seed": 2**64 - 1,
        "num_frames": 9,
        "num_inference_steps": [1, 2, 3],
        "video_num_inference_steps": [2, 1, 1],
        "guidance_decay": 0.5,
        "attention": "prefix",
    },
    "unguided": {
        "prompt": "green star",
        "seed": 0,
        "num_frames": 5,
        "num_inference_steps": 2,
        "video_num_inference_steps": 2,
        "guidance_scale": 0.0,
        "video_guidance_scale": 0.0,
        "attention": "prefix",
    },
    "reference": {
        "prompt": "a yellow triangle moves down on a grey background",
        "seed": 7,
        "num_frames": 5,
        "attention": "reference",
    },
}
# What the others have as well: the earlier path in many steps, and the reference of tests/pipelines/.
ALSO = ("default", "reference")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALSO else ()) for name in CLIPS]
)
def test_golden_clip(name, clip_regression):
    clip_regression.check(generate(**CLIPS[name], device="cpu", progress=False), name=name)
