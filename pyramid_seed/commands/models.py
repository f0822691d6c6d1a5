"""`pyramid-seed models`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..choices import VARIANTS
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
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    from ..checkpoints.pickles import kept_conversions

    rows = []
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        repositories = frozenset()
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        for revision in repository.revisions if repository.repo_type == "model" else ():
            if (what := _contents(revision.snapshot_path)) is not None:
                commit = f"revision {revision.commit_hash[:12]}"
                rows.append((repository.repo_id, what, size_text(revision.size_on_disk), commit))
    for copy in kept_conversions():
        rows.append((copy.pickle, "converted", size_text(copy.path.stat().st_size), str(copy.path.parent)))
    if not rows:
        print("no models; `pyramid-seed fetch MODEL` downloads one")
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        print(printable("  ".join([*map(str.ljust, row, widths), row[3]])))
    return 0


def _contents(folder: Path) -> str | None:
    """The variants in a folder, in words; None if it holds no model that we know."""
    from ..checkpoints.configs import read_config
    from ..checkpoints.layout import layout_of, list_files, transformer_part
    from ..checkpoints.source import judge

    files = list_files(folder)
    parts = {file.partition("/")[0] for file in files}
    variants: list[str | None] = [name for name in VARIANTS if transformer_part(name) in parts]
    try:
        if layout_of(files, str(folder)) == "diffusers":
            variants = [None]
    except ValueError:
        return None
    names = []
    for variant in variants:
        try:
            judge(files, str(folder), variant, lambda name: read_config(folder / name))
            names.append(variant or "whole")
        except ValueError:  # part of it is missing
            names.append(f"{variant or ''} (in part)".strip())
    return ", ".join(names) or "(in part)"
