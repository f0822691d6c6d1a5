"""Score clips against the scenes that their captions describe: shares, confusion tables, contact sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import world
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from recognise import ATTRIBUTES, FINER_ATTRIBUTES, Recognition, centres, recognise
from world import Example, SceneSpec

from pyramid_seed.media.contact_sheet import evenly_spaced, image_grid

Frames = NDArray[np.uint8]

NAMES: dict[str, tuple[str, ...]] = {
    "background": world.BACKGROUNDS,
    "colour": world.COLOURS,
    "motion": world.MOTIONS,
    "shape": world.SHAPES,
    "size": world.SIZES,
    "speed": world.SPEEDS,
}
UNKNOWN = "none"

PLACE_FRAMES = 5
"""The given frame and the first ones that were made after it."""

PLACE_TOLERANCE = 3.0
"""Pixels; objects have a radius of 8 to 17."""

_STRIP_FRAMES = 5
_STRIP_COLUMNS = 3
_FONT_SIZE = 11
_INK, _RED, _PAPER = (20, 20, 20), (215, 0, 0), (240, 240, 240)


def shares(examples: Sequence[Example], seen: Sequence[Recognition]) -> dict[str, float]:
    """Share of clips in [0, 1] that show each of ATTRIBUTES as captioned, under "all" all of these, and then
    each of FINER_ATTRIBUTES; not a number where no clip has the attribute."""
    right = [
        (example.scene, each.agrees_with(example.scene)) for example, each in zip(examples, seen, strict=True)
    ]
    found = {}
    for name in NAMES:
        answers = [answer[name] for scene, answer in right if has(scene, name)]
        found[name] = float(np.mean(answers)) if answers else float("nan")
    every = [all(answer[name] for name in ATTRIBUTES) for _, answer in right]
    return (
        {name: found[name] for name in ATTRIBUTES}
        | {"all": float(np.mean(every))}
        | {name: found[name] for name in FINER_ATTRIBUTES}
    )


def has(scene: SceneSpec, attribute: str) -> bool:
    """Whether a scene has the attribute: what grows or shrinks is of no one size."""
    return attribute != "size" or scene.motion not in ("grow", "shrink")


def kept_to_the_end(example: Example, clip: Frames) -> bool:
    """Whether the last frame alone still shows the captioned colour and shape."""
    last = recognise(clip[-1:])
    return (last.colour, last.shape) == (example.scene.colour, example.scene.shape)


def kept_in_place(example: Example, clip: Frames) -> bool:
    """Whether the object stays where the scene's is: over the first frames of a clip that was continued from
    a picture, its centre is never further than PLACE_TOLERANCE from that of the rendered one."""
    frames = min(PLACE_FRAMES, len(clip))
    ours, theirs = centres(clip[:frames]), centres(world.render(example.scene, frames))
    if ours is None or theirs is None:
        return False
    return bool(np.linalg.norm(ours - theirs, axis=-1).max() <= PLACE_TOLERANCE)


def confusion(examples: Sequence[Example], seen: Sequence[Recognition], attribute: str) -> NDArray[np.int64]:
    """Counts over the scenes that have the attribute: a row for every captioned value in NAMES[attribute], a
    column for each seen, then UNKNOWN."""
    pairs = Counter(
        (getattr(example.scene, attribute), getattr(each, attribute) or UNKNOWN)
        for example, each in zip(examples, seen, strict=True)
        if has(example.scene, attribute)
    )
    names = NAMES[attribute]
    return np.array([[pairs[captioned, shown] for shown in (*names, UNKNOWN)] for captioned in names])


def confusion_text(counts: NDArray[np.int64], attribute: str) -> str:
    """A confusion table as text; a dot is a zero."""
    names = NAMES[attribute]
    header = f"{attribute:>12}" + "".join(f"{name:>9}" for name in (*names, UNKNOWN))
    rows = (
        f"{name:>12}" + "".join(f"{count or '.':>9}" for count in row)
        for name, row in zip(names, counts.tolist(), strict=True)
    )
    return "\n".join([header, *rows])


def labelled_sheet(
    examples: Sequence[Example], seen: Sequence[Recognition], clips: Sequence[Frames]
) -> Frames:
    """One strip of frames a clip, under its caption and what was recognised, wrong values in red."""
    strips = [
        np.concatenate([_label(example, each, strip.shape[1]), strip])
        for example, each, strip in (
            (example, each, image_grid(clip[evenly_spaced(len(clip), _STRIP_FRAMES)], _STRIP_FRAMES))
            for example, each, clip in zip(examples, seen, clips, strict=True)
        )
    ]
    return image_grid(strips, _STRIP_COLUMNS, gap=6, grey=_PAPER[0])


def _label(example: Example, seen: Recognition, width: int) -> Frames:
    line = _FONT_SIZE + 3
    image = Image.new("RGB", (width, 2 * line + 2), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_FONT_SIZE)
    draw.text((1, 0), example.caption, _INK, font)
    left = 1.0
    for word, is_right in _words(example.scene, seen):
        draw.text((left, line), word, _INK if is_right else _RED, font)
        left += draw.textlength(word + "  ", font)
    return np.asarray(image)


def _words(scene: SceneSpec, seen: Recognition) -> list[tuple[str, bool]]:
    """What was seen and whether it is the scene's, in the order of a caption; the attribute's name with a
    question mark for None. A usual size or speed goes without saying, where it is right."""
    right = seen.agrees_with(scene)
    order = ("size", "colour", "shape", "motion", "speed", "background")
    return [
        (getattr(seen, name) or f"{name}?", right[name])
        for name in order
        if has(scene, name) and not (right[name] and getattr(seen, name) in ("medium", "normal"))
    ]
