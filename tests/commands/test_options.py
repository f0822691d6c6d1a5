"""Options that several commands share."""

from __future__ import annotations

import pytest

from pyramid_seed.cli import build_parser
from pyramid_seed.commands.options import run_options_from, settings_from
from pyramid_seed.presets import SETTINGS, load_preset, with_settings
from pyramid_seed.run_options import RUN_OPTIONS, RunOptions

MAKING = (["generate", "a star"], ["batch", "list.txt", "-o", "clips"], ["sweep", "a star", "-o", "seeds"])
GIVEN = {
    "device": "cuda:1",
    "noise_device": "cuda",
    "determinism": "relaxed",
    "attention": "reference",
    "text_encoders": "offload",
}


def parsed(*arguments):
    return build_parser().parse_args([*arguments])


def test_every_command_that_makes_clips_takes_every_running_option():
    words = [word for name, value in GIVEN.items() for word in (RUN_OPTIONS[name].option, value)]
    for command in MAKING:
        assert run_options_from(parsed(*command)) == RunOptions(), command
        assert run_options_from(parsed(*command, *words, "--workers", "3", "--compile")) == RunOptions(
            **GIVEN, workers=3, compile=True
        )
    assert RunOptions(attention="prefix").arguments() == {
        "noise_device": "cpu",
        "determinism": "strict",
        "attention": "prefix",
        "compile": False,
        "text_encoders": "keep",
    }


def test_encoders_that_many_clips_need_are_not_freed():
    assert run_options_from(parsed(*MAKING[0], "--text-encoders", "free")).text_encoders == "free"
    for command in MAKING[1:]:
        with pytest.raises(SystemExit):
            parsed(*command, "--text-encoders", "free")


def test_every_setting_has_its_option_and_means_what_a_value_means():
    values = {
        "model": "folder",
        "variant": "768p",
        "dtype": "bfloat16",
        "negative_prompt": "12",
        "prompt_suffix": ", a film",
        "height": 96,
        "width": 128,
        "num_frames": 9,
        "fps": 12.5,
        "num_inference_steps": (2, 3, 4),
        "video_num_inference_steps": 2,
        "guidance_scale": 4,
        "video_guidance_scale": 3.5,
        "guidance_decay": 0.25,
        "min_guidance_scale": 1e-3,
        "max_sequence_length": 64,
        "shards": 3,
        "fit": "pad",
        "scale": 2,
    }
    assert values.keys() == SETTINGS.keys()
    given = []
    for name, value in values.items():
        given += [SETTINGS[name].option, *map(str, value if isinstance(value, tuple) else [value])]
    for command in MAKING:
        assert settings_from(parsed(*command)) == {}
        settings = settings_from(parsed(*command, *given))
        assert with_settings(load_preset("tiny"), settings) == with_settings(load_preset("tiny"), values)
        assert type(settings["guidance_scale"]) is int


def test_only_words_that_are_known_are_taken(capsys):
    for option, word in (("--dtype", "float16"), ("--determinism", "lax"), ("--attention", "dense")):
        with pytest.raises(SystemExit):
            parsed("generate", "a star", option, word)
        assert f"invalid choice: '{word}'" in capsys.readouterr().err
