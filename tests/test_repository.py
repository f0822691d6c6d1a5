"""What makes the repository one that others can carry on."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import yaml

import pyramid_seed

ROOT = Path(__file__).resolve().parents[1]


def test_workflows_run_what_is_there():
    """Every script that a workflow names exists and can be run."""
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        steps = [step for job in jobs.values() for step in job["steps"]]
        scripts = [step["run"] for step in steps if step.get("run", "").startswith(".ci/")]
        assert scripts, path.name
        assert [name for name in scripts if not os.access(ROOT / name, os.X_OK)] == []


def test_the_issue_form_asks_for_the_manifest():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    fields = {field["id"]: field for field in form["body"]}
    assert "pyramid-seed show --json" in fields["manifest"]["attributes"]["description"]


def test_commands_of_the_justfile_are_those_of_the_readme():
    recipes = (ROOT / "justfile").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    _, test, *_ = blocks
    assert test.partition(" && ")[2] in recipes
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^just (\w+)", guide, re.M)) <= set(re.findall(r"^(\w+)\b.*:$", recipes, re.M))


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: pyramid_seed\.(\w+)$", page, re.M)
    assert sorted(shown) == sorted(set(pyramid_seed.__all__) - {"__version__"})


def test_the_citation_names_this_project_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    (paper,) = citation["references"]
    assert project["urls"]["Paper"].endswith(paper["identifiers"][0]["value"].removeprefix("arXiv:"))
