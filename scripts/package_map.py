"""The parts of the package and what each needs of the others, read from the imports, as a Mermaid picture.

    python scripts/package_map.py            # print it
    python scripts/package_map.py --write    # renew it in CONTRIBUTING.md

An arrow points from a part to one that it imports. Arrows that follow from others are left out, as are the
leaves, which import nothing of the package.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyramid_seed"
GUIDE = ROOT / "CONTRIBUTING.md"
PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)
ENTRIES = {"__init__", "__main__"}
"""Not parts: the public face, and the way to the command line."""


def part_of(path: Path) -> str:
    """The module or subpackage at the top of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> set[str]:
    """Dotted names of the package that a module imports, at any depth and also inside functions."""
    package = ["pyramid_seed", *path.relative_to(PACKAGE).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("pyramid_seed")}


def imported_parts(path: Path) -> set[str]:
    """Parts of the package that a module imports, other than its own."""
    parts = {name.split(".")[1] for name in imported_names(path) if "." in name}
    return parts - {part_of(path)}


def imports_of_parts() -> dict[str, set[str]]:
    """Each part of the package, with the parts that it imports."""
    needs: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if part_of(path) not in ENTRIES:
            needs.setdefault(part_of(path), set()).update(imported_parts(path))
    return {part: needed & needs.keys() for part, needed in needs.items()}


def without_shortcuts(needs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same graph without the arrows that a longer way implies; it must have no circle."""
    reached: dict[str, set[str]] = {}
    for part in TopologicalSorter(needs).static_order():
        reached[part] = set(needs[part]).union(*(reached[needed] for needed in needs[part]))
    return {
        part: {one for one in needed if not any(one in reached[other] for other in needed - {one})}
        for part, needed in needs.items()
    }


def picture() -> str:
    """The body of a Mermaid flowchart."""
    needs = imports_of_parts()
    leaves = {part for part, needed in needs.items() if not needed}
    inner = {part: needed - leaves for part, needed in needs.items() if part not in leaves}
    lines = ["flowchart TD"]
    for part, needed in sorted(without_shortcuts(inner).items()):
        shape = f"{part}[[{part}/]]" if (PACKAGE / part).is_dir() else f"{part}[{part}.py]"
        lines.append(f"    {shape}")
        lines += [f"    {part} --> {other}" for other in sorted(needed)]
    lines.append(f"    %% leaves: {', '.join(sorted(leaves))}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the picture, or write it into the guide."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="renew the picture in CONTRIBUTING.md")
    if parser.parse_args().write:
        text = PICTURE.sub(lambda _: picture(), GUIDE.read_text(encoding="utf-8"), count=1)
        GUIDE.write_text(text, encoding="utf-8")
    else:
        print(picture(), end="")


if __name__ == "__main__":
    main()
