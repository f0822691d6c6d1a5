"""Two manifests side by side."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pyramid_seed import generate
from pyramid_seed.noise import Branch
from pyramid_seed.provenance.diff import diff_manifests
from tests.cases import check_cases


@pytest.fixture(scope="module")
def longer(quick):
    return generate("a boat", seed=2**64 - 1, **quick | {"num_frames": 17})


def test_a_clip_is_the_same_as_itself_made_again(made, quick):
    found = diff_manifests(made.manifest, generate("a boat", seed=made.seed, **quick).manifest)
    assert found.is_same_clip
    assert (found.settings, found.weights) == ((), ())
    # The command line sets a variable for good, in this very process.
    assert [each.field for each in found.environment if not each.field.startswith("variables.")] == []
    assert [step.status for step in found.steps] == ["equal"] * 6


def test_the_beginning_of_a_longer_clip_is_told(made, longer):
    found = diff_manifests(made.manifest, longer.manifest)
    assert found.parting is None
    assert not found.is_same_clip
    assert found.num_units == (2, 3)
    assert [(each.field, each.a, each.b) for each in found.settings] == [("num_frames", 9, 17)]


def test_where_runs_part(made, quick):
    cases = [
        ({"prompt": "a car"}, "text", "embeddings of prompt"),
        ({"seed": 1}, "noise", "draw initial/0/0"),
        ({"branches": (Branch(1, 5),)}, "noise", "draw initial/1/0"),
        ({"video_num_inference_steps": 2}, "unit", "latents of stage 0 of unit 1"),
        ({"video_num_inference_steps": [1, 2, 1]}, "unit", "latents of stage 1 of unit 1"),
        ({"guidance_scale": 1.0, "video_guidance_scale": 1.0}, "text", "embeddings of negative_prompt"),
    ]

    def rule(changes, stage, note):
        arguments = {"prompt": "a boat", "seed": made.seed} | quick | changes
        found = diff_manifests(made.manifest, generate(**arguments).manifest)
        assert found.parting.stage == stage
        assert found.parting.note.startswith(note)
        assert not found.is_same_clip

    check_cases(cases, rule)


def test_a_unit_that_an_image_gave_has_no_stages(quick):
    pictures = [Image.effect_noise((64, 64), 80).convert("RGB") for _ in range(2)]
    one, other = (generate("a boat", seed=1, image=each, **quick).manifest for each in pictures)
    assert one["digests"]["stages"][0] == []
    assert diff_manifests(one, other).parting.note.startswith("latents of unit 0: ")
    assert "latents of 2 units, after 3 stages" in [step.note for step in diff_manifests(one, one).steps]


def test_every_side_of_a_difference_is_told(made):
    other = json.loads(json.dumps(made.manifest))
    other["environment"]["packages"]["torch"] = "9.9"
    other["weights"][0]["sha256"] = "0" * 64
    del other["weights"][1]
    other["settings"]["fps"] = 12
    found = diff_manifests(made.manifest, other)
    assert [each.field for each in found.environment] == ["packages.torch"]
    assert [each.field for each in found.weights] == [row["file"] for row in made.manifest["weights"][:2]]
    assert [each.field for each in found.settings] == ["fps"]
    assert found.steps[0].status == "differs"
    assert found.is_same_clip  # what came out is the same
