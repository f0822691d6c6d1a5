"""Presets and the folders that come with the package."""

from __future__ import annotations

import inspect
import math
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from pyramid_seed import generate, presets, resources, run_batch, run_monitor, run_sweep
from pyramid_seed.cli import build_parser
from pyramid_seed.pipelines import PyramidFlowPipeline
from pyramid_seed.presets import (
    SETTINGS,
    Preset,
    Settings,
    list_presets,
    load_preset,
    pipeline_arguments,
    preset_of,
    with_settings,
)
from tests.cases import check_cases

ROOT = Path(__file__).parents[1]
HELIOS = ("helios-base", "helios-distilled", "helios-mid")
PYRAMID_FLOW = ("miniflux-384p", "miniflux-768p", "miniflux-image", "sd3-384p", "sd3-768p")
NAMES = (*HELIOS, *PYRAMID_FLOW, "tiny", "tiny-fast")


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
        assert field.name in ("name", "fit", "shards") or f"\n{field.name}: " in text
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


def test_recommended_settings_of_helios():
    base, distilled, mid = map(load_preset, HELIOS)
    for preset, title in ((base, "Base"), (distilled, "Distilled"), (mid, "Mid")):
        assert (preset.model, preset.variant) == (f"BestWishYsh/Helios-{title}", None)
        assert (preset.height, preset.width, preset.fps, preset.max_sequence_length) == (384, 640, 24, 512)
        assert preset.num_frames % 33 == 0
    assert (base.num_inference_steps, base.guidance_scale) == ((50,), 5.0)
    assert (mid.num_inference_steps, mid.guidance_scale) == ((20, 20, 20), 5.0)
    # Two steps a stage, twice as many in the first chunk, no guidance.
    steps = distilled.num_inference_steps, distilled.video_num_inference_steps
    assert (steps, distilled.guidance_scale) == (((4, 4, 4), (2, 2, 2)), 1.0)


def test_the_name_of_a_published_preset_says_model_and_variant():
    for name in PYRAMID_FLOW:
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


