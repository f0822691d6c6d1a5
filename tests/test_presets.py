"""Presets and the folders that come with the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from pyramid_seed import presets, resources
from pyramid_seed.presets import Preset, list_presets, load_preset, with_settings

ROOT = Path(__file__).parents[1]
NAMES = ("miniflux-384p", "miniflux-768p", "miniflux-image", "sd3-384p", "sd3-768p", "tiny", "tiny-fast")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (ROOT / "configs" / "tiny.yaml").read_text()
    assert text.count(old) == 1
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_the_presets_are_these():
    assert list_presets() == NAMES


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_loads_and_gives_every_setting(name):
    preset = load_preset(name)
    assert preset.name == name
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    for field in fields(Preset):
        assert field.name == "name" or f"\n{field.name}: " in text
    assert preset.description
    assert hash(preset) == hash(load_preset(ROOT / "configs" / f"{name}.yaml"))


@pytest.mark.parametrize("name", [name for name in list_presets() if not name.startswith("tiny")])
def test_every_number_of_the_original_names_its_source(name):
    unsourced = ("description", "variant", "negative_prompt", "scale")
    for line in (ROOT / "configs" / f"{name}.yaml").read_text().splitlines():
        if not line.startswith(("#", *unsourced)):
            assert "  # " in line, line


def test_recommended_settings_of_the_original():
    image = load_preset("miniflux-image")
    assert (image.height, image.width, image.num_frames, image.guidance_scale) == (1024, 1024, 1, 9.0)
    for variant, size in (("384p", (384, 640)), ("768p", (768, 1280))):
        for family in ("miniflux", "sd3"):
            video = load_preset(f"{family}-{variant}")
            assert (video.height, video.width, video.num_frames, video.fps) == (*size, 121, 24)
            assert video.num_inference_steps == (20, 20, 20)
            assert video.video_num_inference_steps == (10, 10, 10)
            # The one value in which the families' recommendations differ.
            first = 9.0 if (family, variant) == ("sd3", "768p") else 7.0
            assert (video.guidance_scale, video.video_guidance_scale) == (first, 5.0)


def test_the_name_of_a_published_preset_says_model_and_variant():
    for name in NAMES[:-2]:
        preset = load_preset(name)
        assert (preset.model, preset.variant) == (
            f"rain1011/pyramid-flow-{name.split('-')[0]}",
            name.split("-")[1],
        )
        assert preset.prompt_suffix == ", hyper quality, Ultra HD, 8K"


def test_presets_are_frozen():
    with pytest.raises(FrozenInstanceError):
        load_preset("tiny").fps = 3


def test_optional_keys_have_defaults(tmp_path):
    path = changed(tmp_path, 'negative_prompt: ""\n', "")
    assert load_preset(path).negative_prompt == ""
    assert load_preset(str(path)).name == "mine"


def test_unknown_name():
    with pytest.raises(ValueError, match="no preset named 'miniflux-348p'; did you mean 'miniflux-384p'"):
        load_preset("miniflux-348p")
    with pytest.raises(FileNotFoundError):
        load_preset("nowhere.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "\nguidance_scale:",
            "\nguidence_scale:",
            "unknown key 'guidence_scale'; did you mean 'guidance_scale'",
        ),
        ("\nfps:", "\nframes_per_second:", "unknown key 'frames_per_second'; did you mean '"),
        ("\nfps: 8", "\nname: tiny\nfps: 8", "unknown key 'name'"),
        ("\nfps: 8", "\n3: 4", "unknown key 3"),
        ("\nfps: 8", "", "missing fps"),
        ("\nfps: 8", "\nfps: 8\nfps: 24", "'fps' is given twice"),
        ("\nfps: 8", "\nfps: fast", "fps must be a number above 0, got 'fast'"),
        ("\nfps: 8", "\nfps: 0", "fps must be a number above 0, got 0"),
        ("\nfps: 8", "\nfps: null", "fps must be a number above 0, got None"),
        ("\nfps: 8", "\nfps: .inf", "fps must be a number above 0, got inf"),
        ("\nfps: 8", "\nfps: .nan", "fps must be a number above 0, got nan"),
        ("\nheight: 64", "\nheight: 64.5", "height must be a whole number of at least 1, got 64.5"),
        ("\nheight: 64", "\nheight: true", "height must be a whole number of at least 1, got True"),
        (
            "\nguidance_scale: 2.0",
            "\nguidance_scale: -1",
            "guidance_scale must be a number of at least 0, got -1",
        ),
        ("\nguidance_scale: 2.0", "\nguidance_scale: yes", "guidance_scale must be a number .* got True"),
        ("\nnum_inference_steps: [8, 8, 8]", "\nnum_inference_steps: 8", "must be a list of whole numbers"),
        ("\nnum_inference_steps: [8, 8, 8]", "\nnum_inference_steps: []", r"one a stage, got \[\]"),
        ("\nnum_inference_steps: [8, 8, 8]", "\nnum_inference_steps: [8, 0]", r"one a stage, got \[8, 0\]"),
        ("dtype: float32", "dtype: float16", "dtype must be float32 or bfloat16, got 'float16'"),
        ("dtype: float32", "dtype: [float32]", "dtype must be float32 or bfloat16"),
        ("variant: null", "variant: 384", "variant must be text that is not empty, got 384"),
        ('negative_prompt: ""', "negative_prompt: 5", "negative_prompt must be text, got 5"),
        ("\nfps: 8", "\nfps: [8", "not a valid preset"),
    ],
)
def test_mistakes_name_file_key_and_value(tmp_path, old, new, message):
    path = changed(tmp_path, old, new)
    with pytest.raises(ValueError, match=message) as caught:
        load_preset(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "? [a]\n: b", "!!python/object/apply:os.getcwd []"])
def test_files_that_are_no_mapping(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml is not a valid preset"):
        load_preset(tmp_path / "mine.yaml")


def test_reading_presets_imports_neither_torch_nor_diffusers():
    code = (
        "import sys; from pyramid_seed.presets import load_preset; load_preset('tiny');"
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_folders_are_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    assert resources.configs_path() == ROOT / "configs"
    package = tmp_path / "site-packages" / "pyramid_seed"
    shutil.copytree(ROOT / "configs", package / "configs")
    (package / "assets" / "tiny").mkdir(parents=True)
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    assert resources.configs_path() == package / "configs"
    assert resources.embedded_model_path() == package / "assets" / "tiny"
    assert resources.resolve_model("embedded:tiny") == str(package / "assets" / "tiny")
    assert resources.resolve_model("rain1011/pyramid-flow-miniflux") == "rain1011/pyramid-flow-miniflux"
    assert presets.list_presets() == NAMES


def test_a_missing_folder_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "pyramid_seed" / "resources.py"))
    with pytest.raises(FileNotFoundError, match=r"assets/tiny is not there: looked at .*pyramid_seed.* and "):
        resources.embedded_model_path()


def test_a_variant_is_of_the_presets_own_model(tmp_path):
    """A folder that save_pretrained wrote has one transformer, and naming a variant of it is an error."""
    preset = load_preset("miniflux-384p")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "model_index.json").touch()
    (tmp_path / "original").mkdir()
    for model in (str(tmp_path / "saved"), "embedded:tiny"):
        assert with_settings(preset, {"model": model}).variant is None
        assert with_settings(preset, {"model": model, "variant": "768p"}).variant == "768p"
    for model in (str(tmp_path / "original"), "owner/name"):
        assert with_settings(preset, {"model": model}).variant == "384p"
    assert with_settings(preset, {"num_frames": 1}).variant == "384p"
