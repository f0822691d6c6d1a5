"""`pyramid-seed regenerate`."""

from __future__ import annotations

from pyramid_seed.cli import main
from pyramid_seed.provenance.manifest import read_manifest
from tests.conftest import REFERENCE

MODEL = str(REFERENCE / "miniflux-tiny")


def test_it_makes_the_same_clip_in_another_file(saved, tmp_path, capsys):
    again = tmp_path / "again.gif"
    assert main(["regenerate", str(saved), "-o", str(again), "--sidecar", "--model", MODEL, "--quiet"]) == 0
    digests = read_manifest(saved)["digests"]
    assert read_manifest(again)["digests"] == digests
    assert digests["frames"] in capsys.readouterr().out
    assert main(["regenerate", str(saved), "-o", str(again), "--model", MODEL]) == 2
    assert f"{again} already exists" in capsys.readouterr().err
