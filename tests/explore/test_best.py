"""The best seed of a prompt, and its clip made longer."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pyramid_seed import read_manifest
from pyramid_seed.cli import main
from pyramid_seed.explore.best import best_clips
from pyramid_seed.media.video import read_video

from .sweeps import OPTIONS, PROMPTS


def test_the_largest_or_the_smallest_is_best_per_prompt(swept):
    findings = swept[1].findings
    for order, choose in (("motion", max), ("-motion", min)):
        best = best_clips(findings, order)
        assert [clip.prompt for clip in best] == [prompt.prompt for prompt in findings.prompts]
        expected = [choose(clip.values["motion"] for clip in prompt.clips) for prompt in findings.prompts]
        assert [clip.values["motion"] for clip in best] == expected


def test_of_equal_ones_the_first_is_best_and_undefined_ones_never(swept):
    (prompt, _) = swept[1].findings.prompts
    values = [{**prompt.clips[0].values, "ti": ti} for ti in (None, 2.0, 2.0)]
    clips = tuple(replace(clip, values=each) for clip, each in zip(prompt.clips, values, strict=True))
    findings = replace(swept[1].findings, prompts=(replace(prompt, clips=clips),))
    assert best_clips(findings, "ti") == best_clips(findings, "-ti") == [clips[1]]
    findings = replace(findings, prompts=(replace(prompt, clips=clips[:1]),))
    with pytest.raises(ValueError, match="ti is not defined for any clip"):
        best_clips(findings, "ti")


def test_its_clip_is_made_longer_with_the_same_beginning(swept, tmp_path, capsys):
    folder = shutil.copytree(swept[0], tmp_path / "seeds")
    command = ["sweep", PROMPTS[0], "--seeds", "0,1,7", "-o", str(folder), *OPTIONS]
    assert main([*command, "--best=-motion", "--extend", "9"]) == 0
    (best, _) = best_clips(swept[1].findings, "-motion")
    (longer,) = (folder / "best").iterdir()
    assert f"best        seed {best.seed}: {longer}" in capsys.readouterr().out
    manifest = read_manifest(longer)
    assert (manifest["seed"], manifest["settings"]["num_frames"]) == (str(best.seed), 9)
    assert manifest["digests"]["chunks"][:2] == read_manifest(best.path)["digests"]["chunks"]
    assert np.shape(read_video(longer)[0])[0] == 9
