"""The procedural world: deterministic, inside the frame, balanced, and said in words that fit."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from world import (
    BACKGROUND_RGB,
    BACKGROUNDS,
    COLOUR_RGB,
    COLOURS,
    HELD_OUT_SEEDS,
    MOTIONS,
    SHAPES,
    TRAIN_SEEDS,
    SceneSpec,
    caption,
    held_out_examples,
    held_out_scenes,
    plain_caption,
    render,
    sample_scene,
    training_example,
)

VALUES = {"shape": SHAPES, "colour": COLOURS, "motion": MOTIONS, "background": BACKGROUNDS}
SYNONYMS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "purple": ("purple", "violet"),
    "grey": ("grey", "gray"),
    "right": ("right",),
    "left": ("left",),
    "up": ("up", "ris"),
    "down": ("down", "fall"),
    "grow": ("grow", "expand", "bigger", "larger"),
    "shrink": ("shrink", "contract", "smaller"),
}
SCENE = sample_scene(7, shape="circle", colour="red", motion="right", background="white")


def test_scene_clip_and_caption_are_functions_of_the_seed_alone():
    first = [training_example(index) for index in range(20)]
    np.random.seed(5)
    assert [training_example(index) for index in range(20)] == first
    assert len({example.scene for example in first}) == 20
    for example in first[:3]:
        np.testing.assert_array_equal(render(example.scene), render(example.scene))


def test_no_global_random_state_is_read_or_touched():
    before = np.random.get_state()[1].copy()
    held_out_examples(5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_golden_digest():
    """The training data of the embedded model is these bytes; a change here means another data set."""
    digest = hashlib.sha256()
    for index in range(12):
        example = training_example(index)
        digest.update(example.caption.encode())
        digest.update(render(example.scene).tobytes())
    assert digest.hexdigest() == "adeb73ba3e2f1b692f900e9c83e7f2b470e3e5c774dbbbece0b0d527941d5b52"


@pytest.mark.parametrize("num_frames", [1, 17, 33])
def test_objects_stay_inside_the_frame(num_frames):
    for scene in held_out_scenes(108, num_frames):
        frames = render(scene, num_frames)
        assert frames.shape == (num_frames, 64, 64, 3)
        assert frames.dtype == np.uint8
        rim = np.ones((64, 64), dtype=bool)
        rim[1:-1, 1:-1] = False
        assert (frames[:, rim] == BACKGROUND_RGB[scene.background]).all()
        assert (frames == COLOUR_RGB[scene.colour]).all(-1).any((1, 2)).all()


def test_first_frame_is_the_same_for_every_length():
    for seed in range(20):
        still, clip, long = (render(sample_scene(seed, n), n)[0] for n in (1, 17, 33))
        np.testing.assert_array_equal(still, clip)
        np.testing.assert_array_equal(clip, long)


def test_a_longer_render_of_a_scene_begins_with_the_shorter_one():
    scene = sample_scene(3, 33)
    np.testing.assert_array_equal(render(scene, 33)[:17], render(scene, 17))


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", np.pi), ("square", np.pi), ("triangle", 0.75 * np.pi)]
)
def test_rendered_area(shape, area):
    """Coverage sums to the true area: the soft edge neither adds nor takes."""
    scene = sample_scene(1, shape=shape, motion="right", colour="red", background="black")
    covered = render(scene)[..., 0].astype(float).sum((1, 2)) / COLOUR_RGB["red"][0]
    np.testing.assert_allclose(covered, area * scene.radius**2, rtol=0.02)


def test_motion_has_constant_speed_in_the_named_direction():
    x = np.arange(64) + 0.5
    for motion, sign, axis in [("right", 1, 1), ("left", -1, 1), ("up", -1, 0), ("down", 1, 0)]:
        for seed in range(5):
            scene = sample_scene(seed, motion=motion, colour="red", background="black")
            red = render(scene)[..., 0].astype(float)
            profile = red.sum(2 - axis)
            steps = np.diff((profile * x).sum(1) / profile.sum(1)) * sign
            assert 16 * 0.97 <= steps.sum() <= 26 * 1.03
            np.testing.assert_allclose(steps, steps.mean(), atol=0.05)


@pytest.mark.parametrize(("motion", "sign"), [("grow", 1), ("shrink", -1)])
def test_growth_is_linear_and_large(motion, sign):
    for seed in range(6):
        scene = sample_scene(seed, motion=motion, colour="red", background="black")
        radius = np.sqrt(render(scene)[..., 0].astype(float).sum((1, 2)))
        steps = np.diff(radius) * sign
        assert steps.min() > 0
        assert max(radius[0], radius[-1]) / min(radius[0], radius[-1]) > 1.7
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.25)


def test_other_sizes_stretch_the_canvas():
    large = render(SCENE, 2, 128, 128).reshape(2, 64, 2, 64, 2, 3).astype(float).mean((2, 4))
    assert np.abs(large - render(SCENE, 2)).max() < 64
    assert np.abs(large - render(SCENE, 2)).mean() < 1


def test_plain_caption_is_the_documented_form():
    assert plain_caption(SCENE) == "a red circle moves to the right on a white background"
    scene = sample_scene(1, shape="triangle", colour="orange", motion="shrink", background="grey")
    assert plain_caption(scene) == "an orange triangle shrinks on a grey background"
    words = {"left": "moves to the left", "up": "moves up", "down": "moves down", "grow": "grows"}
    for motion, phrase in words.items():
        assert (
            plain_caption(dataclasses.replace(SCENE, motion=motion))
            == f"a red circle {phrase} on a white background"
        )


def test_plain_captions_are_two_fifths_and_the_rest_is_varied():
    captions = Counter(caption(SCENE, seed) for seed in range(2000))
    assert 0.36 < captions[plain_caption(SCENE)] / 2000 < 0.44
    assert len(captions) > 300


def test_every_caption_says_what_the_scene_shows():
    for seed in range(3000):
        example = training_example(seed)
        text = example.caption.lower()
        for name in VALUES:
            value = getattr(example.scene, name)
            said = any(word in text for word in SYNONYMS.get(value, (value,)))
            assert said or (name == "background" and value == "white"), (text, value)
        assert " a orange" not in f" {text}"
        assert "{" not in text


def test_a_caption_without_a_background_belongs_to_white():
    short = [caption(SCENE, seed) for seed in range(500)]
    assert any("white" not in text.lower() for text in short)
    for background in ("black", "grey"):
        scene = dataclasses.replace(SCENE, background=background)
        captions = [caption(scene, seed).lower() for seed in range(500)]
        assert all(any(word in text for word in ("black", "grey", "gray")) for text in captions)


def test_held_out_seeds_are_not_trained_on():
    assert TRAIN_SEEDS.stop <= HELD_OUT_SEEDS.start
    assert all(example.seed in HELD_OUT_SEEDS for example in held_out_examples(50))
    assert training_example(0).seed in TRAIN_SEEDS


def test_held_out_attributes_are_balanced():
    scenes = held_out_scenes(324)
    assert len({tuple(getattr(scene, name) for name in VALUES) for scene in scenes}) == 324
    for first, second in combinations(VALUES, 2):
        pairs = Counter((getattr(scene, first), getattr(scene, second)) for scene in scenes[36:72])
        assert set(pairs) == set(product(VALUES[first], VALUES[second]))
        assert len(set(pairs.values())) == 1


def test_given_attributes_do_not_change_the_other_draws():
    free = sample_scene(11)
    kept = sample_scene(11, colour="blue")
    assert kept == dataclasses.replace(free, colour="blue")
    assert isinstance(kept, SceneSpec)


def test_errors_name_rule_and_value():
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        sample_scene(1, 0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        sample_scene(-1)
    with pytest.raises(ValueError, match="shape must be one of circle, square, triangle, got 'star'"):
        sample_scene(1, shape="star")
    with pytest.raises(ValueError, match="must be at least 1, got 17, 0, 64"):
        render(SCENE, 17, 0, 64)
