"""The wheel holds what it needs and nothing else, and makes the clip that the checkout makes."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from pyramid_seed import generate, list_presets
from pyramid_seed.provenance.manifest import read_manifest
from tests.other_environment import other_environment

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "a red circle moves to the right on a white background"


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", ROOT, *options, "--wheel-dir", folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a fresh environment with the wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    scripts = Path(paths["scripts"])
    options = ["--no-deps", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", scripts / "python", "install", *options, wheel)
    # Later on the path than what the wheel brought, so that a checkout installed there is not found first.
    dependencies = Path(paths["purelib"]) / "dependencies.pth"
    dependencies.write_text(sysconfig.get_paths()["purelib"] + "\n")
    return scripts


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Nothing of the checkout; whatever else changes no clip is another one as well."""
    other = other_environment()
    plain = {name: value for name, value in other.items() if not name.startswith("PYTHON")}
    return {
        **plain,
        "PYTHONHASHSEED": other["PYTHONHASHSEED"],
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.mark.slow
def test_content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pyramid_seed").rglob("*.*")
        if path.suffix in (".py", ".jinja")
    }
    given = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    model = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "assets" / "tiny").rglob("*.*")
        if path.is_file()
    }
    assert any(name.endswith("transformer/diffusion_pytorch_model.safetensors") for name in model)
    wanted = sources | {"pyramid_seed/py.typed"} | {f"pyramid_seed/{name}" for name in given | model}
    assert wanted <= names
    extra = {name for name in names - wanted if ".dist-info/" not in name}
    assert all(name.startswith("pyramid_seed/") for name in extra), extra
    assert not [name for name in names if name.endswith((".pyc", ".pt", ".pth", ".bin")) or "/tests/" in name]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.slow
def test_the_installed_wheel_makes_the_clip_of_the_checkout(installed, environment, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    where = run(
        installed / "python",
        "-c",
        "import pyramid_seed; print(pyramid_seed.__file__)",
        cwd=folder,
        env=environment,
    )
    assert Path(where.strip()).is_relative_to(installed.parent)
    command = [installed / "pyramid-seed", "generate", PROMPT, "--seed", "1", "--num-inference-steps", "1"]
    output = run(*command, "--num-frames", "5", "-o", "clip.mp4", cwd=folder, env=environment)
    here = generate(PROMPT, seed=1, num_inference_steps=1, num_frames=5, progress=False)
    assert re.search(r"\b[0-9a-f]{64}\b", output)[0] == here.digest
    there = read_manifest(folder / "clip.mp4")
    assert there["digests"] == here.manifest["digests"]
    assert there["weights"] == here.manifest["weights"]


@pytest.mark.slow
def test_pytest_finds_the_plugin_of_the_wheel(installed, environment, tmp_path):
    output = run(installed / "python", "-m", "pytest", "--fixtures", cwd=tmp_path, env=environment)
    assert "clip_regression -- " in output


@pytest.mark.slow
def test_presets_of_the_installed_wheel(installed, environment, tmp_path):
    output = run(installed / "pyramid-seed", "presets", cwd=tmp_path, env=environment)
    assert all(name in output for name in list_presets())
