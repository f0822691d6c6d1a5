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

SHAPES: Final = ("circle", "square", "triangle", "star")
COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "orange")
MOTIONS: Final = ("right", "left", "up", "down", "grow", "shrink")
BACKGROUNDS: Final = ("white", "black", "grey")
SIZES: Final = ("small", "medium", "large")
SPEEDS: Final = ("slow", "normal", "quick")

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
TRAIN_FRAMES: Final = 33

# Training and evaluation never share a seed.
TRAIN_SEEDS: Final = range(0, 1_000_000_000)
HELD_OUT_SEEDS: Final = range(1_000_000_000, 1_001_000_000)

# Reach of a shape from its centroid (left and right, up, down) per unit of radius. A square has the area of
# the circle of its radius. A triangle is equilateral and points up; it has 3/4 of that area, and a star,
# which has five points and one of them up, 0.77, so that their corners leave them room to move.
_SQUARE_HALF: Final = float(np.sqrt(np.pi) / 2)
_TRIANGLE_CORNER: Final = 1.35
_STAR_POINT: Final = 1.35
_STAR_NOTCH: Final = 0.45 * _STAR_POINT
# Sine and cosine of a tenth of a turn, 36 degrees, and of a fifth, as roots: those are the same everywhere.
_TENTH_SINE: Final = float(np.sqrt(10 - 2 * np.sqrt(5)) / 4)
_TENTH_COSINE: Final = float((1 + np.sqrt(5)) / 4)
_FIFTH_SINE: Final = float(np.sqrt(10 + 2 * np.sqrt(5)) / 4)
_FIFTH_COSINE: Final = float((np.sqrt(5) - 1) / 4)
_REACH: Final[dict[str, tuple[float, float, float]]] = {
    "circle": (1.0, 1.0, 1.0),
    "square": (_SQUARE_HALF, _SQUARE_HALF, _SQUARE_HALF),
    "triangle": (_TRIANGLE_CORNER * float(np.sqrt(3)) / 2, _TRIANGLE_CORNER, _TRIANGLE_CORNER / 2),
    "star": (_STAR_POINT * _FIFTH_SINE, _STAR_POINT, _STAR_POINT * _TENTH_COSINE),
}
_DIRECTION: Final[dict[str, tuple[int, int]]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "grow": (0, 0),
    "shrink": (0, 0),
}
_MARGIN: Final = 2.0
_RADIUS: Final = {"small": (8.0, 9.5), "medium": (11.5, 14.0), "large": (15.5, 17.5)}
_SPEED: Final = {"slow": (0.5, 0.65), "normal": (0.85, 1.1), "quick": (1.4, 1.8)}
_GROWTH: Final = {"slow": (0.18, 0.22), "normal": (0.3, 0.36), "quick": (0.5, 0.6)}
_GROWN_FROM: Final = (7.5, 9.0)
_GROWN_TO: Final = (16.0, 18.0)
_USUAL: Final = 0.6
"""Share of the usual size and of the usual speed, of which a caption says nothing."""

# An object starts where it can move for 20 frames, but always in a tenth of the room at least.
_FREE_FRAMES: Final = 20
_MOST_OF_THE_ROOM: Final = 0.9

_STREAM_GEOMETRY: Final = 0
_STREAM_ATTRIBUTES: Final = 1
_STREAM_CAPTION: Final = 2
_STREAM_LOOSE: Final = 3

_DEAL: Final = len(SHAPES) * len(COLOURS) * len(MOTIONS) * len(BACKGROUNDS)
_DEAL_STRIDE: Final = 161  # without a common divisor with _DEAL


