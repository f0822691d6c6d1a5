"""The pages hold: every command and block of code runs, page by page, and prints what the page shows."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("sybil", reason="needs the extra `docs`")

from .doc_blocks import run_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
CLONE = (
    "LICENSE",
    "README.md",
    "assets",
    "configs",
    "constraints.txt",
    "examples",
    "pyproject.toml",
    "pyramid_seed",
    "scripts",
)
"""What a page's commands need of the folder that they are run in."""
REASONS = {
    "downloads a published model": 4,
    "installs system packages": 1,
    "needs a GPU": 4,
    "needs a cluster": 6,
    "needs torchao": 1,
    "runs the tests": 2,
    "runs until it is stopped": 1,
    "takes minutes and 20 GB of disk": 1,
}
"""Why a block may be left out, and how many blocks at most are left out for it."""

pytestmark = pytest.mark.docs


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The working folder: an empty one in which a page finds what a clone has."""
    for name in CLONE:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_page(page):
    run_page(page)


@pytest.mark.parametrize(
    ("blocks", "refused"),
    [
        ("```bash\nfalse\n```", "exit status 1, not 0"),
        ("<!-- exit-status: 1 -->\n\n```bash\ntrue\n```", "exit status 0, not 1"),
        ("```python\nprint(1)\n```\n\n```output\n2\n```", "shown:\n2\n\nprinted:\n1"),
        ('```text title="a.txt"\na\n```\n\n```bash\ngrep b a.txt\n```', "exit status 1, not 0"),
        ("```\nls\n```", "page.md:1: language must be one of bash, output, python, text, got ''"),
        ("```bash {.x}\nls\n```", "got 'bash {.x}'"),
    ],
)
def test_a_page_that_does_not_hold_is_refused(blocks, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"{blocks}\n", encoding="utf-8")
    with pytest.raises(Exception, match=re.escape(refused)):
        run_page(page)


def test_few_blocks_are_left_out_each_for_a_known_reason():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    given = [reason for text in texts for reason in re.findall(r"<!-- skip: next (.*) -->", text)]
    assert {reason: given.count(f'"{reason}"') for reason in REASONS} == REASONS
    assert sum(REASONS.values()) == len(given), given


def test_what_the_pages_install_is_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {extra for text in texts for extra in re.findall(r'pip install .*"\.\[(\w+)\]"', text)}
    assert named
    assert named <= project["optional-dependencies"].keys()
