"""The packages import in one direction, but for one call of Clip, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pyramid_seed"

# What each part may import of ours, at any depth and also inside functions.
LEAVES = {"checks", "choices", "files", "private_apis", "resources", "version"}
ALLOWED = {leaf: set() for leaf in LEAVES} | {
    "devices": set(),
    "seeds": {"checks"},
    "dtypes": {"choices"},
    "run_options": {"checks", "choices", "devices"},
    "geometry": {"checks"},
    "noise": {"checks", "geometry", "seeds"},
    "determinism": {"choices", "private_apis", "seeds"},
    "environment": {"choices", "determinism", "private_apis", "version"},
    "presets": {"checks", "resources"},
    "schedulers": set(),
    "media": {"files"},
    "models": {"choices", "private_apis", "schedulers"},
    "checkpoints": {"choices", "dtypes", "files", "geometry", "models", "resources", "schedulers"},
    "pipelines": {"checks", "choices", "determinism", "dtypes", "geometry", "media", "models", "noise"}
    | {"private_apis", "schedulers"},
    "provenance": {"devices", "environment", "files", "geometry", "media", "noise", "presets", "version"},
    "clip_files": {"files", "media", "provenance"},
    "clip": {"checkpoints", "clip_files", "files", "geometry", "media", "noise", "pipelines", "presets"}
    | {"provenance", "reproduce"},
    "api": {"checkpoints", "checks", "choices", "clip", "determinism", "devices", "dtypes", "environment"}
    | {"geometry", "media", "noise", "pipelines", "presets", "resources"},
    "reproduce": {"api", "checkpoints", "clip", "geometry", "media", "models", "noise", "pipelines"}
    | {"provenance", "resources"},
    "batch": {"api", "checkpoints", "checks", "choices", "clip", "determinism", "devices", "environment"}
    | {"files", "media", "noise", "pipelines", "presets"},
    "explore": {"batch", "choices", "files", "geometry", "media", "presets", "provenance", "version"},
    "ui": {"api", "checkpoints", "clip", "clip_files", "files", "geometry", "media", "noise", "pipelines"}
    | {"presets", "provenance", "reproduce"},
}
# The one import against the direction: `Clip.extend` makes a clip, with what is built on `Clip`. Inside the
# function only, so that the modules can be loaded.
AGAINST = ("clip", "reproduce")
FREE = {"__init__", "__main__", "cli", "commands"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path, *, at_top: bool = False) -> set[str]:
    """Parts of the package that a module imports, other than its own; at any depth, or only at the top."""
    package = ["pyramid_seed", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("pyramid_seed.")}
    return found - {part_of(path), "__version__"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_parts_import_what_they_may(path):
    part = part_of(path)
    if part in FREE:
        return
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert imported_parts(path) <= ALLOWED[part]


def test_what_parts_may_import_goes_one_way():
    """No part can come to need itself, but for AGAINST, which is needed to be an exception."""
    importer, imported = AGAINST
    TopologicalSorter(ALLOWED | {importer: ALLOWED[importer] - {imported}}).prepare()  # raises at a cycle
    with pytest.raises(CycleError):
        TopologicalSorter(ALLOWED).prepare()
    assert not set().union(*ALLOWED.values()) - set(ALLOWED)
    module = PACKAGE / f"{importer}.py"
    assert imported in imported_parts(module)
    assert imported not in imported_parts(module, at_top=True)


def test_every_package_has_a_docstring():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    "statement",
    [
        "import pyramid_seed",
        "import pyramid_seed.cli",
        "import pyramid_seed.presets",
        "from pyramid_seed.cli import build_parser; build_parser().format_help()",
    ],
)
def test_nothing_heavy_is_imported(statement):
    heavy = {"torch", "diffusers", "transformers", "av"}
    code = f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert output.stdout.strip() == "[]"
