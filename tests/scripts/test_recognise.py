"""The recogniser: always right on rendered clips, blurred and noisy ones too, and silent on anything else."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from recognise import ATTRIBUTES, Recognition, centres, edge_width, ground_error, recognise
from world import (
    BACKGROUND_RGB,
    BACKGROUNDS,
    COLOUR_RGB,
    COLOURS,
    held_out_examples,
    render,
    sample_scene,
)

from tests.cases import check_cases

pytestmark = pytest.mark.slow  # of the world that the embedded model was trained on

EXAMPLES = held_out_examples(432)
NOTHING = Recognition(None, None, None, None, None, None, dict.fromkeys(ATTRIBUTES, 0.0))


def _blur(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur in space, edges repeated."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (1, 2):
        size = frames.shape[axis]
        padded = np.pad(frames, [(reach, reach) if a == axis else (0, 0) for a in range(4)], mode="edge")
        frames = sum(k * padded.take(range(i, i + size), axis) for i, k in enumerate(kernel))
    return frames


def _clean(frames: np.ndarray, seed: int) -> np.ndarray:
    return frames


def _coded(frames: np.ndarray, seed: int) -> np.ndarray:
    """Errors of up to 4 grey levels, as a good h264 setting leaves them."""
    return frames + np.random.default_rng(seed).integers(-4, 5, frames.shape, dtype=np.int8)


def _poor(frames: np.ndarray, seed: int) -> np.ndarray:
    """Blur of 1.5 pixels (standard deviation), then noise of 16 grey levels."""
    noise = np.random.default_rng(seed).standard_normal(frames.shape, dtype=np.float32)
    return _blur(frames, 1.5) + 16 * noise


def _faded(frames: np.ndarray, seed: int) -> np.ndarray:
    """A fifth of the contrast lost, and a tint."""
    return 24 + 0.8 * frames + np.array([8, 0, -8], np.float32)


def _bytes(frames: np.ndarray) -> np.ndarray:
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _check_recognition(damage, examples):
    def rule(example):
        seen = recognise(_bytes(damage(render(example.scene).astype(np.float32), example.seed)))
        assert all(seen.agrees_with(example.scene).values()), seen
        assert all(0 < seen.confidence[name] <= 1 for name in ATTRIBUTES)

    check_cases({f"{example.caption}, seed {example.seed}": example for example in examples}, rule)


@pytest.mark.parametrize(("damage", "count"), [(_clean, 18), (_coded, 9), (_poor, 9), (_faded, 9)])
def test_rendered_clips_are_all_recognised(damage, count):
    _check_recognition(damage, EXAMPLES[:count])


@pytest.mark.parametrize(("damage", "count"), [(_clean, 432), (_coded, 200), (_poor, 200), (_faded, 108)])
def test_more_clips_are_all_recognised(damage, count):
    _check_recognition(damage, EXAMPLES[9:count])


def test_size_and_speed_have_no_value_without_an_object_or_a_motion():
    assert recognise(np.full((17, 64, 64, 3), 255, np.uint8)).size is None
    still = recognise(np.repeat(render(EXAMPLES[0].scene, 1), 9, axis=0))
    assert still.size is not None
    assert still.speed is None


def test_edges_are_as_wide_as_they_are_blurred():
    """A rendered edge of a circle is a ramp of one pixel; a Gaussian blur has half of its way, a quarter to
    three quarters, within 1.35 standard deviations."""
    scene = sample_scene(3, shape="circle", colour="red", background="white", motion="right", size="large")
    frames = render(scene, 5)
    assert edge_width(frames) == pytest.approx(1, abs=0.1)
    blurred = edge_width(_bytes(_blur(frames.astype(np.float32), 2.0)))
    assert blurred == pytest.approx(2 * 1.35 * 2.0, rel=0.1)
    assert edge_width(np.full((2, 64, 64, 3), 128, np.uint8)) is None


def test_the_ground_is_as_wrong_as_it_is_made():
    """A tint of 10 levels is an error of 10, a pattern of +10 and -10 too; the object itself is none."""

    def rule(background):
        scene = sample_scene(3, shape="star", colour="red", background=background, motion="right")
        frames = render(scene, 1)
        assert ground_error(frames, background) == 0
        tint = -10 if background == "white" else 10
        tinted = np.clip(frames.astype(int) + tint, 0, 255).astype(np.uint8)
        assert ground_error(tinted, background) == pytest.approx(10)
        nothing = np.full((1, 64, 64, 3), 128, np.int64)
        nothing[:, ::2] += 10
        nothing[:, 1::2] -= 10
        assert ground_error(nothing.astype(np.uint8), "grey") == pytest.approx(10)

    check_cases(["white", "black", "grey"], rule)


def test_centres_are_those_of_the_scene():
    for example in EXAMPLES[:40]:
        scene, frames = example.scene, render(example.scene)
        passed = np.minimum(np.arange(len(frames)), scene.rest)[:, None]
        start, velocity = np.array([[scene.centre_x, scene.centre_y], [scene.velocity_x, scene.velocity_y]])
        np.testing.assert_allclose(centres(frames), start + passed * velocity, atol=0.3)
    assert centres(np.full((2, 64, 64, 3), 128, np.uint8)) is None


def test_confidence_is_high_on_clean_clips():
    for example in EXAMPLES[:36]:
        assert min(recognise(render(example.scene)).confidence.values()) > 0.95


def test_longer_clips_and_other_sizes():
    for seed in range(12):
        scene = sample_scene(seed)
        assert all(recognise(render(scene, 33)).agrees_with(scene).values())
        large = recognise(render(scene, 33, 128, 128)[::4]).agrees_with(scene)
        assert all(large[name] for name in ATTRIBUTES)


def test_a_single_frame_has_everything_but_motion():
    for example in EXAMPLES[:72]:
        seen = recognise(render(example.scene, 1))
        right = seen.agrees_with(example.scene)
        assert {name: right[name] for name in ATTRIBUTES} == {name: name != "motion" for name in ATTRIBUTES}
        assert seen.motion is None
        assert seen.confidence["motion"] == 0


def test_a_clip_that_stands_still_has_no_motion():
    frames = render(EXAMPLES[0].scene)
    seen = recognise(np.repeat(frames[:1], 17, axis=0))
    assert seen.motion is None
    assert seen.shape == EXAMPLES[0].scene.shape


def test_blank_clips_show_a_background_at_most():
    def rule(value, name):
        seen = recognise(np.full((17, 64, 64, 3), value, np.uint8))
        assert seen.background == name
        assert seen.shape is seen.colour is seen.motion is None

    check_cases([(255, "white"), (0, "black"), (128, "grey"), (64, None)], rule)


def test_noise_shows_nothing():
    def rule(blur, seed):
        noise = np.random.default_rng(seed).standard_normal((17, 64, 64, 3)).astype(np.float32)
        if blur:
            noise = _blur(noise, blur)
        assert recognise(_bytes(128 + 60 * noise / noise.std())) == NOTHING

    check_cases(product([0, 1, 3], range(3)), rule)


def test_what_is_no_shape_of_this_world_is_not_named():
    bar = np.full((17, 64, 64, 3), 255, np.uint8)
    bar[:, 28:34, 4:60] = (255, 0, 0)
    assert recognise(bar).shape is None
    halves = np.full((17, 64, 64, 3), 255, np.uint8)
    halves[:, :32] = (255, 0, 0)
    assert recognise(halves).shape is None


def test_a_grey_object_has_no_colour():
    grey = np.full((3, 64, 64, 3), 255, np.uint8)
    grey[:, 20:44, 20:44] = 100
    seen = recognise(grey)
    assert seen.colour is None
    assert (seen.shape, seen.background) == ("square", "white")


def test_an_object_seen_in_half_of_the_frames_is_not_counted():
    frames = render(EXAMPLES[0].scene)
    frames[8:] = 255
    assert recognise(frames).shape is None


def test_a_stray_spot_does_no_harm():
    for example in EXAMPLES[:36]:
        frames = render(example.scene)
        frames[:, 2:5, 2:5] = 255 - frames[:, 2:5, 2:5]
        assert all(recognise(frames).agrees_with(example.scene).values())


def test_with_a_second_object_of_any_colour_nothing_is_named():
    def rule(background, colours):
        first, second = colours
        frames = np.full((5, 64, 64, 3), BACKGROUND_RGB[background], np.uint8)
        frames[:, 8:28, 8:28] = COLOUR_RGB[first]
        assert recognise(frames).colour == first
        frames[:, 40:54, 40:54] = COLOUR_RGB[second]
        seen = recognise(frames)
        assert seen.shape is seen.colour is seen.motion is None

    check_cases(product(BACKGROUNDS, permutations(COLOURS, 2)), rule)


def test_colours_that_are_far_from_the_named_ones_have_no_name():
    def rule(*rgb):
        frames = np.full((3, 64, 64, 3), 255, np.uint8)
        frames[:, 20:44, 20:44] = rgb
        assert recognise(frames).colour is None

    check_cases([(255, 150, 150), (120, 60, 10), (0, 255, 255), (60, 60, 60)], rule)


def test_what_is_between_two_names_has_none():
    """Down as much as to the right; half orange and half yellow; between circle and square."""
    slanting = np.full((9, 64, 64, 3), 255, np.uint8)
    for step, frame in enumerate(slanting):
        frame[10 + 2 * step : 30 + 2 * step, 10 + 2 * step : 30 + 2 * step] = COLOUR_RGB["red"]
    assert recognise(slanting).motion is None

    tawny = np.full((3, 64, 64, 3), 255, np.uint8)
    tawny[:, 20:44, 20:44] = np.mean([COLOUR_RGB["orange"], COLOUR_RGB["yellow"]], axis=0)
    assert recognise(tawny).colour is None

    y, x = np.abs(np.mgrid[-31.5:32, -31.5:32])
    squircle = np.full((3, 64, 64, 3), 255, np.uint8)
    squircle[:, x**3.65 + y**3.65 < 14**3.65] = COLOUR_RGB["red"]
    assert recognise(squircle).shape is None


def test_a_ground_that_changes_for_a_frame_has_no_name():
    frames = render(EXAMPLES[0].scene)
    frames[5] = 255 - frames[5]
    assert recognise(frames).background is None


def test_errors_name_rule_and_value():
    with pytest.raises(ValueError, match=r"uint8 of shape \(T, H, W, 3\), got float32"):
        recognise(np.zeros((17, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match=r"got uint8 of \(64, 64, 3\)"):
        recognise(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 8x64"):
        recognise(np.zeros((1, 8, 64, 3), np.uint8))
