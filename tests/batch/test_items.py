"""Rows become items: defaults, conversions, and the reason for each row that cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from yaml import load

from pyramid_seed.batch.items import Defaults, items_from_rows, refuse_bad_rows
from pyramid_seed.batch.rows import BatchInputError, Row
from pyramid_seed.media.images import pixels_digest
from pyramid_seed.presets import load_preset
from pyramid_seed.resources import configs_path
from tests.cases import check_cases

DEFAULTS = Defaults()
HERE = Path()


def no_source(model, variant):
    pytest.fail(f"the files of {model} were read, and are not needed")


def items_of(*rows, defaults=DEFAULTS, folder=HERE, check=lambda item: None, source_of=no_source):
    numbered = [Row(line, values) for line, values in enumerate(rows, start=1)]
    return items_from_rows(numbered, defaults, where="list", folder=folder, source_of=source_of, check=check)


def reason_of(values, **options):
    items, bad = items_of(values, **options)
    assert items == []
    assert bad[0].where == "list, line 1"
    return bad[0].reason


def test_a_rows_values_replace_settings_which_replace_the_presets():
    defaults = Defaults("tiny", {"fps": 12, "guidance_scale": 5}, seeds=(1, 2))
    (first, second, third), bad = items_of(
        {"prompt": "a"}, {"prompt": "b", "fps": 6, "seed": 9}, defaults=defaults
    )
    assert bad == []
    assert [item.seed for item in (first, second, third)] == [1, 2, 9]
    assert (first.settings.fps, third.settings.fps) == (12, 6)
    assert third.settings.guidance_scale == 5
    assert third.settings.num_frames == load_preset("tiny").num_frames


def test_seeds_are_a_list_of_root_seeds():
    for seeds, error, words in (
        (5, TypeError, r"seeds must be a list of root seeds, got 5; use \[5\]"),
        ("12", TypeError, "seeds must be a list of root seeds, got '12'"),
        (None, TypeError, "seeds must be a list of root seeds, got None"),
        ([1, -1], ValueError, "seed must be in"),
        ([1.5], TypeError, "seed must be an int"),
    ):
        with pytest.raises(error, match=words):
            Defaults(seeds=seeds)


def test_a_row_may_name_a_preset():
    (item,), _ = items_of({"prompt": "a", "preset": "miniflux-384p"})
    assert item.settings == load_preset("miniflux-384p")


def test_text_of_a_csv_means_what_numbers_mean():
    as_text = {
        "prompt": "a",
        "seed": "1 18446744073709551615",
        "num_frames": "9",
        "guidance_scale": "4.5",
        "num_inference_steps": "2 3 4",
        "video_num_inference_steps": "2",
        "negative_prompt": "12",
    }
    as_values = {
        "prompt": "a",
        "seed": [1, 2**64 - 1],
        "num_frames": 9,
        "guidance_scale": 4.5,
        "num_inference_steps": [2, 3, 4],
        "video_num_inference_steps": 2,
        "negative_prompt": "12",
    }
    assert items_of(as_text) == items_of(as_values)
    assert len(items_of(as_text)[0]) == 2


def test_bad_rows_say_why():
    def is_refused(values, message):
        assert message in reason_of(values)

    cases = [
        ({}, "prompt must be non-empty text, got None"),
        ({"prompt": "  "}, "prompt must be non-empty text"),
        ({"prompt": 3}, "got 3"),
        ({"prompt": "a", "seed": -1}, "-1"),
        ({"prompt": "a", "seed": 2**64}, str(2**64)),
        ({"prompt": "a", "seed": "1.5"}, "whole number"),
        ({"prompt": "a", "seed": True}, "seed must be an int, got True"),
        ({"prompt": "a", "seed": []}, "at least one"),
        ({"prompt": "a", "sed": 1}, "unknown name 'sed'; did you mean 'seed'?"),
        ({"prompt": "a", "fps": "fast"}, "fps must be a number above 0, got 'fast'"),
        ({"prompt": "a", "height": "6.4"}, "height must be a whole number of at least 1, got 6.4; use 6"),
        ({"prompt": "a", "height": -64}, "height must be a whole number of at least 1, got -64; use 1"),
        ({"prompt": "a", "preset": "tinny"}, "did you mean 'tiny'"),
        ({"prompt": "a", "preset": 7}, "preset must be text"),
        ({"prompt": "a", "image": "nowhere.png"}, "nowhere.png"),
        ({"prompt": "a", "image": ""}, "image must be text"),
        ({"prompt": "a", "seed": "1 x"}, "seed must be a whole number in 0 .. 2**64 - 1, got 'x'"),
        ({"prompt": "a", "seed": "\u0663"}, "seed must be a whole number in 0 .. 2**64 - 1"),
        ({"prompt": "a", "seed": 1.5}, "seed must be an int, got 1.5"),
        ({"prompt": "a", "fps": "nan"}, "fps must be a number above 0, got nan"),
        ({"prompt": "a", "fps": None}, "fps must be a number above 0, got None"),
        ({"prompt": "a", "width": "64 64"}, "width must be a whole number of at least 1, got [64, 64]"),
        ({"prompt": "a", "num_inference_steps": "2 0 2"}, "or several, one per stage, got [2, 0, 2]"),
        ({"prompt": "a", "video": "a.mp4"}, "a batch makes no clips from videos"),
        ({"prompt": "a", "heigth": 64}, "unknown name 'heigth'; did you mean 'height'?"),
        ({"prompt": "a", 3: 64}, "unknown name 3"),
    ]
    check_cases(cases, is_refused)


def test_every_bad_row_is_reported_at_once():
    items, bad = items_of({"prompt": "a"}, {"prompt": ""}, {"prompt": "b"}, {"prompt": "c", "seed": -1})
    assert [row.where for row in bad] == ["list, line 2", "list, line 4"]
    assert len(items) == 2
    with pytest.raises(BatchInputError) as caught:
        refuse_bad_rows(bad, len(items), "list")
    assert len(caught.value.rows) == 2
    with pytest.raises(ValueError, match="list contains no prompts"):
        refuse_bad_rows([], 0, "list")


def test_what_rows_share_is_looked_up_and_checked_once(tmp_path, monkeypatch):
    """Not per row; what is equal but not the same, such as 1 and True, is told apart."""
    preset = tmp_path / "mine.yaml"
    preset.write_bytes((configs_path() / "tiny.yaml").read_bytes())
    parsed = []
    monkeypatch.setattr("yaml.load", lambda *given: parsed.append(1) or load(*given))
    checked = []
    rows = [{"prompt": f"boat {n}", "seed": n, "fps": 6, "preset": str(preset)} for n in range(50)]
    rows += [{"prompt": f"sea {n}", "preset": str(preset), "fps": "6"} for n in range(50)]
    items, bad = items_of(*rows, check=checked.append)
    assert (len(items), bad, len(parsed), len(checked)) == (100, [], 1, 2)
    assert len({id(item.settings) for item in items}) == 1
    items, bad = items_of({"prompt": "a", "scale": 1}, {"prompt": "b", "scale": True})
    assert (len(items), len(bad)) == (1, 1)


def test_more_ways_to_make_a_clip_than_are_remembered(monkeypatch):
    monkeypatch.setattr("pyramid_seed.batch.items.MOST_REMEMBERED", 2)
    rows = [{"prompt": "a", "seed": n, "negative_prompt": str(n % 5)} for n in range(20)]
    items, bad = items_of(*rows)
    assert bad == []
    assert [(item.seed, item.settings.negative_prompt) for item in items] == [
        (n, str(n % 5)) for n in range(20)
    ]


def test_what_the_model_refuses_is_a_bad_row():
    def check(item):
        if item.settings.num_frames == 10:
            raise ValueError("num_frames must be 8k + 1, got 10; use 9 or 17")

    reason = reason_of({"prompt": "a", "num_frames": 10}, check=check)
    assert reason == "num_frames must be 8k + 1, got 10; use 9 or 17"


def test_an_image_gives_the_size_and_is_known_by_its_pixels(tmp_path):
    image = Image.effect_noise((128, 64), 50).convert("RGB")
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    (first, second), bad = items_of(
        {"prompt": "a", "image": "a.png"}, {"prompt": "a", "image": "b.bmp"}, folder=tmp_path
    )
    assert bad == []
    assert (first.settings.height, first.settings.width) == (64, 128)
    assert first.image == (tmp_path / "a.png").resolve()
    assert first.image_digest == second.image_digest == pixels_digest(image)
    reason = reason_of({"prompt": "a", "image": "a.png", "height": 64, "width": 64}, folder=tmp_path)
    assert "64 x 64, got 64 x 128; resize it first" in reason


def test_an_image_that_cannot_be_read_is_a_bad_row(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    truncated = (tmp_path / "a.png").read_bytes()[:600]
    for data in (b"", b"no image", truncated):
        (tmp_path / "a.png").write_bytes(data)
        assert "cannot be read as an image" in reason_of({"prompt": "a", "image": "a.png"}, folder=tmp_path)
