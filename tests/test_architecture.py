"""The packages import in one direction, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pyramid_seed"

# What each part may import of ours, at any depth and also inside functions.
ALLOWED = {
    "geometry": set(),
    "resources": set(),
    "rgb": set(),
    "noise": {"geometry"},
    "schedulers": set(),
    "models": {"schedulers"},
    "determinism": {"noise"},
    "devices": set(),
    "environment": {"determinism"},
    "presets": {"resources"},
    "pipelines": {"determinism", "geometry", "models", "noise", "rgb", "schedulers"},
    "runs": {"determinism", "devices", "environment", "geometry", "noise", "presets", "resources", "rgb"},
    "clip": {"again", "geometry", "noise", "pipelines", "presets", "runs"},
    "model_facts": {"api", "geometry", "models", "resources", "runs", "schedulers"},
    "batch": {
        "api",
        "clip",
        "determinism",
        "devices",
        "environment",
        "model_facts",
        "models",
        "noise",
        "pipelines",
        "presets",
        "runs",
    },
    "explore": {"batch", "determinism", "presets", "runs"},
    "api": {
        "clip",
        "determinism",
        "devices",
        "environment",
        "geometry",
        "models",
        "noise",
        "pipelines",
        "presets",
        "resources",
        "runs",
    },
    "again": {"api", "clip", "geometry", "models", "noise", "pipelines", "presets", "resources", "runs"},
    "ui": {"again", "api", "clip", "geometry", "model_facts", "noise", "pipelines", "presets", "runs"},
}
FREE = {"__init__", "__main__", "cli", "commands"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Parts of the package that a module imports, other than its own."""
    package = ["pyramid_seed", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
def test_imports_go_one_way(path):
    part = part_of(path)
    if part in FREE:
        return
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert imported_parts(path) <= ALLOWED[part]


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
