"""The geometry of a model without importing torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyramid_seed.checkpoints.geometry import PUBLISHED_MODELS, known_geometry
from pyramid_seed.checkpoints.source import recognise_model
from tests.conftest import REFERENCE

ROOT = Path(__file__).parents[2]


def test_it_is_that_of_the_model():
    assert known_geometry("embedded:tiny") == recognise_model("embedded:tiny").geometry
    original = recognise_model(str(REFERENCE / "miniflux-tiny"), variant="384p").geometry
    pyramid_flow = [model for model in PUBLISHED_MODELS if "pyramid" in model]
    assert [known_geometry(model) for model in pyramid_flow] == [original, original]
    assert known_geometry(str(REFERENCE / "miniflux-tiny")) is None


REFUSED = {
    "generate a --height 100": "height must be a multiple of 32, got 100; use 96 or 128",
    "generate a --preset miniflux-384p --num-frames 8": "num_frames must be 8k + 1, got 8; use 1 or 9",
    "generate a -o README.md": "cannot write a video as 'README.md'",
    "verify nothere.mp4": "nothere.mp4 does not exist",
    "extend nothere.mp4 --num-frames 9": "nothere.mp4 does not exist",
    "regenerate nothere.mp4": "nothere.mp4 does not exist",
    "record nothere.mp4": "nothere.mp4 does not exist",
    "check nothere.json": "nothere.json does not exist",
}


def test_what_cannot_be_made_is_refused_before_torch_is_imported():
    code = "import sys; sys.modules['torch'] = None; from pyramid_seed.cli import main\n"
    code += "for command in sys.argv[1:]: assert main(command.split()) == 2"
    done = subprocess.run(
        [sys.executable, "-c", code, *REFUSED], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    for line, (command, message) in zip(said, REFUSED.items(), strict=True):
        assert line.startswith(f"pyramid-seed {command.split()[0]}: {message}")
