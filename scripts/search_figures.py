"""Measure the figures of docs/search.md and write them there: a tree against best of N, at equal cost.

    PYTHONPATH=.:scripts/tiny python scripts/search_figures.py --write    # 60 held-out pairs
    PYTHONPATH=.:scripts/tiny python scripts/search_figures.py --count 4  # print, write nothing

The embedded model with preset tiny-fast at 2 steps a stage; the recogniser of scripts/tiny scores a clip by
the attributes that it is told, and every clip that is chosen is then asked for all of its attributes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from determinism_table import with_part
from recognise import ATTRIBUTES, FINER_ATTRIBUTES, Recognition, recognise
from scoring import shares
from tqdm import tqdm
from world import Example, SceneSpec, held_out_examples

from pyramid_seed import Clip, environment_fingerprint, generate
from pyramid_seed.media.frames import Frames
from pyramid_seed.search.remake import Remaker
from pyramid_seed.search.tree import Node, Tree, decisions
from pyramid_seed.search.tree import Path as TreePath
from pyramid_seed.shared_pipeline import shared_pipeline

PAGE = Path(__file__).parents[1] / "docs" / "search.md"
BEGIN = "<!-- figures: written by scripts/search_figures.py -->\n"
END = "<!-- end of figures -->\n"

COUNT = 60
STEPS = 2
UNITS = 5
TREES = {
    "best of 8 whole clips": (8, 1, 1, (5,)),
    "tree, compared at 1, 3 and 5 units, 2 kept, 4 children": (8, 2, 4, (1, 3, 5)),
}
"""Width, keep, branching and at: each makes 40 units, as many as 8 whole clips."""
TOLD = {"all four": ATTRIBUTES, "the shape alone": ("shape",)}


def score(frames: Frames, scene: SceneSpec, told: Sequence[str]) -> float:
    """How surely a clip shows the attributes told: for each that is right, 1 and its confidence."""
    seen = recognise(frames)
    return sum(1 + seen.confidence[name] for name in told if getattr(seen, name) == getattr(scene, name))


def searched(
    example: Example, plain: Clip, sizes: tuple[int, int, int, tuple[int, ...]]
) -> Iterator[tuple[str, Frames]]:
    """What a scorer was told, and its winner's frames; candidates of both scorers are made once."""
    remaker = Remaker(plain.recipe, shared_pipeline.get(plain.settings, "cpu"), None, {})
    made: dict[TreePath, Frames] = {}
    width, keep, branching, at = sizes
    tree = Tree(example.seed, width, keep, branching, at, UNITS)
    assert tree.cost == 8 * UNITS
    for what, told in TOLD.items():

        def scores_of(nodes: Sequence[Node], told: Sequence[str] = told) -> dict[TreePath, float | None]:
            made.update({node.path: remaker.made(node).frames for node in nodes if node.path not in made})
            return {node.path: score(made[node.path], example.scene, told) for node in nodes}

        yield what, made[decisions(tree, scores_of)[-1].kept[0].path]


def table(rows: Mapping[str, Sequence[Recognition]], examples: Sequence[Example]) -> str:
    """The shares of right clips, as Markdown."""
    names = ("all", *ATTRIBUTES, *FINER_ATTRIBUTES)
    lines = [f"| | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for label, seen in rows.items():
        found = shares(examples, seen)
        lines.append(f"| {label} | {' | '.join(f'{100 * found[name]:.1f} %' for name in names)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the figures of docs/search.md.")
    parser.add_argument("--count", type=int, default=COUNT, help="held-out pairs")
    parser.add_argument("--write", action="store_true", help="renew the figures of docs/search.md")
    options = parser.parse_args()
    count = options.count
    examples = held_out_examples(count)
    rows: dict[str, list[Recognition]] = {}
    for example in tqdm(examples):
        plain = generate(
            example.caption,
            seed=example.seed,
            preset="tiny-fast",
            num_inference_steps=STEPS,
            video_num_inference_steps=STEPS,
            device="cpu",
            progress=False,
        )
        rows.setdefault("one clip, not searched", []).append(recognise(plain.frames))
        for name, sizes in TREES.items():
            for what, frames in searched(example, plain, sizes):
                rows.setdefault(f"{name}; told {what}", []).append(recognise(frames))
    here = environment_fingerprint()
    machine = f"{here['cpu']['name']}, {here['python']}, torch {here['packages']['torch']}"
    text = f"{count} held-out pairs. {machine}.\n\n{table(rows, examples)}\n"
    print(text)
    if options.write:
        PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), text, BEGIN, END), encoding="utf-8")


if __name__ == "__main__":
    main()