@dataclass(frozen=True)
class SceneSpec:
    """One object on one ground.

    With `u = min(t, rest)`, in frame `t` its centroid is at `(centre_x + u * velocity_x, centre_y + u *
    velocity_y)` and its radius is `radius + u * radius_step`, all in pixels (per frame) of the 64x64 canvas:
    it changes at a constant speed and rests when it has come to the edge, or to its last size. So a clip of
    a scene is the beginning of every longer clip of it.

    `size` is that of an object that moves; one that grows or shrinks is "medium".
    """

    shape: str
    colour: str
    motion: str
    background: str
    size: str
    speed: str
    radius: float
    centre_x: float
    centre_y: float
    velocity_x: float
    velocity_y: float
    radius_step: float
    rest: float


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

    def middle(self, options: Sequence[str]) -> str:
        """The second of three options with the probability _USUAL, else one of the others."""
        first, usual, last = options
        return usual if self.chance(_USUAL) else self.choice((first, last))

    def chance(self, probability: float) -> bool:
        return float(self._generator.random()) < probability


def sample_scene(
    seed: int,
    *,
    shape: str | None = None,
    colour: str | None = None,
    motion: str | None = None,
    background: str | None = None,
    size: str | None = None,
    speed: str | None = None,
) -> SceneSpec:
    """Draw a scene; attributes that are given are kept, and do not change the draws of the others.

    Three in five are of medium size and three in five of normal speed. Whatever grows or shrinks is "medium".
    Raises ValueError for a negative seed or an unknown attribute.
    """
    dice = _Dice(seed, _STREAM_ATTRIBUTES)
    shape = _pick(dice.choice(SHAPES), "shape", SHAPES, shape)
    colour = _pick(dice.choice(COLOURS), "colour", COLOURS, colour)
    motion = _pick(dice.choice(MOTIONS), "motion", MOTIONS, motion)
    background = _pick(dice.choice(BACKGROUNDS), "background", BACKGROUNDS, background)
    size = _pick(dice.middle(SIZES), "size", SIZES, size)
    speed = _pick(dice.middle(SPEEDS), "speed", SPEEDS, speed)

    dice = _Dice(seed, _STREAM_GEOMETRY)
    amount = dice.uniform(0, 1)
    small, large = dice.uniform(*_GROWN_FROM), dice.uniform(*_GROWN_TO)
    moving = dice.uniform(*_RADIUS[size])
    direction_x, direction_y = _DIRECTION[motion]
    moves = motion not in ("grow", "shrink")
    start, end = {"grow": (small, large), "shrink": (large, small)}.get(motion, (moving, moving))
    low, high = (_SPEED if moves else _GROWTH)[speed]
    pace = low + (high - low) * amount
    side, above, below = (reach * max(start, end) for reach in _REACH[shape])
    x, y = dice.uniform(0, 1), dice.uniform(0, 1)
    centre_x, way_x = _place(x, side, side, direction_x, pace)
    centre_y, way_y = _place(y, above, below, direction_y, pace)
    return SceneSpec(
        shape=shape,
        colour=colour,
        motion=motion,
        background=background,
        size=size if moves else "medium",
        speed=speed,
        radius=start,
        centre_x=centre_x,
        centre_y=centre_y,
        velocity_x=direction_x * pace,
        velocity_y=direction_y * pace,
        radius_step=0.0 if moves else (pace if end > start else -pace),
        rest=(way_x + way_y if moves else abs(end - start)) / pace,
    )


def _pick(drawn: str, name: str, options: Sequence[str], given: str | None) -> str:
    if given is not None and given not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {given!r}")
    return drawn if given is None else given


def _place(part: float, before: float, after: float, direction: int, pace: float) -> tuple[float, float]:
    """Where an object that reaches `before` and `after` it starts along one axis, and its way to the edge.

    `part`, in [0, 1], is the place within those that leave it enough room in its direction, -1, 0 or 1.
    """
    low, high = _MARGIN + before, CANVAS - _MARGIN - after
    kept = min(_FREE_FRAMES * pace, _MOST_OF_THE_ROOM * (high - low)) * direction
    start = low - min(kept, 0.0) + part * (high - low - abs(kept))
    way = {-1: start - low, 0: 0.0, 1: high - start}[direction]
    return start, way


