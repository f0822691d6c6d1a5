"""Make the moving picture of the README: one prompt over four seeds, a branch, and a comparison.

python scripts/gallery_picture.py assets/gallery.webp
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pyramid_seed import extend, generate
from pyramid_seed.media.frames import Frames, amplified
from pyramid_seed.media.lettering import font

PROMPT = "an orange star grows on a black background"
SEEDS = (5, 10, 3, 2)
KEPT, OTHER_SEED = 9, 7
FEW_STEPS = 4
GAIN = 4

CELL, GAP, MARGIN = 160, 6, 10
TITLE, LABEL = 30, 22
PAPER, INK, FAINT = (255, 255, 255), (24, 24, 27), (82, 82, 91)
HELD_SECONDS = 1.0
"""How long the last frame stays."""

Row = tuple[str, Sequence[tuple[str, Frames]]]


def rows() -> list[Row]:
    """The rows: a title, and labelled clips (T, H, W, 3) of equal length and size."""
    clips = {seed: generate(PROMPT, seed=seed, device="cpu", progress=False) for seed in SEEDS}
    first = clips[SEEDS[0]]
    length = len(first.frames)
    branch = extend(first, length + 4, branch_seed=OTHER_SEED, from_frame=KEPT, progress=False).frames[
        :length
    ]
    few = generate(
        PROMPT,
        seed=first.seed,
        device="cpu",
        progress=False,
        num_inference_steps=FEW_STEPS,
        video_num_inference_steps=FEW_STEPS,
    ).frames
    steps = first.settings.num_inference_steps[0]
    difference = np.stack([amplified(a, b, GAIN) for a, b in zip(first.frames, few, strict=True)])
    return [
        (
            f"One prompt, four seeds: “{PROMPT}”",
            [(f"seed {seed}", clip.frames) for seed, clip in clips.items()],
        ),
        (
            f"Seed {first.seed} with one thing changed",
            [
                (f"seed {first.seed}, {steps} steps", first.frames),
                (f"seed {OTHER_SEED} from frame {KEPT} on", branch),
                (f"{FEW_STEPS} steps for {steps}", few),
                (f"difference, \N{MULTIPLICATION SIGN} {GAIN}", difference),
            ],
        ),
    ]


def drawn(table: Sequence[Row], time: int) -> Image.Image:
    """The picture at one frame of the clips."""
    columns = max(len(clips) for _, clips in table)
    width = 2 * MARGIN + columns * (CELL + GAP) - GAP
    picture = Image.new("RGB", (width, len(table) * (TITLE + CELL + LABEL) + 2 * MARGIN), PAPER)
    draw, top = ImageDraw.Draw(picture), MARGIN
    for title, clips in table:
        draw.text((MARGIN, top + TITLE / 2 - 2), title, INK, font(16), anchor="lm")
        for column, (label, frames) in enumerate(clips):
            left = MARGIN + column * (CELL + GAP)
            cell = Image.fromarray(frames[time]).resize((CELL, CELL), Image.Resampling.BICUBIC)
            picture.paste(cell, (left, top + TITLE))
            draw.text((left, top + TITLE + CELL + 3), label, FAINT, font(13))
        top += TITLE + CELL + LABEL
    return picture


def main() -> None:
    """Write the picture into the file that is named."""
    table = rows()
    length, fps = len(table[0][1][0][1]), 8
    first, *others = [drawn(table, time) for time in range(length)]
    durations = [round(1000 / fps)] * (length - 1) + [round(1000 * HELD_SECONDS)]
    first.save(
        Path(sys.argv[1]),
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        quality=85,
        method=6,
        minimize_size=True,
    )


if __name__ == "__main__":
    main()
