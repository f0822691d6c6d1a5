"""The table of checks is whole: what it names is there, and diffusers offers no more."""

from __future__ import annotations

import ast
from pathlib import Path

import diffusers

from pyramid_seed.models.transformer_pyramid_base import REFUSED_CACHES
from tests.host.checks import CHECKS
from tests.pipelines.test_pipeline import CACHES

TESTS = Path(__file__).parents[1]


def functions_of(file):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_check_is_tested_or_has_a_reason():
    wrong = []
    for group, checks in CHECKS.items():
        for check in checks:
            file, _, name = check.where.partition("::")
            if not (check.where or check.why) or (check.where and name not in functions_of(file)):
                wrong.append(f"{group}: {check.what}: {check.where or 'neither test nor reason'}")
    assert wrong == []


def test_every_step_cache_of_diffusers_is_tried_or_refused():
    """A newer diffusers may have more of them."""
    there = {name for name in dir(diffusers) if name.endswith("CacheConfig")}
    there |= {"PyramidAttentionBroadcastConfig"}
    known = {type(config).__name__ for config in CACHES} | REFUSED_CACHES.keys()
    assert there == known