def _in_the_first_tenth(right: Reals, up: Reals) -> tuple[Reals, Reals]:
    """Places that look the same in a star, all within 36 degrees to the right of the upright.

    By mirrors and not by angles: kernels differ in the last bits of an arctan2, never in those of + and *.
    """
    right = np.abs(right)
    # Along each mirror: 108 degrees from the upright, then 36. What lies beyond it comes to this side.
    for sine, cosine in ((_FIFTH_SINE, -_FIFTH_COSINE), (_TENTH_SINE, _TENTH_COSINE)):
        across = (np.float32(cosine), -np.float32(sine))
        beyond = np.maximum(right * across[0] + up * across[1], 0)
        right, up = right - 2 * beyond * across[0], up - 2 * beyond * across[1]
    return np.abs(right), up


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
    elif shape == "star":
        # Ten times the same edge, from the point above to the notch to the right of it.
        right, up = _in_the_first_tenth(x, -y)
        edge_x, edge_y = _STAR_POINT - _STAR_NOTCH * _TENTH_COSINE, _STAR_NOTCH * _TENTH_SINE
        length = np.sqrt(edge_x * edge_x + edge_y * edge_y)
        from_point = up - np.float32(_STAR_POINT) * radius
        distance = np.float32(edge_x / length) * right + np.float32(edge_y / length) * from_point
    else:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    covered: Reals = np.clip(np.float32(0.5) - distance * np.float32(scale), 0.0, 1.0)
    return covered


def render(
    scene: SceneSpec, num_frames: int = NUM_FRAMES, height: int = CANVAS, width: int = CANVAS
) -> NDArray[np.uint8]:
    """Draw a scene as frames (T, H, W, 3), uint8 RGB, the 64x64 canvas stretched to `height` and `width`."""
    if min(num_frames, height, width) < 1:
        size = f"{num_frames}, {height}, {width}"
        raise ValueError(f"num_frames, height and width must be at least 1, got {size}; use 17, 64, 64")
    t = np.minimum(np.arange(num_frames), scene.rest).astype(np.float32)[:, None, None]
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
    "star": ("star",),
}
_COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {"purple": ("purple", "violet")}
_BACKGROUND_WORDS: Final[dict[str, tuple[str, ...]]] = {"grey": ("grey", "gray")}
_SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("",),
    "large": ("large", "big", "huge"),
}
_SPEED_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "slow": ("slowly", "gently"),
    "normal": ("",),
    "quick": ("quickly", "fast", "rapidly"),
}
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
# Verbs that say the motion by themselves or with one more word.
_OTHER_VERBS: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    "up": (("rises", "rising", ""),),
    "down": (("falls", "falling", ""),),
    "grow": (
        ("grows", "growing", ""),
        ("expands", "expanding", ""),
        ("gets", "getting", "bigger"),
        ("becomes", "becoming", "larger"),
    ),
    "shrink": (
        ("shrinks", "shrinking", ""),
        ("contracts", "contracting", ""),
        ("gets", "getting", "smaller"),
        ("becomes", "becoming", "smaller"),
    ),
}


def _verbs(motion: str) -> tuple[tuple[str, str, str], ...]:
    ways = _DIRECTION_WORDS.get(motion, ())
    moves = ((does, doing, way) for way in ways for does, doing in _MOVE)
    return (*moves, *_OTHER_VERBS.get(motion, ()))


_VERBS: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {motion: _verbs(motion) for motion in MOTIONS}

