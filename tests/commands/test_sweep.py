"""`pyramid-seed sweep`, as far as it comes without making a clip."""

from __future__ import annotations

import importlib.util
import re

from pyramid_seed.cli import main


def test_bad_input_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = {
        ("nowhere.txt",): "nowhere.txt",
        ("a", "--seeds", "5-2"): "use 2-5",
        ("a", "--seeds", "x"): "such as 0-15",
        ("a b", "a b"): "given twice",
        ("a", "red", "circle"): "put a prompt into quotes",
        (" ",): "must not be empty",
        ("a", "--against", "nowhere"): "measures.json",
        ("a", "--num-frames", "10"): "use 9 or 13",
        ("a", "--preset", "tny"): "tiny",
        ("a", "--num-processes", "2"): "torchrun",
        ("a", "--best", "motion"): "--best and --extend belong together",
        ("a", "--best", "moton", "--extend", "21"): "use motion",
        ("a", "--best=-flicker", "--extend", "20"): "use 17 or 21",
        ("a", "--best", "motion", "--extend", "13"): "extend must be above 17, .* got 13; use 21",
    }
    offenders = {}
    for arguments, expected in words.items():
        status = main(["sweep", *arguments, "-o", "out"])
        message = capsys.readouterr().err
        if status != 2 or not re.search(expected, message):
            offenders[arguments] = message
    assert offenders == {}
    assert not list(tmp_path.rglob("*.mp4"))
    assert not (tmp_path / "out" / "report").exists()


def test_a_missing_extra_is_named_with_the_command(tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    hide = {"cv2", "skimage"}
    monkeypatch.setattr(
        "pyramid_seed.extras.find_spec", lambda name: None if name in hide else find_spec(name)
    )
    assert main(["sweep", "a", "-o", str(tmp_path / "out")]) == 2
    assert '.[report]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
