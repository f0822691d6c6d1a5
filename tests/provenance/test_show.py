"""A manifest for people and for programs."""

from __future__ import annotations

from pyramid_seed import generate
from pyramid_seed.noise import Branch
from pyramid_seed.provenance.show import describe
from pyramid_seed.texts import printable


def test_people_see_what_matters(made):
    lines = dict(describe(made.manifest))
    assert lines["prompt"] == "a boat"
    assert lines["seed"] == str(2**64 - 1)
    assert lines["clip"] == "9 frames of 64x64 at 8 fps, 2 units"
    assert lines["model"].startswith("miniflux-tiny (a folder), variant 384p, 14 files, ")
    assert lines["steps"] == "[1, 1, 1]"
    assert lines["noise"] == "pyramid-seed/v1, 6 draws on cpu"
    assert made.digest in lines["frames"]
    assert lines["stages"] == f"Merkle root {made.manifest['digests']['root']}"
    assert "branch" not in lines
    assert "image" not in lines


def test_branches_decay_and_later_settings_are_told(quick):
    clip = generate(
        "a boat",
        seed=1,
        branches=(Branch(1, 7),),
        guidance_decay=0.5,
        **quick | {"video_num_inference_steps": 2},
    )
    lines = dict(describe(clip.manifest))
    assert lines["branch"] == "seed 7 from frame 1 (unit 1) on"
    assert lines["steps"] == "[1, 1, 1], later units [2, 2, 2]"
    assert lines["guidance"] == "2.0, 0.5 less with every unit, at least 2.0"


def test_a_prompt_cannot_steer_the_terminal():
    assert printable("a\x1b[31m\nb\x9bc \udc80") == "a\\x1b[31m\\nb\\x9bc \\udc80"
    assert printable("🎈 Ω") == "🎈 Ω"