# One sentence each; {a} is the article, {thing} size, colour and shape, {does} and {doing} the motion,
# {ground} a phrase with the background and {bg} its word.
_TEMPLATES: Final = (
    "{a} {thing} {does} {ground}",
    "{a} {thing} {doing} {ground}",
    "{a} {thing} is {doing} {ground}",
    "the {thing} {does} {ground}",
    "{ground}, {a} {thing} {does}",
    "{ground}, {a} {thing} is {doing}",
    "{ground} there is {a} {thing} that {does}",
    "there is {a} {thing} {doing} {ground}",
    "{bg} background, {thing} {doing}",
    "{thing} {doing}, {bg} background",
    "{doing} {ground}: {a} {thing}",
)
_SHORT_TEMPLATES: Final = (
    "{a} {thing} {does}",
    "{a} {thing} {doing}",
    "{a} {thing} is {doing}",
    "{thing} {doing}",
)
_PLAIN_PROBABILITY: Final = 0.35
_SHORT_PROBABILITY: Final = 0.4
_SENTENCE_PROBABILITY: Final = 0.2

# Words that say nothing about a scene, for captions that leave something open.
_LOOSE_PROBABILITY: Final = 0.12
_OPEN_PROBABILITY: Final = 0.5
_NOTHING_KNOWN_PROBABILITY: Final = 0.15
_ANY_SHAPE: Final = ("shape", "thing", "object", "figure")
_ANY_MOTION: Final = (("moves", "moving", ""), ("changes", "changing", ""))
_FOREIGN_NOUNS: Final = (
    *(
        "cat",
        "dog",
        "car",
        "tree",
        "house",
        "boat",
        "bird",
        "fish",
        "flower",
        "robot",
        "sun",
        "moon",
        "cloud",
    ),
    *(
        "horse",
        "man",
        "woman",
        "child",
        "bear",
        "fox",
        "ship",
        "train",
        "lamp",
        "apple",
        "cup",
        "book",
        "king",
    ),
    *("city", "river"),
)
_FOREIGN_ADJECTIVES: Final = (
    *("happy", "old", "shiny", "wooden", "golden", "furry", "sad", "strange", "pretty", "dark", "pink"),
)
_FOREIGN_VERBS: Final = (
    ("runs", "running", ""),
    ("jumps", "jumping", ""),
    ("dances", "dancing", ""),
    ("sings", "singing", ""),
    ("walks", "walking", ""),
    ("spins", "spinning", ""),
    ("sleeps", "sleeping", ""),
)
_FOREIGN_PLACES: Final = ("in the sea", "at night", "in a forest", "at sunset", "in space", "on the road")
_LETTERS: Final = ("bcdfghklmnprstvw", "aeiou")


def plain_caption(scene: SceneSpec) -> str:
    """The one plain form, such as `a red circle moves to the right on a white background`.

    Sizes and speeds that are not the usual ones are said: `a large red circle moves slowly to the right ...`.
    """
    thing = _joined(_SIZE_WORDS[scene.size][0], scene.colour, scene.shape)
    does, _, way = _VERBS[scene.motion][0]
    does = _joined(does, _SPEED_WORDS[scene.speed][0], way)
    return f"{_article(thing)} {thing} {does} on a {scene.background} background"


def caption(scene: SceneSpec, seed: int) -> str:
    """Describe a scene: the plain form in 35 % of the seeds, else a varied one with synonyms.

    A caption that names no background always belongs to a white one, so white is what such a prompt means;
    one without a size to an object of medium size, one without a speed to one of normal speed.
    """
    dice = _Dice(seed, _STREAM_CAPTION)
    if dice.chance(_PLAIN_PROBABILITY):
        return plain_caption(scene)
    return _varied(dice, scene, open_attributes=())


