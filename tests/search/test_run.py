"""Searches with a real model: the winner is an ordinary clip, and every forgery is found."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from pyramid_seed import Branch, generate, run_search, verify_search
from pyramid_seed.cli import main
from pyramid_seed.media.video import write_video
from pyramid_seed.provenance.manifest import manifest_json, read_manifest
from pyramid_seed.reproduce import verify
from pyramid_seed.search.record import SearchRecord, sealed, write_record
from pyramid_seed.search.rounds import exact_frames
from pyramid_seed.search.tree import child_root, decisions


@dataclass(frozen=True)
class Brightness:
    """A scorer that fails for some clips."""

    name: str = "brightness"
    version: str = "1"
    digest: str | None = None

    def score(self, frames, prompt):
        assert prompt == "a boat"
        mean = float(frames.mean())
        if int(mean * 1000) % 7 == 0:
            return float("nan")
        return mean


TREE = {"scorer": Brightness(), "num_candidates": 3, "keep": 2, "branching": 2, "at": (1, 2), "seed": 42}


@pytest.fixture(scope="module")
def settings(quick):
    return {**quick, "num_frames": 17, "device": "cpu", "scale": 1}


@pytest.fixture(scope="module")
def searched(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched") / "new"
    return folder, run_search("a boat", folder, **TREE, **settings)


def test_the_winner_is_the_clip_of_generate(searched, settings):
    folder, summary = searched
    won = summary.record.winner
    branches = [Branch(each.from_unit, int(each.seed)) for each in won.branches]
    path = tuple(map(int, won.path.split("/")))
    assert int(won.seed) == child_root(42, path[:1])
    assert branches == [Branch(1, child_root(42, path))]
    clip = generate("a boat", seed=int(won.seed), branches=branches, **settings)
    assert clip.digest == won.frames == read_manifest(folder / "winner.mp4")["digests"]["frames"]
    assert verify(folder / "winner.mp4", model=settings["model"], progress=False).same
    assert sorted(path.name for path in folder.iterdir()) == [
        "candidates",
        "search.html",
        "search.json",
        "winner.mp4",
    ]


def test_nothing_is_made_twice(searched):
    """Every candidate but the first ones goes on from its parent's units."""
    lines = (searched[0] / "candidates" / "index.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    resumed = {(entry["num_frames"], entry["resumed_units"]) for entry in entries}
    assert resumed == {(1, 0), (9, 1), (17, 2)}


def test_scores_are_of_the_exact_frames(searched, settings):
    row = searched[1].record.candidates[1]
    frames = generate("a boat", seed=int(row.seed), **{**settings, "num_frames": 1}).frames
    assert row.score == float(frames.mean())


@pytest.mark.slow
def test_the_same_search_again_is_the_same_record(searched, settings, tmp_path):
    folder, _ = searched
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("search.json", "winner.mp4", "search.html"):
        (copy / name).unlink()
    next((copy / "candidates").glob("*.mp4")).unlink()
    run_search("a boat", copy, **TREE, **settings)
    assert (copy / "search.json").read_bytes() == (folder / "search.json").read_bytes()
    assert (copy / "winner.mp4").read_bytes() == (folder / "winner.mp4").read_bytes()


def checked(folder, settings, **more):
    given = {"scorer": Brightness(), "model": settings["model"], "progress": False, **more}
    return verify_search(folder / "winner.mp4", folder / "search.json", **given)


def test_the_choice_is_proven(searched, settings):
    found = checked(searched[0], settings)
    assert (found.verdict, found.problems, found.differing) == ("proven", (), ())
    assert [each.verdict for each in found.decisions] == ["proven", "proven"]
    sampled = checked(searched[0], settings, sample=1)
    assert sampled.same
    assert len(sampled.sample.units) == 1


@pytest.mark.slow
def test_an_altered_score_and_a_forged_candidate_are_found(searched, settings, tmp_path):
    """Even where root, margins and the winner's manifest are made to fit."""
    folder, summary = searched
    dropped = [row.path for row in summary.record.candidates if not row.kept and row.score is not None][-1]

    def alter(record):
        row = next(row for row in record["candidates"] if row["path"] == dropped)
        row["score"] -= 100.0

    def forge(record):
        row = next(row for row in record["candidates"] if row["path"] == dropped)
        row["frames"] = "0" * 64

    for change, message in ((alter, "its score is"), (forge, "its frames come out differently")):
        copy = shutil.copytree(folder, tmp_path / change.__name__)
        forge_whole(copy, change)
        found = checked(copy, settings)
        assert found.verdict == "differs"
        assert any(message in note for note in found.differing), found
        assert all(note.startswith(f"candidate {dropped}:") for note in found.differing)


def forge_whole(folder, change):
    """Change a record and whatever follows from it by arithmetic alone, up to the winner's manifest."""
    text = json.loads((folder / "search.json").read_text())
    change(text)
    changed = msgspec.convert(text, SearchRecord)
    tried = {row.node(row.path).path: row for row in changed.candidates}
    rounds = decisions(changed.settings.tree(), lambda nodes: {n.path: tried[n.path].score for n in nodes})
    whole = sealed(changed.settings, changed.scorer, rounds, tried, changed.winner, "winner.mp4")
    write_record(folder / "search.json", whole)
    seal_clip(folder, whole.merkle_root)


def seal_clip(folder, root):
    winner = folder / "winner.mp4"
    manifest = read_manifest(winner)
    finished = next(
        path
        for path in (folder / "candidates").glob("*.mp4")
        if read_manifest(path)["digests"]["frames"] == manifest["digests"]["frames"]
    )
    comment = manifest_json(manifest | {"search": {"merkle_root": root}})
    write_video(winner, exact_frames(finished), 8, comment=comment, overwrite=True)


def test_a_score_that_is_altered_by_hand_is_found_at_once(searched, settings, tmp_path):
    copy = shutil.copytree(searched[0], tmp_path / "altered")
    record = json.loads((copy / "search.json").read_text())
    record["candidates"][-1]["score"] = 1e6
    (copy / "search.json").write_text(json.dumps(record))
    found = checked(copy, settings)
    assert found.verdict == "differs"
    assert found.problems[0].startswith("the record contradicts itself: ")


def test_a_swapped_winner_is_found(searched, settings, tmp_path):
    copy = shutil.copytree(searched[0], tmp_path / "swapped")
    other = generate("a boat", seed=5, **settings)
    other.save(copy / "winner.mp4", overwrite=True)
    found = checked(copy, settings)
    assert found.verdict == "differs"
    assert "the clip's manifest names no search" in found.problems[0]
    assert any("the clip is not the winner: its frames differ" in problem for problem in found.problems)
    assert found.decisions == ()


def test_scorers_are_not_loaded_because_a_file_says_so(searched, settings, tmp_path):
    copy = shutil.copytree(searched[0], tmp_path / "copy")
    forge_whole(copy, lambda record: record["scorer"].update(name="os:getcwd"))
    with pytest.raises(ValueError, match="if you trust it, name it: --scorer os:getcwd"):
        checked(copy, settings, scorer=None)
    with pytest.raises(ValueError, match="the scorer must be 'os:getcwd'"):
        checked(copy, settings)


@pytest.mark.slow
def test_a_clip_is_extended(searched, settings, tmp_path):
    made = generate("a boat", seed=3, **{**settings, "num_frames": 9})
    clip = made.save(tmp_path / "boat.mp4")
    more = {"num_candidates": 2, "at": (3,), "model": settings["model"], "num_frames": 17, "progress": False}
    summary = run_search(None, tmp_path / "longer", scorer=Brightness(), extend=clip, **more)
    won = summary.record.winner
    assert won.seed == "3"
    assert [each.from_unit for each in won.branches] == [2]
    assert won.units[:2] == tuple(made.manifest["digests"]["units"])
    assert checked(tmp_path / "longer", settings).verdict == "proven"
    with pytest.raises(ValueError, match="with its own settings: give num_frames and no other"):
        run_search(None, tmp_path / "x", scorer="sharpness", extend=clip, num_frames=17, fps=3)
    with pytest.raises(ValueError, match="has its own determinism, 'strict', got 'relaxed'; leave it out"):
        run_search(None, tmp_path / "x", scorer="sharpness", extend=clip, determinism="relaxed", **more)


@pytest.mark.slow
def test_a_clip_that_begins_with_an_image_is_searched(settings, tmp_path):
    image = Path(__file__).parents[1] / "reference" / "i2v_input.png"
    size = {"fit": "crop", "image": image}
    folder = tmp_path / "searched"
    summary = run_search("a boat", folder, **{**TREE, "at": (2, 3), **settings, **size})
    assert len(summary.record.candidates) == 3 + 2 * 2
    assert summary.record.winner.path.count("/") == 1
    found = verify_search(
        folder / "winner.mp4",
        folder / "search.json",
        scorer=Brightness(),
        model=settings["model"],
        image=image,
        progress=False,
    )
    assert found.verdict == "proven"


def test_what_cannot_be_searched_is_refused_before_anything_is_made(settings, tmp_path):
    image = Path(__file__).parents[1] / "reference" / "i2v_input.png"
    for more, message in (
        ({"at": (4,)}, r"at must be rising numbers of units in 1 .. 3, got 4; use 3"),
        ({"keep": 9}, "keep must be at most width, 3"),
        ({"scorer": "sharpnes"}, "did you mean 'sharpness'"),
        ({"image": image, "fit": "crop"}, "at must begin at 2 or later with an image"),
    ):
        with pytest.raises(ValueError, match=message):
            run_search("a boat", tmp_path / "none", **{**TREE, **settings, **more})
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_command(settings, tmp_path, capsys):
    options = ["--variant", "384p", "--preset", "tiny", "--num-frames", "9", "--scale", "1"]
    options += [
        "--num-inference-steps",
        "1",
        "--video-num-inference-steps",
        "1",
        "--device",
        "cpu",
    ]
    output = str(tmp_path / "best")
    tree = ["--scorer=-flicker+0.5*motion", "--width", "2", "--at", "2"]
    search = ["search", "a boat", *tree, "-o", output]
    assert main([*search, "--model", settings["model"], *options]) == 0
    out, err = capsys.readouterr()
    assert "winner.mp4" in out
    told = [line.split(":")[0] for line in err.splitlines() if line.startswith(("budget", "time", "round"))]
    assert told == ["budget", "time", "round 1 of 1"]
    assert re.search(
        r"^time: about \d+ s left, at the pace so far; best of all 2 would take \d+ s$", err, re.M
    )
    verify_it = ["verify", f"{output}/winner.mp4", "--search", f"{output}/search.json", "--quiet"]
    assert main([*verify_it, "--model", settings["model"]]) == 0
    assert capsys.readouterr().out.endswith("PROVEN\n")
    assert main(["show", f"{output}/winner.mp4"]) == 0
    assert "the winner of the one with Merkle root" in capsys.readouterr().out
