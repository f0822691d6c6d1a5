"""The picture of docs/parallel.md."""

from __future__ import annotations

import sys

import parallel_figure


def test_it_is_drawn(tmp_path, monkeypatch):
    path = tmp_path / "pieces.png"
    monkeypatch.setattr(sys, "argv", ["parallel_figure.py", str(path)])
    parallel_figure.main()
    assert path.read_bytes().startswith(b"\x89PNG")
