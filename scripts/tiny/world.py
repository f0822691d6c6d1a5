"""The procedural world of the embedded model: short captioned clips of one moving shape.

Everything here is a pure function of its arguments and an integer seed; no global random state is used.
Lengths are in pixels of a 64x64 canvas, x to the right and y downwards; `render` scales them to other sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating[Any]]

SHAPES: Final = ("circle", "square", "triangle")
COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "orange")
MOTIONS: Final = ("right", "left", "up", "down", "grow", "shrink")
BACKGROUNDS: Final = ("white", "black", "grey")

COLOUR_RGB: Final[dict[str, tuple[int, int, int]]] = {
    "red": (225, 20, 20),
    "green": (20, 165, 45),
    "blue": (25, 60, 230),
    "yellow": (255, 225, 0),
    "purple": (145, 0, 175),
    "orange": (255, 135, 0),
}
BACKGROUND_RGB: Final[dict[str, tuple[int, int, int]]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
}

CANVAS: Final = 64
NUM_FRAMES: Final = 17

# Training and evaluation never share a seed.
TRAIN_SEEDS: Final = range(0, 1_000_000_000)
HELD_OUT_SEEDS: Final = range(1_000_000_000, 1_001_000_000)

PLAIN_PROBABILITY: Final = 0.4

# Reach of a shape from its centroid (left and right, up, down) per unit of radius. A square has the area of
# the circle of its radius. A triangle is equilateral and points up; it has 3/4 of that area, so that its
# corners leave it room to move.
_SQUARE_HALF: Final = float(np.sqrt(np.pi) / 2)
_TRIANGLE_CORNER: Final = 1.35
_REACH: Final[dict[str, tuple[float, float, float]]] = {
    "circle": (1.0, 1.0, 1.0),
    "square": (_SQUARE_HALF, _SQUARE_HALF, _SQUARE_HALF),
    "triangle": (_TRIANGLE_CORNER * float(np.sqrt(3)) / 2, _TRIANGLE_CORNER, _TRIANGLE_CORNER / 2),
}
_DIRECTION: Final[dict[str, tuple[int, int]]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "grow": (0, 0),
    "shrink": (0, 0),
}
_MARGIN: Final = 1.0
_MOVING_RADIUS: Final = (12.0, 16.0)
_TRAVEL: Final = (16.0, 26.0)
_SMALL_RADIUS: Final = (7.5, 9.0)
_LARGE_RADIUS: Final = (16.0, 18.0)

_STREAM_GEOMETRY: Final = 0
_STREAM_ATTRIBUTES: Final = 1
_STREAM_CAPTION: Final = 2


@dataclass(frozen=True)
class SceneSpec:
    """One object on one ground.

    In frame `t` its centroid is at `(centre_x + t * velocity_x, centre_y + t * velocity_y)` and its radius is
    `radius + t * radius_step`, all in pixels (per frame) of the 64x64 canvas.
    """

    shape: str
    colour: str
    motion: str
    background: str
    radius: float
    centre_x: float
    centre_y: float
    velocity_x: float
    velocity_y: float
    radius_step: float


@dataclass(frozen=True)
class Example:
    """A scene with the seed it came from and one caption of it."""

    seed: int
    scene: SceneSpec
    caption: str


class _Dice:
    """Draws that use nothing but `Generator.random`, whose stream numpy keeps stable for PCG64."""

    def __init__(self, seed: int, stream: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}; use 0 or more")
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def choice(self, options: Sequence[str]) -> str:
        return options[int(self._generator.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return float(self._generator.random()) < probability


def sample_scene(
    seed: int,
    num_frames: int = NUM_FRAMES,
    *,
    shape: str | None = None,
    colour: str | None = None,
    motion: str | None = None,
    background: str | None = None,
) -> SceneSpec:
    """Draw a scene; attributes that are given are kept, and do not change the draws of the others.

    The whole change (a way of 16 to 26 px, or a radius between about 8 and 17 px) is spread evenly over
    `num_frames`, so the object stays inside the frame in a clip of any length, and the first frame of a
    seed is the same for every length. Raises ValueError for a negative seed, `num_frames` < 1 or an unknown
    attribute.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}; use {NUM_FRAMES}")
    dice = _Dice(seed, _STREAM_ATTRIBUTES)
    shape = _pick(dice, "shape", SHAPES, shape)
    colour = _pick(dice, "colour", COLOURS, colour)
    motion = _pick(dice, "motion", MOTIONS, motion)
    background = _pick(dice, "background", BACKGROUNDS, background)

    dice = _Dice(seed, _STREAM_GEOMETRY)
    small, large = dice.uniform(*_SMALL_RADIUS), dice.uniform(*_LARGE_RADIUS)
    start, end = {"grow": (small, large), "shrink": (large, small)}.get(
        motion, (dice.uniform(*_MOVING_RADIUS),) * 2
    )
    side, above, below = (reach * max(start, end) for reach in _REACH[shape])
    direction_x, direction_y = _DIRECTION[motion]
    travel = dice.uniform(*_TRAVEL)
    way_x = direction_x * min(travel, CANVAS - 2 * _MARGIN - 2 * side)
    way_y = direction_y * min(travel, CANVAS - 2 * _MARGIN - above - below)
    steps = max(num_frames - 1, 1)
    return SceneSpec(
        shape=shape,
        colour=colour,
        motion=motion,
        background=background,
        radius=start,
        centre_x=_start(dice, side, side, way_x),
        centre_y=_start(dice, above, below, way_y),
        velocity_x=way_x / steps,
        velocity_y=way_y / steps,
        radius_step=(end - start) / steps,
    )


