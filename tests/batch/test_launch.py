"""Finding the other processes, and saying so when they are not there."""

from __future__ import annotations

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore

from pyramid_seed.batch import launch as launch_module
from pyramid_seed.batch.launch import Launch, LaunchError, join_launch
from tests.forks import fork


def test_a_plain_process_is_a_launch_of_one():
    launch = join_launch(environment={})
    assert (launch.rank, launch.local_rank, launch.world_size, launch.is_main) == (0, 0, 1, True)
    launch.publish(json.dumps([1]))
    assert json.loads(launch.plan(lambda: False)) == [1]
    assert [launch.take() for _ in range(3)] == [0, 1, 2]
    assert [launch.count("steps"), launch.count("steps", 4), launch.count("steps", 0)] == [1, 5, 5]
    launch.count("left")
    launch.wait_for_others(lambda: False, lambda: None)


def test_waiting_for_a_plan_can_be_stopped():
    assert join_launch(environment={}).plan(lambda: True) is None


@pytest.mark.parametrize(
    ("requested", "environment"),
    [
        (2, {}),
        (2, {"WORLD_SIZE": "1"}),
        # What `accelerate launch --cpu --num_processes 2` sets for the one process that it starts.
        (None, {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}),
    ],
)
def test_another_number_of_processes_is_refused_with_commands_that_work(requested, environment):
    with pytest.raises(ValueError, match="torchrun --nproc_per_node 2") as caught:
        join_launch(requested, environment)
    assert "--multi_gpu" in str(caught.value)


def test_one_process_of_accelerate_is_fine():
    environment = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}
    assert join_launch(1, environment).world_size == 1


def two_runs() -> int:
    taken = []
    for jobs in (5, 4):
        launch = join_launch(2)
        if launch.is_main:
            launch.publish(json.dumps(jobs))
        number = json.loads(launch.plan(lambda: False))
        taken.append([])
        while (place := launch.take()) < number:
            taken[-1].append(place)
            launch.count("done")
        launch.count("left")
        if launch.is_main:
            launch.wait_for_others(lambda: False, lambda: None)
            assert launch.count("done", 0) == jobs, (launch.count("done", 0), jobs)
    sys.stdout.write(json.dumps(taken))
    return 0


def test_a_second_run_of_a_launch_has_a_list_of_its_own():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [fork(two_runs, environment=launch | {"RANK": str(rank)}) for rank in range(2)]
    ended = [process.wait() for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    first, second = (json.loads(text) for _, text in ended)
    assert sorted(first[0] + second[0]) == list(range(5))
    assert sorted(first[1] + second[1]) == list(range(4))


def served() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_an_attempt_has_a_name_of_its_own_whatever_an_earlier_one_left():
    """The second has as many processes, and one of the first had asked for its name and was killed."""
    store = served()
    store.set("asks/1", "killed")
    names = []
    for _ in range(2):
        with ThreadPoolExecutor(2) as threads:
            found = [threads.submit(launch_module._name_of_run, store.clone(), rank, 2) for rank in (0, 1)]
            assert found[0].result(30) == found[1].result(30)
        names.append(found[0].result())
    assert names[0] != names[1]


def test_processes_that_do_not_come_are_told(monkeypatch):
    monkeypatch.setattr(launch_module, "_CONNECT", timedelta(seconds=0.3))
    for rank in (0, 1):
        with pytest.raises(LaunchError, match=f"process {rank} of 2 waited"):
            launch_module._name_of_run(HashStore(), rank, 2)


def test_a_process_shows_that_it_is_there_and_then_that_it_has_left(monkeypatch):
    monkeypatch.setattr(launch_module, "_SIGN_SECONDS", 0.01)
    store = served()
    with Launch(1, 1, 2, store).alive():
        store.wait(["alive/1"], timedelta(seconds=30))
        first = store.get("alive/1")
        until = time.monotonic() + 30
        while store.get("alive/1") == first:
            assert time.monotonic() < until
    assert store.get("alive/1") == b"left"


def test_whose_sign_of_life_stays_the_same_has_been_lost():
    store = HashStore()
    main = Launch(0, 0, 3, store)
    signs = dict.fromkeys((1, 2), (0.0, None))
    for now, sign in [(50, "0"), (100, "1"), (200, "2"), (260, "2")]:
        store.set("alive/1", sign)
        store.set("alive/2", "left")
        main._look_for_lost(signs, now)
    assert signs == {1: (200, "2"), 2: (50, "left")}
    with pytest.raises(LaunchError, match=r"process 1 was lost: no sign of life for 60 s.*--max-restarts"):
        main._look_for_lost(signs, 261)


def test_a_main_process_that_has_left_without_an_end_has_been_lost():
    store = HashStore()
    store.set("alive/0", "left")
    with pytest.raises(LaunchError, match="process 0 was lost"):
        Launch(1, 1, 2, store)._look_for_lost({0: (0.0, "left")}, 61)


def test_the_others_stay_until_the_main_process_ends_the_launch():
    store = served()
    main, other = Launch(0, 0, 2, store), Launch(1, 1, 2, store.clone())

    def follow() -> None:
        with other.alive():
            other.count("left")
            other.wait_for_end(lambda: False)

    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(follow)
        assert main.wait_for("left", 1, following.done)
        assert not following.done()
        main.end(lambda: False)
        following.result(30)
    assert store.get("alive/1") == b"left"


def test_half_a_launch_is_refused():
    with pytest.raises(ValueError, match="MASTER_PORT is not set"):
        join_launch(environment={"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"})


def test_a_process_whose_launch_has_ended_says_so():
    meeting_place = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = TCPStore("127.0.0.1", meeting_place.port, is_master=False, timeout=timedelta(seconds=5))
    follower = Launch(1, 1, 2, store)
    assert follower.take() == 0
    del meeting_place  # with it the server ends
    for question in (follower.take, lambda: follower.plan(lambda: False)):
        with pytest.raises(LaunchError, match="process 1 lost contact with the others: "):
            question()


def test_others_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(launch_module, "_CONNECT", timedelta(seconds=1))
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        here = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in here.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(LaunchError, match="the other processes cannot be reached: "):
            join_launch(environment=here)