def training_caption(scene: SceneSpec, seed: int) -> str:
    """`caption`, but in 12 % of the seeds one that leaves attributes open or speaks of other things.

    Such captions belong to every scene alike, so the model learns to show any shape (colour, motion) of the
    world for words that it does not know.
    """
    dice = _Dice(seed, _STREAM_LOOSE)
    if not dice.chance(_LOOSE_PROBABILITY):
        return caption(scene, seed)
    if dice.chance(_NOTHING_KNOWN_PROBABILITY) and scene.background == "white":
        noun = _foreign_noun(dice)
        does, doing, _ = _one_of(dice, _FOREIGN_VERBS)
        place = dice.choice(_FOREIGN_PLACES)
        form = dice.choice(("{a} {noun} {does} {place}", "{noun} {doing}", "{a} {noun} {place}", "{noun}"))
        return form.format(a=_article(noun), noun=noun, does=does, doing=doing, place=place)
    open_attributes = [name for name in ("shape", "colour", "motion") if dice.chance(_OPEN_PROBABILITY)]
    return _varied(dice, scene, open_attributes)


def _varied(dice: _Dice, scene: SceneSpec, open_attributes: Sequence[str]) -> str:
    """One of the templates with a synonym for each attribute; open ones get foreign words or none."""
    short = dice.chance(_SHORT_PROBABILITY) and scene.background == "white"
    template = dice.choice(_SHORT_TEMPLATES if short else _TEMPLATES)
    colour = dice.choice(_COLOUR_WORDS.get(scene.colour, (scene.colour,)))
    shape = dice.choice(_SHAPE_WORDS[scene.shape])
    size, speed = dice.choice(_SIZE_WORDS[scene.size]), dice.choice(_SPEED_WORDS[scene.speed])
    background = dice.choice(_BACKGROUND_WORDS.get(scene.background, (scene.background,)))
    does, doing, way = _one_of(dice, _VERBS[scene.motion])
    ground = dice.choice(_GROUND_PHRASES).format(background)
    if "colour" in open_attributes:
        colour = dice.choice(("", "", dice.choice(_FOREIGN_ADJECTIVES)))
    if "shape" in open_attributes:
        shape = dice.choice((dice.choice(_ANY_SHAPE), _foreign_noun(dice)))
    if "motion" in open_attributes:
        does, doing, way = _one_of(dice, (*_ANY_MOTION, *_FOREIGN_VERBS))
    thing = _joined(size, colour, shape)
    text = template.format(
        a=_article(thing),
        thing=thing,
        does=_with_adverb(dice, does, speed, way),
        doing=_with_adverb(dice, doing, speed, way),
        ground=ground,
        bg=background,
    )
    return f"{text[0].upper()}{text[1:]}." if dice.chance(_SENTENCE_PROBABILITY) else text


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _one_of(dice: _Dice, options: Sequence[tuple[str, str, str]]) -> tuple[str, str, str]:
    return options[int(dice.uniform(0, len(options)))]


def _with_adverb(dice: _Dice, verb: str, adverb: str, way: str) -> str:
    """Verb and way with an adverb before, between or after them."""
    orders = [_joined(verb, adverb, way), _joined(verb, way, adverb)]
    if adverb != "fast":
        orders.append(_joined(adverb, verb, way))
    return dice.choice(orders)


def _foreign_noun(dice: _Dice) -> str:
    """A noun that is not of this world, or a made-up one of two syllables."""
    noun = dice.choice(_FOREIGN_NOUNS)
    made_up = "".join(dice.choice(letters) for letters in 2 * _LETTERS)
    return noun if dice.chance(0.6) else made_up


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def held_out_examples(count: int) -> tuple[Example, ...]:
    """The first `count` examples of the held-out seeds; captions leave nothing open.

    Shapes, colours, motions and backgrounds are dealt out evenly: all 432 combinations occur in the first
    432, and each value about equally often in any run.
    """
    examples = []
    for index in range(count):
        seed = HELD_OUT_SEEDS[index]
        deal = index * _DEAL_STRIDE % _DEAL
        scene = sample_scene(
            seed,
            shape=SHAPES[deal % 4],
            colour=COLOURS[deal // 4 % 6],
            motion=MOTIONS[deal // 24 % 6],
            background=BACKGROUNDS[deal // 144],
        )
        examples.append(Example(seed, scene, caption(scene, seed)))
    return tuple(examples)
