"""`pyramid-seed diff`."""

from __future__ import annotations

from pyramid_seed import generate
from pyramid_seed.cli import main


def test_it_says_where_two_clips_part(saved, quick, tmp_path, capsys):
    assert main(["diff", str(saved), str(saved)]) == 0
    assert capsys.readouterr().out.endswith("SAME CLIP\n")
    longer = generate("a boat", seed=2**64 - 1, **quick | {"num_frames": 17})
    other = longer.save(tmp_path / "longer.mp4")
    assert main(["diff", str(other), str(saved)]) == 1
    shown = capsys.readouterr().out
    assert "num_frames: 17 | 9" in shown
    assert shown.endswith("DIFFERENT: B is the beginning of A (2 of 3 units)\n")
    assert main(["diff", str(saved), str(tmp_path / "gone.mp4")]) == 2
    assert "gone.mp4 does not exist" in capsys.readouterr().err


def test_control_characters_of_a_foreign_manifest_are_not_printed(saved, tampered, capsys):
    def change(manifest):
        manifest["prompt"] = "\x1b[2J"
        manifest["weights"][0]["file"] = "\x1b[31m"
        manifest["digests"]["text"]["prompt"] = "\x07"

    assert main(["diff", str(saved), str(tampered(change))]) == 1
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert "\x07" not in shown