def _pick(dice: _Dice, name: str, options: Sequence[str], given: str | None) -> str:
    drawn = dice.choice(options)
    if given is not None and given not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {given!r}")
    return drawn if given is None else given


def _start(dice: _Dice, before: float, after: float, way: float) -> float:
    """Draw a start from which an object that reaches `before` and `after` it stays inside all the way."""
    return dice.uniform(_MARGIN + before - min(way, 0.0), CANVAS - _MARGIN - after - max(way, 0.0))


def coverage(shape: str, x: Reals, y: Reals, radius: Reals, scale: float = 1.0) -> Reals:
    """Part of each pixel that the shape covers, from its signed distance with a soft edge of one pixel.

    `x` and `y` are offsets from the centroid, `radius` broadcasts against them, `scale` is pixels per unit of
    length. Values in [0, 1], shape of the broadcast arguments.
    """
    if shape == "circle":
        distance = np.sqrt(x * x + y * y) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - np.float32(_SQUARE_HALF) * radius
    elif shape == "triangle":
        flank = np.float32(np.sqrt(3) / 2) * np.abs(x) - np.float32(0.5) * y
        distance = np.maximum(flank, y) - np.float32(_TRIANGLE_CORNER / 2) * radius
    else:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    covered: Reals = np.clip(np.float32(0.5) - distance * np.float32(scale), 0.0, 1.0)
    return covered


def render(
    scene: SceneSpec, num_frames: int = NUM_FRAMES, height: int = CANVAS, width: int = CANVAS
) -> NDArray[np.uint8]:
    """Draw a scene as frames (T, H, W, 3), uint8 RGB, the 64x64 canvas stretched to `height` and `width`.

    The scene should have been sampled for at least `num_frames`, or its object may leave the frame.
    """
    if min(num_frames, height, width) < 1:
        size = f"{num_frames}, {height}, {width}"
        raise ValueError(f"num_frames, height and width must be at least 1, got {size}; use 17, 64, 64")
    t = np.arange(num_frames, dtype=np.float32)[:, None, None]
    rows = ((np.arange(height, dtype=np.float32) + 0.5) * (CANVAS / height))[None, :, None]
    columns = ((np.arange(width, dtype=np.float32) + 0.5) * (CANVAS / width))[None, None, :]
    covered = coverage(
        scene.shape,
        columns - np.float32(scene.centre_x) - np.float32(scene.velocity_x) * t,
        rows - np.float32(scene.centre_y) - np.float32(scene.velocity_y) * t,
        np.float32(scene.radius) + np.float32(scene.radius_step) * t,
        scale=min(height, width) / CANVAS,
    )
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    grounds, inks = BACKGROUND_RGB[scene.background], COLOUR_RGB[scene.colour]
    for channel, (ground, ink) in enumerate(zip(grounds, inks, strict=True)):
        frames[..., channel] = covered * np.float32(ink - ground) + np.float32(ground + 0.5)
    return frames


_SHAPE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
}
_COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {"purple": ("purple", "violet")}
_BACKGROUND_WORDS: Final[dict[str, tuple[str, ...]]] = {"grey": ("grey", "gray")}
_GROUND_PHRASES: Final = (
    "on a {} background",
    "against a {} background",
    "over a {} background",
    "over {}",
    "on {}",
)

# Third person and -ing form, the plain one first.
_MOVE: Final = (
    ("moves", "moving"),
    ("slides", "sliding"),
    ("drifts", "drifting"),
    ("glides", "gliding"),
    ("goes", "going"),
)
_DIRECTION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "right": ("to the right", "right", "rightwards"),
    "left": ("to the left", "left", "leftwards"),
    "up": ("up", "upward", "upwards"),
    "down": ("down", "downward", "downwards"),
}
_OTHER_VERBS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "up": (("rises", "rising"),),
    "down": (("falls", "falling"),),
    "grow": (
        ("grows", "growing"),
        ("expands", "expanding"),
        ("gets bigger", "getting bigger"),
        ("becomes larger", "becoming larger"),
    ),
    "shrink": (
        ("shrinks", "shrinking"),
        ("contracts", "contracting"),
        ("gets smaller", "getting smaller"),
        ("becomes smaller", "becoming smaller"),
    ),
}


