"""The packages import in one direction, without an exception, and importing the package is cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import package_map
from package_map import PACKAGE, imported_names, imported_parts, part_of

# What each part may import of ours, at any depth and also inside functions.
LEAVES = ["bars", "checks", "choices", "extras", "files", "loras", "pages", "private_apis", "resources"]
LEAVES += ["texts", "unique_keys", "version"]
ALLOWED = {
    part: set(parts.split())
    for part, parts in {
        **dict.fromkeys(LEAVES, ""),
        "devices": "",
        "seeds": "checks",
        "dtypes": "choices",
        "fields": "checks",
        "run_options": "checks choices devices fields",
        "geometry": "checks",
        "noise": "checks geometry seeds",
        "determinism": "choices private_apis seeds",
        "environment": "choices determinism private_apis version",
        "presets": "checks choices families fields resources texts unique_keys",
        "schedulers": "",
        "media": "choices files texts",
        "first_image": "media presets",
        "models": "choices files private_apis schedulers texts",
        "pieces": "choices determinism",
        "families": "choices geometry models",
        "checkpoints": "choices dtypes families files geometry models private_apis resources schedulers "
        "texts",
        "model_presets": "checkpoints checks families presets resources",
        "pipelines": "bars checkpoints checks choices determinism dtypes families files geometry media "
        "models noise pieces presets private_apis schedulers seeds texts",
        "recipe": "choices geometry noise presets",
        "provenance": "checks choices devices environment extras files geometry media noise presets recipe "
        "seeds texts version",
        "clip_files": "files media",
        "clip": "checkpoints checks clip_files files geometry media noise pages presets provenance recipe",
        "loading": "checkpoints checks determinism devices dtypes extras families model_presets models "
        "pipelines presets",
        "shared_pipeline": "bars checkpoints choices determinism devices dtypes environment families "
        "geometry loading pipelines presets",
        "api": "checkpoints checks choices clip determinism dtypes environment first_image geometry loading "
        "media model_presets noise pieces pipelines presets recipe run_options seeds shared_pipeline texts",
        "keying": "checkpoints checks choices clip_files determinism devices dtypes environment files media "
        "pipelines private_apis provenance seeds texts version",
        "signing": "checks extras files keying media provenance texts version",
        "spot_check": "api choices clip pipelines provenance recipe",
        "reproduce": "api checkpoints checks choices clip devices dtypes files first_image keying loading "
        "media models noise pieces pipelines provenance recipe run_options shared_pipeline spot_check",
        "batch": "api bars checkpoints checks choices clip determinism devices dtypes environment extras "
        "files first_image geometry loading loras media model_presets noise pieces pipelines presets "
        "run_options seeds shared_pipeline texts unique_keys",
        "record": "environment files keying media provenance",
        "testing": "record",
        "explore": "bars batch checkpoints checks choices environment extras files geometry media "
        "model_presets pages pipelines presets provenance run_options seeds texts version",
        "search": "api batch checks choices clip determinism environment explore extras files geometry media "
        "noise pages pipelines presets provenance recipe reproduce run_options seeds shared_pipeline texts "
        "version",
        "ui": "api checkpoints clip clip_files families files first_image geometry loading media noise pages "
        "pipelines presets provenance recipe reproduce run_options seeds texts",
    }.items()
}
FREE = {"__init__", "__main__", "cli", "commands"}


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that a module imports, dotted, without "pyramid_seed."."""
    names = {name.removeprefix("pyramid_seed.") for name in imported_names(path)}
    return names | {name.rpartition(".")[0] for name in names}


def imports_the_face(path: Path) -> bool:
    """Whether a module imports what `pyramid_seed/__init__.py` offers, in place of its home."""
    modules = {path.stem for path in PACKAGE.iterdir()}
    return bool(imported_parts(path) - modules)


def test_parts_import_what_they_may():
    """Every arrow that ALLOWED does not have, as `file: part`."""
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) not in FREE]
    assert not {part_of(path) for path in modules} - set(ALLOWED), "say in ALLOWED what these may import"
    forbidden = [
        f"{path.relative_to(PACKAGE)}: {part}"
        for path in modules
        for part in sorted(imported_parts(path) - ALLOWED[part_of(path)])
    ]
    assert not forbidden, "\n".join(["these imports are not allowed:", *forbidden])


def test_what_parts_may_import_goes_one_way():
    TopologicalSorter(ALLOWED).prepare()  # raises at a cycle
    assert not set().union(*ALLOWED.values()) - set(ALLOWED)


def test_no_module_imports_in_a_circle_or_the_packages_own_face():
    """Modules, not only parts: none of ours can come to need itself, at any depth of its functions."""
    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
    }
    needs = {name: imported_modules(path) & names.keys() for name, path in names.items()}
    TopologicalSorter({name: needed - {name} for name, needed in needs.items()}).prepare()
    faces = {name: path for name, path in names.items() if name not in ("__main__", "cli")}
    assert [name for name, path in faces.items() if imports_the_face(path)] == []


def test_the_map_for_contributors_is_current():
    drawn = package_map.PICTURE.search(package_map.GUIDE.read_text(encoding="utf-8"))[0]
    assert drawn == package_map.picture(), "run `python scripts/package_map.py --write`"


def test_the_map_leaves_out_what_follows():
    needs = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"d"}}
    assert package_map.without_shortcuts(needs) == {
        "a": {"b"},
        "b": {"c"},
        "c": {"d"},
        "d": set(),
        "e": {"d"},
    }


def test_one_module_imports_ray():
    importing = re.compile(r"^ *(import|from) ray\b", re.MULTILINE)
    modules = [path for path in PACKAGE.rglob("*.py") if importing.search(path.read_text(encoding="utf-8"))]
    assert [path.relative_to(PACKAGE).as_posix() for path in modules] == ["batch/ray_engine.py"]


def test_every_module_has_a_docstring():
    without = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not without, "\n".join(["these modules have no docstring:", *without])


def test_generate_reads_as_a_table_of_contents():
    module = ast.parse((PACKAGE / "api.py").read_text())
    (generate,) = (node for node in module.body if getattr(node, "name", None) == "generate")
    documentation, *_, last = generate.body
    lines = last.end_lineno - generate.lineno + 1 - (documentation.end_lineno - documentation.lineno + 1)
    assert lines <= 60


def test_nothing_heavy_is_imported():
    """Each statement in a process of its own."""
    statements = [
        "import pyramid_seed",
        "import pyramid_seed.cli",
        "import pyramid_seed.presets",
        "import pyramid_seed.testing",
        "from pyramid_seed.cli import build_parser; build_parser().format_help()",
    ]
    heavy = {"torch", "diffusers", "transformers", "av"}
    imported = {}
    for statement in statements:
        code = f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))"
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
        )
        imported[statement] = output.stdout.strip()
    assert imported == dict.fromkeys(statements, "[]")
