"""Every example runs as it stands, in a process of its own; each holds its own assertions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ARGUMENTS = {"batch_on_two_processes": (TORCHRUN, ["clips"])}
"""What comes before and after the script's name, where it is not run as it is."""

pytestmark = pytest.mark.slow


def run(arguments, folder):
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_script(name, tmp_path):
    before, after = ARGUMENTS.get(name, ([], []))
    assert run([*before, EXAMPLES / f"{name}.py", *after], tmp_path).strip()


def test_notebook(tmp_path):
    """Its code, cell after cell, as plain Python."""
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "clear the outputs before committing"
    (tmp_path / "tour.py").write_text("\n".join(code), encoding="utf-8")
    run(["tour.py"], tmp_path)
    assert (tmp_path / "tour.mp4").is_file()
