"""Which models are kept on this machine, in the cache of the hub's client."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import huggingface_hub

from ..choices import VARIANTS
from .configs import read_config
from .layout import layout_of, list_files, transformer_part
from .source import judge


class KeptModel(NamedTuple):
    """A model that was fetched.

    Attributes:
        name: owner/name.
        commit: the revision.
        folder: where its files are.
        size: of all of them, in bytes.
        variants: what of it is here; of a model without variants, one that is None.
        incomplete: those of which files are missing.
    """

    name: str
    commit: str
    folder: Path
    size: int
    variants: tuple[str | None, ...]
    incomplete: tuple[str | None, ...]


def kept_models() -> list[KeptModel]:
    """All that are of a layout that can be read, by name."""
    try:
        cache = huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE)
    except huggingface_hub.CacheNotFound:
        return []
    kept = [
        _kept(repository.repo_id, revision.commit_hash, revision.snapshot_path, revision.size_on_disk)
        for repository in sorted(cache.repos, key=lambda each: each.repo_id)
        if repository.repo_type == "model"
        for revision in sorted(repository.revisions, key=lambda each: each.last_modified)
    ]
    return [model for model in kept if model is not None]


def _kept(name: str, commit: str, folder: Path, size: int) -> KeptModel | None:
    files = list_files(folder)
    try:
        layout = layout_of(files, name)
    except ValueError:
        return None
    parts = {file.partition("/")[0] for file in files}
    named = [variant for variant in VARIANTS if transformer_part(variant) in parts]
    variants: tuple[str | None, ...] = (None,) if layout == "diffusers" else tuple(named)
    incomplete = tuple(variant for variant in variants if not _is_whole(folder, variant))
    return KeptModel(name, commit, folder, size, variants, incomplete)


def _is_whole(folder: Path, variant: str | None) -> bool:
    try:
        judge(list_files(folder), str(folder), variant, lambda name: read_config(folder / name))
    except ValueError:
        return False
    return True
