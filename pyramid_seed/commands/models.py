"""`pyramid-seed models`."""

from __future__ import annotations

import argparse

from ..texts import printable, size_text
from .options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "models",
        help="list the models on this machine",
        description="List the models in the hub's cache, and what was converted, with sizes.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes its options
    """`pyramid-seed models`."""
    from ..checkpoints.kept import kept_models
    from ..checkpoints.pickles import kept_conversions

    rows = []
    for model in kept_models():
        variants = [
            f"{name} (in part)" if name in model.incomplete else name for name in model.variants if name
        ]
        what = ", ".join(variants) or ("in part" if model.incomplete else "")
        rows.append((model.name, what, model.size, f"revision {model.commit[:12]}"))
    for copy in kept_conversions():
        size = copy.path.stat().st_size if copy.path.is_file() else 0
        rows.append((copy.pickle, "converted", size, str(copy.path.parent)))
    if not rows:
        print("no models; `pyramid-seed fetch MODEL` downloads one")
    widths = [max((len(str(row[column])) for row in rows), default=0) for column in (0, 1)]
    for name, what, size, where in rows:
        print(printable(f"{name:{widths[0]}}  {what:{widths[1]}}  {size_text(size):>8}  {where}"))
    return 0
