"""Draw the picture of docs/parallel.md: the pieces of a step, who makes them, and decoding beside.

python scripts/parallel_figure.py docs/parallel/pieces.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyramid_seed.explore.plots import WIDTH

mpl.use("Agg")
mpl.rcParams["font.size"] = 8.5
mpl.rcParams["axes.titlesize"] = 10

SHARDS = 2
HALVES = ("negative", "positive")
COLOURS = ("#cfe3f1", "#7fb8dc", "#fddcb8", "#f4a261")  # pale, for black text; they differ in grey
NUM_CONVOLUTIONS = 6


def main() -> None:
    """Draw it into the file that is named."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    step, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))[:, 0]
    makers, chunks = below.subplots(1, 2)
    _step(step.subplots())
    _makers(makers)
    _chunks(chunks)
    figure.savefig(Path(sys.argv[1]), dpi=150, metadata={"Software": None})


def _step(axes: Axes) -> None:
    """Every piece of both halves on its way through a block."""
    columns = (
        "rows of tokens:\nnorms, products",
        "heads of all tokens:\nattention",
        "rows of tokens:\nproducts",
    )
    kinds = ("rows", "heads", "rows")
    for half, name in enumerate(HALVES):
        for shard in range(SHARDS):
            piece = half * SHARDS + shard
            y = -1.2 * piece - 0.5 * half
            for column, kind in enumerate(kinds):
                _box(
                    axes,
                    3 * column,
                    y,
                    2,
                    1,
                    f"{piece}: {kind} {shard + 1} of {SHARDS}",
                    COLOURS[piece],
                )
                if column:
                    for other in range(SHARDS):
                        start = -1.2 * (half * SHARDS + other) - 0.5 * half
                        axes.plot((3 * column - 1, 3 * column), (start + 0.5, y + 0.5), color="0.6", zorder=0)
            axes.annotate("", (9, y + 0.5), (8, y + 0.5), arrowprops={"arrowstyle": "->", "color": "0.6"})
        middle = -1.2 * (half * SHARDS + (SHARDS - 1) / 2) - 0.5 * half + 0.5
        axes.text(-0.15, middle, f"half with the\n{name} text", ha="right", va="center")
        axes.text(9.1, middle, f"{name}\nvelocity", va="center")
    for column, text in enumerate(columns):
        axes.text(3 * column + 1, 1.15, text, ha="center", va="bottom")
    axes.text(2.5, 1.15, "all-to-all", ha="center", va="bottom", color="0.4")
    axes.text(5.5, 1.15, "all-to-all", ha="center", va="bottom", color="0.4")
    axes.set_title(f"A step with shards = {SHARDS}: {len(COLOURS)} pieces, whoever makes them", loc="left")
    axes.set(xlim=(-1.7, 10.3), ylim=(-4.3, 2.2))
    axes.axis("off")


def _makers(axes: Axes) -> None:
    """Which of so many processes makes which piece."""
    num_pieces = len(COLOURS)
    for row, count in enumerate((1, 2, 4)):
        share = num_pieces // count
        for piece, colour in enumerate(COLOURS):
            _box(axes, piece + 0.3 * (piece // share), -1.4 * row, 1, 1, str(piece), colour)
        axes.text(-0.2, -1.4 * row + 0.5, f"{count} process{'es' * (count > 1)}", ha="right", va="center")
    axes.set_title("Who makes which piece", loc="left")
    axes.set(xlim=(-2.2, 5.2), ylim=(-3, 1.2))
    axes.axis("off")


def _chunks(axes: Axes) -> None:
    """Three chunks of a clip in the decoder."""
    for chunk in range(3):
        for convolution in range(NUM_CONVOLUTIONS):
            _box(axes, chunk + convolution, -1.4 * chunk, 0.9, 1, str(convolution + 1), COLOURS[chunk])
        axes.text(-0.2, -1.4 * chunk + 0.5, f"chunk {chunk}", ha="right", va="center")
    axes.set_title("Decoding on a CPU: convolutions of each chunk", loc="left")
    axes.annotate("time", (8, -3.3), (0, -3.3), va="center", arrowprops={"arrowstyle": "->", "color": "0.4"})
    axes.set(xlim=(-1.4, 8.2), ylim=(-3.6, 1.2))
    axes.axis("off")


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(mpl.patches.Rectangle((x, y), width, height, facecolor=colour, edgecolor="white"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)


if __name__ == "__main__":
    main()