def _verbs(motion: str) -> tuple[tuple[str, str], ...]:
    ways = _DIRECTION_WORDS.get(motion, ())
    moves = ((f"{does} {way}", f"{doing} {way}") for way in ways for does, doing in _MOVE)
    return (*moves, *_OTHER_VERBS.get(motion, ()))


_VERBS: Final[dict[str, tuple[tuple[str, str], ...]]] = {motion: _verbs(motion) for motion in MOTIONS}

# One sentence each; {a} is the article, {thing} colour and shape, {does} and {doing} the motion, {ground} a
# phrase with the background and {bg} its word.
_TEMPLATES: Final = (
    "{a} {thing} {does} {ground}",
    "{a} {thing} {doing} {ground}",
    "{a} {thing} is {doing} {ground}",
    "the {thing} {does} {ground}",
    "{ground}, {a} {thing} {does}",
    "{ground}, {a} {thing} is {doing}",
    "there is {a} {thing} {doing} {ground}",
    "{bg} background, {thing} {doing}",
    "{thing} {doing}, {bg} background",
)
_SHORT_TEMPLATES: Final = (
    "{a} {thing} {does}",
    "{a} {thing} {doing}",
    "{a} {thing} is {doing}",
    "{thing} {doing}",
)
_SHORT_PROBABILITY: Final = 0.4
_SENTENCE_PROBABILITY: Final = 0.2


def plain_caption(scene: SceneSpec) -> str:
    """The one plain form, such as `a red circle moves to the right on a white background`."""
    thing = f"{scene.colour} {scene.shape}"
    return f"{_article(thing)} {thing} {_VERBS[scene.motion][0][0]} on a {scene.background} background"


def caption(scene: SceneSpec, seed: int) -> str:
    """Describe a scene: the plain form in 40 % of the seeds, else a varied one with synonyms.

    A caption that names no background always belongs to a white one, so white is what such a prompt means.
    """
    dice = _Dice(seed, _STREAM_CAPTION)
    if dice.chance(PLAIN_PROBABILITY):
        return plain_caption(scene)
    short = dice.chance(_SHORT_PROBABILITY) and scene.background == "white"
    template = dice.choice(_SHORT_TEMPLATES if short else _TEMPLATES)
    colour = dice.choice(_COLOUR_WORDS.get(scene.colour, (scene.colour,)))
    thing = f"{colour} {dice.choice(_SHAPE_WORDS[scene.shape])}"
    background = dice.choice(_BACKGROUND_WORDS.get(scene.background, (scene.background,)))
    does, doing = _VERBS[scene.motion][int(dice.uniform(0, len(_VERBS[scene.motion])))]
    ground = dice.choice(_GROUND_PHRASES).format(background)
    a = _article(thing)
    text = template.format(a=a, thing=thing, does=does, doing=doing, ground=ground, bg=background)
    return f"{text[0].upper()}{text[1:]}." if dice.chance(_SENTENCE_PROBABILITY) else text


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def training_example(index: int, num_frames: int = NUM_FRAMES) -> Example:
    """The example of training seed number `index`; attributes are drawn independently and evenly."""
    seed = TRAIN_SEEDS[index]
    scene = sample_scene(seed, num_frames)
    return Example(seed, scene, caption(scene, seed))


def held_out_examples(count: int, num_frames: int = NUM_FRAMES) -> tuple[Example, ...]:
    """The first `count` examples of the held-out seeds, their attributes dealt out evenly.

    Every run of 36 is an orthogonal array: each pair of values of two attributes occurs equally often in it.
    All 324 combinations occur in the first 324.
    """
    examples = []
    for index in range(count):
        seed = HELD_OUT_SEEDS[index]
        a, b, c, d = index % 6, index // 6 % 6, index // 36 % 3, index // 108 % 3
        scene = sample_scene(
            seed,
            num_frames,
            shape=SHAPES[(a // 2 + b + c) % 3],
            colour=COLOURS[a],
            motion=MOTIONS[(a + b) % 6],
            background=BACKGROUNDS[(a % 2 + 2 * b + d) % 3],
        )
        examples.append(Example(seed, scene, caption(scene, seed)))
    return tuple(examples)


def held_out_scenes(count: int, num_frames: int = NUM_FRAMES) -> tuple[SceneSpec, ...]:
    """The scenes of `held_out_examples`."""
    return tuple(example.scene for example in held_out_examples(count, num_frames))
