"""Digests of weights: right, remembered, and never wrong for being remembered."""

from __future__ import annotations

import hashlib
import json
import os
import re

import pytest

from pyramid_seed.checkpoints import digests as weights
from pyramid_seed.checkpoints.digests import cache_path, weight_digests


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model's folder with two files, older than a clock's tick, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    (model / "vae").mkdir(parents=True)
    for name, data in (("model_index.json", b"{}"), ("vae/weights.safetensors", b"12345")):
        (model / name).write_bytes(data)
        os.utime(model / name, (1e9, 1e9))
    return model


NAMES = ("vae/weights.safetensors", "model_index.json")


def test_rows_are_sorted_and_right(folder):
    assert weight_digests(folder, NAMES) == [
        {"file": "model_index.json", "size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        {"file": "vae/weights.safetensors", "size": 5, "sha256": hashlib.sha256(b"12345").hexdigest()},
    ]


def test_a_known_file_is_not_read_again_unless_asked_to(folder, monkeypatch):
    rows = weight_digests(folder, NAMES)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
        assert weight_digests(folder, NAMES) == rows
    file = folder / "vae/weights.safetensors"
    file.write_bytes(b"54321")
    os.utime(file, (1e9, 1e9))  # size and time lie
    assert weight_digests(folder, NAMES) == rows
    assert weight_digests(folder, NAMES, fresh=True) != rows


def test_another_time_or_size_is_another_file(folder):
    file = folder / "vae/weights.safetensors"
    seen = set()
    for data, second in ((b"12345", 1e9), (b"54321", 1e9 + 1), (b"5432", 1e9 + 1)):
        file.write_bytes(data)
        os.utime(file, (second, second))
        seen.add(weight_digests(folder, NAMES)[1]["sha256"])
    assert len(seen) == 3


def test_a_file_written_just_now_is_not_remembered(folder):
    (folder / "model_index.json").write_bytes(b"[]")
    weight_digests(folder, NAMES)
    assert list(json.loads(cache_path().read_text())["files"]) == [str(folder / "vae/weights.safetensors")]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 2, "files": {}}',
        '{"version": 1, "files": {"x": 3}}',
        '{"version": 1, "files": {"x": {"size": 1}}}',
    ],
)
def test_a_corrupt_cache_is_ignored_with_a_warning_and_written_anew(folder, text, caplog):
    rows = weight_digests(folder, NAMES)
    cache_path().write_text(text)
    assert weight_digests(folder, NAMES) == rows
    assert re.search("cache of weight digests .* is ignored", caplog.text)
    assert len(json.loads(cache_path().read_text())["files"]) == 2


def test_without_a_place_for_the_cache_there_is_a_warning_once(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert len(weight_digests(folder, NAMES)) == 2
    ignored, unwritten = caplog.messages
    assert "is ignored: NotADirectoryError" in ignored
    assert unwritten.startswith("the cache of weight digests was not written: ")
    assert unwritten.endswith(f"weights.json cannot be written: {tmp_path / 'file'} is not a folder")


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path() == tmp_path / ".cache/pyramid_seed/weights.json"


def test_without_a_home_there_is_a_warning(folder, monkeypatch, caplog):
    """As with `docker run --user 12345`: no HOME, and nobody of that number in /etc/passwd."""

    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert len(weight_digests(folder, NAMES)) == 2
    assert re.search("this user has no home folder .*; set XDG_CACHE_HOME", caplog.text)


def test_a_missing_file_is_an_error(folder):
    with pytest.raises(FileNotFoundError, match="gone"):
        weight_digests(folder, ["gone.safetensors"])
