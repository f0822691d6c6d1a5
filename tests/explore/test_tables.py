"""The findings of a sweep as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from pyramid_seed.explore.measures import MEASURES
from pyramid_seed.explore.prompts import Prompt
from pyramid_seed.explore.tables import findings_csv, read_measures

from .sweeps import PROMPTS, SEEDS, tree_of


def test_json_and_csv_agree(swept):
    tree = tree_of(swept[0])
    with (swept[0] / "report" / "measures.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(row["prompt"], row["seed"]) for row in tree["clips"]] == [
        (prompt, str(seed)) for prompt in PROMPTS for seed in SEEDS
    ]
    for row, line in zip(tree["clips"], lines, strict=True):
        assert [line[name] for name in ("prompt", "seed", "file", "digest")] == [
            row[name] for name in ("prompt", "seed", "file", "digest")
        ]
        assert (swept[0] / "report" / row["file"]).is_file()
        for measure in MEASURES:
            value = row["measures"][measure.name]
            assert line[measure.name] == ("" if value is None else str(value))


def test_a_spreadsheet_computes_no_prompt(swept):
    prompts = {
        text: f"'{text}" for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1")
    }
    prompts["a = 1"] = "a = 1"
    found = swept[1].findings
    for prompt, cell in prompts.items():
        one = replace(found, prompts=(replace(found.prompts[0], prompt=Prompt(prompt, prompt)),))
        row = next(csv.DictReader(io.StringIO(findings_csv(one, "clips"), newline="")))
        assert (row["prompt"], row["image"], row["seed"]) == (cell, cell, "0")
        drift = found.prompts[0].clips[0].values["sharpness_drift"]
        assert row["sharpness_drift"] == str(drift), "numbers stay numbers, also below 0"


def test_the_json_says_what_was_found(swept):
    tree = tree_of(swept[0])
    assert tree["settings"]["num_frames"] == 5
    assert tree["variance"]["seeds"] == ["0", "1", "7"]
    shares = tree["variance"]["shares"]
    assert shares["black_frames"] is None
    assert sum(shares["sharpness"].values()) == pytest.approx(1)
    motions = [row["measures"]["motion"] for row in tree["clips"]]
    assert tree["between_seeds"][0]["spread"]["motion"]["std"] == pytest.approx(np.std(motions[:3], ddof=1))
    assert 0 < tree["between_seeds"][0]["pairwise_ssim"] < 1


def test_measures_of_the_version_before_are_read(swept, tmp_path):
    """Version 1 called the share of the interaction by another name."""
    tree = tree_of(swept[0])
    for shares in filter(None, tree["variance"]["shares"].values()):
        shares["interplay"] = shares.pop("interaction")
    (tmp_path / "measures.json").write_text(json.dumps(tree | {"schema_version": 1}))
    measures = read_measures(tmp_path / "measures.json", lossless=False)
    assert measures == read_measures(swept[0] / "report" / "measures.json", lossless=False)
    assert set(measures) == {(Prompt(prompt), seed) for prompt in PROMPTS for seed in SEEDS}
    (tmp_path / "measures.json").write_text(json.dumps(tree | {"schema_version": 3}))
    with pytest.raises(ValueError, match=r"no measures of a sweep of this version: .*version 3"):
        read_measures(tmp_path / "measures.json", lossless=False)
