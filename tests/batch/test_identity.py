"""A clip is named by its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pyramid_seed.batch import identity
from pyramid_seed.batch.entries import read_entry
from pyramid_seed.batch.identity import (
    Job,
    beginning_keys,
    in_order,
    jobs_from_json,
    jobs_to_json,
    shared_content,
)
from pyramid_seed.batch.items import BatchItem
from pyramid_seed.checkpoints.digests import weights_key
from pyramid_seed.loading import LoraToLoad
from pyramid_seed.noise import Branch
from pyramid_seed.presets import Preset, load_preset

GOLDEN = "1291f8a8c1af317b9f31fd31fcb999eef3c4f51a3753498202fdda1a9694d2fe"
ITEM = BatchItem("a boat", 3, load_preset("tiny"))
LORA = LoraToLoad("lora_0", Path("style.safetensors"), 0.7, "a" * 64)


def key_of(item=ITEM, weights="w", **run):
    shared = shared_content(item, weights, **{"noise_device": "cpu", "determinism": "strict", **run})
    return identity.key_of(item, shared)


def test_the_key_is_a_fixed_function_of_the_content():
    """Renaming clips would make everything again: a change of this digest must be meant."""
    settings = Preset(
        name="p",
        model="m",
        dtype="float32",
        height=64,
        width=128,
        num_frames=17,
        fps=8,
        num_inference_steps=(1, 2, 3),
        guidance_scale=7,
        max_sequence_length=32,
        negative_prompt="é",
    )
    item = BatchItem("a boat", 3, settings)
    assert identity.key_of(item, shared_content(item, "w", lossless=False)) == GOLDEN


def test_other_content_has_another_key():
    settings = {
        "num_frames": 25,
        "height": 128,
        "fps": 9.0,
        "scale": 1,
        "dtype": "bfloat16",
        "guidance_scale": 3.5,
        "video_guidance_scale": 3.5,
        "num_inference_steps": (8, 8, 9),
        "video_num_inference_steps": (8, 8, 9),
        "guidance_decay": 0.0,
        "negative_prompt": "x",
        "prompt_suffix": "x",
        "max_sequence_length": 33,
    }
    others = {
        "prompt": replace(ITEM, prompt="a boat "),
        "seed": replace(ITEM, seed=4),
        "image_digest": replace(ITEM, image_digest="0" * 64),
        "lora": replace(ITEM, loras=(LORA,)),
        "scale of a LoRA": replace(ITEM, loras=(replace(LORA, scale=0.5),)),
        "file of a LoRA": replace(ITEM, loras=(replace(LORA, sha256="b" * 64),)),
        "two LoRAs": replace(ITEM, loras=(LORA, replace(LORA, scale=0.5))),
        "the order of LoRAs": replace(ITEM, loras=(replace(LORA, scale=0.5), LORA)),
    } | {
        name: replace(ITEM, settings=replace(ITEM.settings, **{name: value}))
        for name, value in settings.items()
    }
    keys = {name: key_of(item) for name, item in others.items()}
    assert [name for name, key in keys.items() if key == key_of()] == []
    assert len(set(keys.values())) == len(keys)


def test_weights_and_run_are_content():
    keys = {key_of(), key_of(weights="v"), key_of(determinism="relaxed"), key_of(noise_device="cuda")}
    assert len(keys) == 4


def test_names_and_ways_to_write_are_not_content():
    for same in (
        {"name": "mine", "description": "another", "model": "/somewhere/else", "variant": "384p"},
        {"guidance_scale": 2, "fps": 8.0},
        {"video_num_inference_steps": None},
    ):
        assert key_of(replace(ITEM, settings=replace(ITEM.settings, **same))) == key_of(), same
    assert key_of(replace(ITEM, image=Path("/elsewhere.png"))) == key_of()
    with_lora = replace(ITEM, loras=(LORA,))
    elsewhere = replace(ITEM, loras=(replace(LORA, adapter="b", file=Path("/elsewhere.safetensors")),))
    assert key_of(with_lora) == key_of(elsewhere)


def test_guidance_of_all_units_is_the_same_content_said_once_or_twice():
    once = replace(ITEM.settings, guidance_scale=3.0, video_guidance_scale=None)
    twice = replace(once, video_guidance_scale=3.0)
    assert key_of(replace(ITEM, settings=once)) == key_of(replace(ITEM, settings=twice)) != key_of()


def test_weights_are_known_by_names_and_digests():
    rows = [{"file": "a", "size": 1, "sha256": "x"}, {"file": "b", "size": 2, "sha256": "y"}]
    assert weights_key(rows) == weights_key([{**row, "size": 9} for row in rows])
    assert weights_key(rows) != weights_key([rows[0], {**rows[1], "sha256": "z"}])


@given(st.text())
def test_any_prompt_gives_a_safe_file_name(prompt):
    name = Job(replace(ITEM, prompt=prompt), "f" * 64, (1,)).file
    assert Path(name).name == name
    assert len(name.encode()) < 120
    assert read_entry(json.dumps({"file": name, "status": "failed", "id": "f" * 16, "reason": ""}).encode())
    assert not name.startswith((".", "-", "_"))


def test_names_carry_the_seed_and_the_key():
    assert Job(ITEM, "0123456789abcdef" * 4, (1,)).file == "a-boat_seed3_0123456789abcdef.mp4"
    long = Job(replace(ITEM, prompt="x" * 99), "f" * 64, (1,))
    assert long.file == f"{'x' * 48}_seed3_{'f' * 16}.mp4"


def test_jobs_survive_the_way_to_other_processes():
    jobs = [
        Job(ITEM, "a" * 64, (3, 2)),
        Job(replace(ITEM, prompt="é\n\0", image=Path("/a b.png"), image_digest="x"), "b" * 64, (0, 2)),
        Job(replace(ITEM, loras=(LORA,)), "c" * 64, (1,)),
    ]
    assert jobs_from_json(jobs_to_json(jobs)) == jobs


def test_the_longest_come_first_model_by_model():
    def job(key, steps, model="m", height=64):
        settings = replace(ITEM.settings, model=model, height=height)
        return Job(replace(ITEM, settings=settings), key, (steps,))

    jobs = [job("a", 1), job("b", 3), job("c", 2, height=128), job("d", 5, "n"), job("e", 3)]
    assert [job.key for job in in_order(jobs)] == ["c", "b", "e", "a", "d"]
    assert in_order(jobs[::-1]) == in_order(jobs)
    # Each LoRA is loaded once.
    styled = [replace(job, item=replace(job.item, loras=(LORA,))) for job in (jobs[0], jobs[4])]
    assert [bool(job.item.loras) for job in in_order([*jobs[:3], *styled])] == [False] * 3 + [True] * 2


def test_branches_are_part_of_the_content():
    """As hashed as a whole: the branches' place in the canonical JSON is the first."""
    parted = replace(ITEM, branches=(Branch(2, 77), Branch(4, 2**64 - 1)))
    assert key_of(parted) not in (key_of(ITEM), key_of(replace(ITEM, branches=parted.branches[:1])))
    before, between, after = shared_content(ITEM, "w", noise_device="cpu", determinism="strict")
    content = json.loads(f'{before}"{ITEM.prompt}"{between}{ITEM.seed}{after}')
    content["branches"] = [[2, "77"], [4, str(2**64 - 1)]]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert key_of(parted) == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_beginning_is_a_shorter_clip_with_the_branches_begun_by_then():
    settings = load_preset("tiny")
    lengths = [replace(ITEM, settings=replace(settings, num_frames=4 * units + 1)) for units in range(3)]
    shared = [shared_content(like, "w", noise_device="cpu", determinism="strict") for like in lengths]
    whole = replace(ITEM, branches=(Branch(1, 77), Branch(2, 88)))
    assert beginning_keys(whole, shared) == (
        key_of(lengths[0]),
        key_of(replace(lengths[1], branches=whole.branches[:1])),
        key_of(replace(lengths[2], branches=whole.branches)),
    )