def test_a_file_may_start_from_a_preset_of_the_package(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: tiny-fast\nnum_frames: 33\nvideo_num_inference_steps: 3\n")
    base = load_preset("tiny-fast")
    wanted = {"name": "mine", "num_frames": 33, "video_num_inference_steps": (3, 3, 3)}
    assert load_preset(path) == replace(base, **wanted)
    for text, message in {
        "base: tiny-fats": "base must be a preset of the package, got 'tiny-fats'; did you mean 'tiny-fast'",
        f"base: {path}": "base must be a preset of the package",
        "base: [tiny]": "base must be a preset of the package",
        "base: tiny\nfpss: 3": "unknown setting 'fpss'; did you mean 'fps'",
        "base: tiny\nfps: fast": "fps must be a number above 0",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_preset(path)


def test_unknown_name():
    with pytest.raises(ValueError, match="no preset named 'miniflux-348p'; did you mean 'miniflux-384p'"):
        load_preset("miniflux-348p")
    with pytest.raises(FileNotFoundError):
        load_preset("nowhere.yaml")


MISTAKES = {
    (
        "\nguidance_scale:",
        "\nguidence_scale:",
    ): "unknown key 'guidence_scale'; did you mean 'guidance_scale'?",
    ("\nfps:", "\nframes_per_second:"): "unknown key 'frames_per_second'; did you mean '",
    ("\nfps: 8", "\nname: tiny\nfps: 8"): "unknown key 'name'",
    ("\nfps: 8", "\n3: 4"): "unknown key 3",
    ("\nfps: 8", ""): "missing fps",
    ("\nfps: 8", "\nfps: 8\nfps: 24"): "'fps' is given twice",
    ("\nfps: 8", "\nfps: [8"): "not a valid preset",
}
BROKEN = [
    ("fps", "a number above 0", ["fast", "8", 0, -1.0, 10**400, None, True, math.inf, math.nan, [8]]),
    ("height", "a whole number of at least 1", [64.5, True, 0, -64, "64", None, np.bool_(True), [64]]),
    ("scale", "a whole number of at least 1", [0, 1.5, None]),
    (
        "guidance_scale",
        "a number of at least 0",
        [-1, True, "7", None, math.nan, -math.inf, np.float32("nan")],
    ),
    ("guidance_decay", "a number of at least 0", [-0.5, False, math.inf]),
    (
        "num_inference_steps",
        "a whole number of at least 1, or several, one per stage",
        [[], [8, 0], 0, True, [True], "8", [8.0], None, [[8]], {8}],
    ),
    ("video_num_inference_steps", "a whole number of at least 1, or several, one per stage", [0, [0]]),
    ("dtype", "one of float32, bfloat16", ["float16", ["float32"], None, 32]),
    ("variant", "non-empty text", [384, ""]),
    ("model", "non-empty text", [None, "", Path("model")]),
    ("negative_prompt", "text", [5, None]),
]


def test_mistakes_in_a_file_name_file_key_and_value(tmp_path):
    def is_refused(change, message):
        path = changed(tmp_path, *change)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
            load_preset(path)

    check_cases(MISTAKES.items(), is_refused)


def test_a_value_that_breaks_its_rule_is_refused_everywhere():
    tiny = {name: value for name, value in asdict(load_preset("tiny")).items() if name != "name"}

    def is_refused(name, rule, value):
        message = f"^{name} must be {rule}, got "
        with pytest.raises(ValueError, match=message):
            with_settings(load_preset("tiny"), {name: value})
        with pytest.raises(ValueError, match=message):
            preset_of("mine", tiny | {name: value})

    check_cases([(name, rule, value) for name, rule, values in BROKEN for value in values], is_refused)


def test_the_nearest_good_value_is_named_where_there_is_one():
    def ends_with(name, value, end):
        with pytest.raises(ValueError, match=f"{re.escape(end)}$"):
            with_settings(load_preset("tiny"), {name: value})

    cases = [
        ("height", 64.5, "got 64.5; use 64"),
        ("height", np.int64(-3), "got -3; use 1"),
        ("num_frames", 16.7, "got 16.7; use 17"),
        ("guidance_scale", -1, "got -1; use 0"),
        ("guidance_decay", -0.7, "got -0.7; use 0"),
        ("dtype", "bf16", "got 'bf16'; use bfloat16"),
        ("fps", 0, "got 0"),
        ("fps", math.nan, "got nan"),
        ("height", True, "got True"),
        ("num_frames", 40_000_001, "at least 1 and at most 100000, got 40000001; use 100000"),
        ("num_inference_steps", [1, 10**6], "and at most 10000, got [1, 1000000]"),
        ("height", 10**6, "and at most 8192, got 1000000; use 8192"),
        ("max_sequence_length", 513, "and at most 512, got 513; use 512"),
        ("scale", 300, "and at most 64, got 300; use 64"),
        ("prompt_suffix", "a\udc80", "got the character U+DC80 at 2; leave it out"),
    ]
    check_cases(cases, ends_with)


def test_the_file_may_not_be_larger_than_its_codec_knows():
    with pytest.raises(ValueError, match="within 16384 pixels, got 64 for 768; use 21"):
        with_settings(load_preset("tiny"), {"width": 768, "scale": 64})


def test_numbers_of_numpy_are_numbers_and_steps_are_equal_in_every_form():
    tiny = load_preset("tiny")
    same = with_settings(tiny, {"height": 96, "fps": 12.5, "num_inference_steps": (2, 3, 4)})
    given = {
        "height": np.int64(96),
        "fps": np.float64(12.5),
        "num_inference_steps": [np.int32(2), 3, np.uint8(4)],
    }
    assert with_settings(tiny, given) == same
    assert hash(with_settings(tiny, given)) == hash(same)
    for value, kind in ((24, int), (24.0, float), (np.int16(24), int), (np.float32(24), float)):
        assert type(with_settings(tiny, {"fps": value}).fps) is kind


def test_one_number_of_steps_stands_for_every_stage(tmp_path):
    tiny = load_preset("tiny")
    assert with_settings(tiny, {"video_num_inference_steps": 2}).video_num_inference_steps == (2, 2, 2)
    two = with_settings(tiny, {"num_inference_steps": [4, 5], "video_num_inference_steps": np.int64(2)})
    assert (two.num_inference_steps, two.video_num_inference_steps) == ((4, 5), (2, 2))
    path = changed(tmp_path, "num_inference_steps: [8, 8, 8]\nvideo_", "num_inference_steps: 8\nvideo_")
    path.write_text(
        re.sub(r"\nvideo_num_inference_steps: .*", "\nvideo_num_inference_steps: 3", path.read_text())
    )
    own = load_preset(path)
    assert (own.num_inference_steps, own.video_num_inference_steps) == ((8, 8, 8), (3, 3, 3))


def test_files_that_are_no_mapping(tmp_path):
    deep, large = "[" * 50_000, "# " + "x" * 2**16
    billion = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop"))
    tags = ("!!python/object/apply:os.getcwd []", "fps: !!int ''", "model: !!binary aGk=", "<<: {fps: 8}")
    for text in (
        "",
        "- a\n- b\n",
        "? [a]\n: b",
        *tags,
        deep,
        billion,
        'a: "\\UFFFFFFFF"',
        f"fps: {'1' * 5000}",
    ):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"mine\.yaml is not a valid preset"):
            load_preset(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(large)
    with pytest.raises(ValueError, match=r"the preset .*mine\.yaml must be at most 64 KiB, and is larger"):
        load_preset(tmp_path / "mine.yaml")


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(TypeError, match="unknown setting 'heigth'; did you mean 'height'"):
        with_settings(load_preset("tiny"), {"heigth": 64})


def test_settings_for_type_checkers_are_the_settings():
    """`Settings` repeats the names of the fields: type checkers read no dataclass as keywords."""
    kinds = get_type_hints(Settings)
    assert (
        set(kinds)
        == set(SETTINGS)
        == {field.name for field in fields(Preset)}
        - {*("name", "description", "trained_sizes", "trained_frames")}
    )
    can_be_none = {name for name, kind in kinds.items() if type(None) in get_args(kind)}
    assert can_be_none == {name for name, field in SETTINGS.items() if type(None) in get_args(field.type)}


def test_every_setting_is_described_once_for_people():
    """`help()` of a function with **settings and the command line say the same sentence."""
    for function in (generate, run_batch, run_sweep, run_monitor, Preset):
        text = inspect.getdoc(function)
        missing = [name for name, field in SETTINGS.items() if f"    {name}: {field.help}." not in text]
        assert not missing, function
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    actions = commands.choices["generate"]._actions
    options = {option: action.help for action in actions for option in action.option_strings}
    for field in SETTINGS.values():
        assert field.reader in ("model", "pipeline", "image", "file")
        assert options[field.option] == field.help


def test_the_page_has_every_key():
    script = runpy.run_path(str(ROOT / "scripts" / "preset_table.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert page == script["with_current_table"](page), "run PYTHONPATH=. python scripts/preset_table.py"


def test_the_pipeline_gets_what_it_reads():
    tiny = load_preset("tiny")
    arguments = pipeline_arguments(tiny)
    parameters = inspect.signature(PyramidFlowPipeline.__call__).parameters
    assert set(arguments) <= set(parameters)
    assert arguments.keys() == SETTINGS.keys() - {"model", "variant", "dtype", "fit", "fps", "scale"}
    assert arguments["num_inference_steps"] == [8, 8, 8]


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
    with pytest.raises(FileNotFoundError, match=r"assets is not there: looked at .*pyramid_seed.* and "):
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
