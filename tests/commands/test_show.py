"""`pyramid-seed show`."""

from __future__ import annotations

import json
import subprocess
import sys

from pyramid_seed.cli import main
from pyramid_seed.provenance.manifest import find_manifest


def test_it_prints_for_people_and_for_programs(saved, capsys):
    assert main(["show", str(saved)]) == 0
    assert "seed        18446744073709551615\n" in capsys.readouterr().out
    assert main(["show", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == find_manifest(saved)


def test_no_manifest_is_status_2(tmp_path):
    command = [sys.executable, "-m", "pyramid_seed", "show", str(tmp_path / "gone.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pyramid-seed show: " in done.stderr
    assert "Traceback" not in done.stderr
