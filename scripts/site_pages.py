"""A hook of MkDocs: the site's tree is the repository's, so that a relative link means the same in both.

README.md is the front page. Pages under docs/ that the navigation in mkdocs.yml leaves out come under "More".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "assets/tiny/*.md",
    "assets/tiny/*.png",
    "configs/cluster/*",
    "examples/*.*",
    "scripts/tiny/*.md",
)
"""The pages outside docs/, and what they and the others link to."""


def on_config(config: MkDocsConfig) -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    if others := sorted(pages - set(_named(config.nav))):
        config.nav.append({"More": others})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    ours = [f"docs/{file.src_uri}" for file in files if file.src_dir == config.docs_dir]
    ours += [path.relative_to(ROOT).as_posix() for pattern in OUTSIDE for path in ROOT.glob(pattern)]
    kept = [file for file in files if file.src_dir != config.docs_dir]
    return Files(kept + [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in ours])


def _named(nav: Any) -> Iterator[str]:
    """The pages that a navigation names, at any depth."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _named(part)
