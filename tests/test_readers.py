"""Whatever a reader is given ends in a value, or in an error of our own, within a second."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyramid_seed import generate
from pyramid_seed.batch.items import Defaults, items_from_rows
from pyramid_seed.batch.rows import read_rows
from pyramid_seed.checkpoints.source import read_source
from pyramid_seed.choices import LIST_FORMATS
from pyramid_seed.presets import SETTINGS, load_preset, with_settings
from pyramid_seed.provenance.manifest import check_manifest, read_manifest, recipe_of
from pyramid_seed.provenance.show import describe
from tests.cases import check_cases

OURS = (ValueError, TypeError, OSError)
CLIP = Path(__file__).parent / "fixtures" / "version-0.1.0" / "clips" / "circle.mp4"

bounded = settings(
    max_examples=60,
    deadline=timedelta(seconds=5),  # some 0.05 s; much, so that a busy machine is not a failure
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    st.sampled_from([10**400, 2**64, np.float32("nan"), np.int64(-1), Path("a\0b"), object(), [[[]]]]),
    st.lists(st.integers(), max_size=3),
)  # fmt: skip
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
WORDS = [
    "prompt", "seed", "image", "preset", "fps", "height", "tiny", "a boat", "1", "-1", "010", "1_000",
    "1e999", ": ", "- ", "\n", "\r", "\n  ", ",", ";", "\t", '"', "'", "{", "}", "[", "]", "&a", "*a", "<<",
    "!!int ''", "!!python/name:os", "|", ">", "#", "%YAML", "---", "\0", "\x1b", "\ufeff", "\u202e",
    "\\ud800", "null", "NaN",
]  # fmt: skip
written = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=25).map("".join)
contents = written.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)


@bounded
@example(content=b"[" * 20_000)
@example(content=b"- " * 20_000)
@example(content=b"a: &a [x]\nb: *a")
@given(content=contents)
def test_lists_and_presets(content, tmp_path):
    for ending in LIST_FORMATS:
        path = tmp_path / f"list.{ending}"
        path.write_bytes(content)
        try:
            rows, bad = read_rows(path)
            items, more = items_from_rows(
                rows,
                Defaults(),
                where="x",
                folder=tmp_path,
                source_of=lambda model, variant: read_source(model, variant=variant),
                check=lambda _: None,
            )
        except OURS:
            continue
        assert all(isinstance(reason.reason, str) and reason.reason for reason in bad + more)
        assert all(item.prompt.strip() for item in items)
    try:
        load_preset(path)
    except OURS:
        return
    pytest.fail("words at random are no preset")


@bounded
@given(name=st.sampled_from(list(SETTINGS)), value=odd)
def test_settings(name, value):
    try:
        preset = with_settings(load_preset("tiny"), {name: value})
    except OURS:
        return
    assert hash(preset) is not None


def places(value, path=()):
    """Every place in nested values, as the keys that lead there."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


MANIFEST = read_manifest(CLIP)


@bounded
@given(path=st.sampled_from(list(places(MANIFEST))[1:]), value=plain)
def test_manifests(path, value, tmp_path):
    manifest = json.loads(json.dumps(MANIFEST))
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    try:
        check_manifest(manifest, "here")
        recipe_of(manifest)
    except OURS:
        return
    assert all(isinstance(text, str) for line in describe(manifest) for text in line)


@bounded
@example(content=b"[" * 100_000)
@given(content=contents)
def test_files_that_are_to_hold_a_manifest(content, tmp_path):
    for ending in ("json", "mp4"):
        (tmp_path / f"clip.{ending}").write_bytes(content)
        with pytest.raises(OURS):
            read_manifest(tmp_path / f"clip.{ending}")


def test_arguments_of_odd_types_are_refused_before_anything_is_loaded():
    def is_refused(arguments):
        with pytest.raises((ValueError, TypeError, OSError)):
            generate(**{"prompt": "a", "model": "no/model/here", **arguments})

    odd_values = {
        "prompt": [b"a", 5, None, "a\udc80", "x" * 10_001],
        "seed": [1.5, "1", True, -1, 2**64, np.float64(3), b"1"],
        "branches": [5, "ab", [5]],
        "preset": [1e308, b"tiny", "nothing", {}, ["tiny"]],
        "fit": ["squeeze", 5, b"crop", ["crop"]],
        "image": [["a"], 5, b"x", [], "not there.png", {}],
        "sink": [1e308, "a.mp4", object()],
        "on_step": [5, "print"],
        "on_unit": [1e308],
        "on_chunk": [[]],
        "guidance_scale": [b"7", "7", float("inf")],
        "num_frames": [40_000_001, 17.0, "17"],
        "scale": [300, 0, None],
        "loras": [5, "a.safetensors"],
        "pipeline": ["tiny", 5],
        "beginning": [5, {}],
        "device": [5, b"cpu", "nothing"],
        "noise_device": [5, b"cpu", "nothing"],
        "determinism": [[], 5, "loose"],
        "text_encoders": [{}, None],
    }
    check_cases([({name: value},) for name, values in odd_values.items() for value in values], is_refused)
