"""`pyramid-seed batch`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramid_seed.cli import main


@pytest.fixture
def settings(quick):
    left_out = ("progress", "height", "width", "num_frames")
    return {name: value for name, value in quick.items() if name not in left_out}


def options_of(settings):
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def test_it_makes_what_is_missing(tmp_path, settings, capsys):
    (tmp_path / "list.txt").write_text("a boat\na boat\na sea\n")
    size = {"height": 64, "width": 64, "num_frames": 1}
    command = ["batch", str(tmp_path / "list.txt"), "-o", str(tmp_path / "clips")]
    command += [*options_of({**settings, **size}), "--seed", "1", "2"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "4 made, 2 listed twice" in captured.out
    assert "4/4 clips, 12/12 steps" in captured.err
    assert main([*command, "--quiet", "--check-files", "--folders"]) == 0
    captured = capsys.readouterr()
    assert "4 there already" in captured.out
    assert "clips" not in captured.err
    assert main([*command, "--num-processes", "2"]) == 2
    assert "torchrun" in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none.txt"), "-o", str(tmp_path / "clips")]) == 2
    assert f"the list {tmp_path / 'none.txt'} does not exist" in capsys.readouterr().err


def test_it_tells_what_failed_and_how_to_go_on(tmp_path, settings, capsys):
    (tmp_path / "list.csv").write_text("prompt,guidance_scale,num_inference_steps\na,1e38,4\nb,,\n")
    size = {"height": 64, "width": 64, "num_frames": 1}
    command = ["batch", str(tmp_path / "list.csv"), "-o", str(tmp_path / "clips")]
    assert main([*command, *options_of({**settings, **size})]) == 1
    captured = capsys.readouterr()
    assert "FloatingPointError: latents are not finite after unit 0" in captured.err
    assert "1 made, 1 failed" in captured.out
    assert "run the same command again" in captured.out


def test_parts_are_made_and_gathered(tmp_path, settings, capsys):
    (tmp_path / "list.csv").write_text("prompt,num_frames\na boat,\na sea,\na tree,\na cat,10\n")
    size = {"height": 64, "width": 64, "num_frames": 1}
    folder = ["-o", str(tmp_path / "clips")]
    command = ["batch", str(tmp_path / "list.csv"), *folder, *options_of({**settings, **size}), "--quiet"]
    gather = ["batch", "--gather", *folder]
    assert main(gather) == 2
    assert main([*command, "--part", "0/2"]) == 2  # a row is bad
    assert main([*command, "--keep-going", "--part", "1/2"]) == 0
    assert "index" not in capsys.readouterr().out
    assert main(gather) == 1
    told = capsys.readouterr().out
    assert "run again   0 (there are 2 parts, from 0)" in told
    assert f"index       {tmp_path / 'clips' / 'index.jsonl'}" in told
    assert main([*command, "--keep-going", "--part", "0/2"]) == 1  # whose the bad row is
    capsys.readouterr()
    assert main(gather) == 1
    captured = capsys.readouterr()
    assert "clips       3 there, 1 failed\n" in captured.out
    assert "run again" not in captured.out  # which would not help
    assert f"failed  {tmp_path / 'list.csv'}, line 5: " in captured.err


def test_what_does_not_go_together_is_refused(tmp_path, capsys):
    folder = ["-o", str(tmp_path / "clips")]
    for arguments, message in (
        ([], "LIST is missing"),
        (["list.txt", "--gather", "--preset", "tiny"], "leave out LIST, --preset"),
        (["list.txt", "--part", "2/2"], "must be at most 1, got 2; use 1"),
    ):
        assert main(["batch", *arguments, *folder]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "clips").exists()


def test_a_list_that_is_refused_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"prompt": "a", "num_frames": 10}\n')
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    for source, folder in (("nothere.txt", "new"), ("bad.jsonl", "new/er"), ("bad.jsonl", "mine")):
        assert main(["batch", source, "-o", folder]) == 2
    assert main(["sweep", "a boat", "-o", "new/er", "--num-frames", "10"]) == 2
    assert main(["sweep", "a boat", "-o", "mine", "--num-frames", "10"]) == 2
    assert not Path("new").exists()
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]
    assert Path("mine/notes.txt").exists()
