"""The processes that make each clip of a batch together."""

from __future__ import annotations

import json
import signal
import socket

import pytest
import torch
from torch.distributed import HashStore

from pyramid_seed import run_batch
from pyramid_seed.batch.errors import Stopped
from pyramid_seed.batch.group import Group
from pyramid_seed.batch.items import BatchInputError
from pyramid_seed.batch.launch import Launch
from pyramid_seed.batch.maker import Order
from pyramid_seed.files import file_digest
from pyramid_seed.pipelines.beginning import Beginning
from tests.batch.makers import jobs_of
from tests.forks import fork

CPU = torch.device("cpu")


def launch_of(rank, world_size):
    return Launch(rank, rank, world_size, HashStore())


def test_neighbours_are_a_group_and_the_first_one_leads():
    groups = [Group.of_launch(launch_of(rank, 6), 3, CPU) for rank in range(6)]
    assert [group.leads for group in groups] == [True, False, False, True, False, False]
    assert Group.of_launch(launch_of(0, 6), 1, CPU) is None


@pytest.mark.parametrize("size", [4, 12])
def test_groups_that_leave_processes_over_are_refused(size):
    with pytest.raises(ValueError, match=f"must divide the 6 processes.*got {size}; use 1 or 2 or 3 or 6"):
        Group.of_launch(launch_of(0, 6), size, CPU)


@pytest.mark.parametrize("size", [0, True, 2.0])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises((ValueError, TypeError), match="processes_per_clip"):
        Group.of_launch(launch_of(0, 6), size, CPU)


def test_who_waits_for_the_others_can_be_stopped():
    group = Group(launch_of(0, 2), 2, CPU, is_stopped=lambda: True)
    with pytest.raises(Stopped):
        group.processes()
    assert list(Group(launch_of(1, 2), 2, CPU, is_stopped=lambda: True).orders()) == []


@pytest.mark.parametrize("with_units", [False, True])
def test_an_order_is_the_same_elsewhere(with_units):
    latents = torch.arange(2 * 4.0).reshape(1, 1, 2, 2, 2)
    known = Beginning(latents, (("a", "b", "c"), ("d", "e", "f")), {"prompt": "0"}) if with_units else None
    (job,) = jobs_of(0)
    order = Order(job, {"machine": "here", "threads": {"intraop": 1}}, known)
    again = Order.from_json(order.to_json(), lambda _, shape: latents.reshape(shape))
    assert (again.job, again.origin) == (order.job, order.origin)
    if known is None:
        assert again.known is None
    else:
        assert {**vars(again.known), "latents": 0} == {**vars(known), "latents": 0}
        assert torch.equal(again.known.latents, known.latents)


def test_clips_in_one_piece_are_refused_for_several_processes(tmp_path, quick, monkeypatch):
    prompts = tmp_path / "list.txt"
    prompts.write_text("a star\n")
    monkeypatch.setattr("pyramid_seed.batch.run.join_launch", lambda _: launch_of(0, 2))
    with pytest.raises(BatchInputError, match="2 processes make must be in pieces: give shards=1"):
        run_batch(prompts, tmp_path / "clips", processes_per_clip=2, **quick)


@pytest.mark.slow
def test_two_processes_make_the_clips_of_one_and_go_on_after_one_that_fails(tmp_path, quick):
    """The second clip is not finite: both part, and meet again for the third."""
    settings = quick | {"shards": 1}
    rows = [
        {"prompt": "a star", "num_frames": 17},
        {"prompt": "a tree", "guidance_scale": 1e38, "num_inference_steps": 4, "num_frames": 17},
        {"prompt": "a sea", "num_frames": 9},
    ]
    prompts = tmp_path / "list.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = run_batch(prompts, tmp_path / "alone", **settings)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def process() -> int:
        signal.alarm(120)  # ends what hangs
        return run_batch(prompts, tmp_path / "clips", processes_per_clip=2, **settings).status

    running = [fork(process, environment=launch | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    ended = [each.wait() for each in running]
    assert [status for status, _ in ended] == [1, 0], ended
    made, expected = (
        {path.name: file_digest(path) for path in (tmp_path / folder).glob("*.mp4")}
        for folder in ("clips", "alone")
    )
    assert made == expected
    assert len(made) == len(alone.digests) == 2
