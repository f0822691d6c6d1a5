"""Options of the engines that do not go together, refused before any work."""

from __future__ import annotations

import socket

import pytest

from pyramid_seed import run_batch
from pyramid_seed.batch import engine
from pyramid_seed.batch.engine import RayOptions, check_answers, ray_options

ALONE = {"device": None, "workers": None, "num_processes": None, "processes_per_clip": 1}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """As if Ray were."""
    monkeypatch.setattr(engine, "check_extra", lambda *_: None)


def test_what_ray_is_to_do():
    assert ray_options("launch", None, None, **ALONE) is None
    assert ray_options("ray", None, None, **ALONE) == RayOptions(None, None, None, 1)
    named = ALONE | {"device": "cuda", "workers": 3}
    assert ray_options("ray", "auto", 0.5, **named) == RayOptions("auto", "cuda", 0.5, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "dask"}, "engine must be one of launch, ray, got 'dask'"),
        ({"engine": "launch", "address": "auto"}, "address applies only to engine ray, got 'auto'"),
        (
            {"engine": "launch", "num_gpus_per_clip": 1.0},
            "num_gpus_per_clip applies only to engine ray, got 1.0",
        ),
        ({"num_processes": 2}, "num_processes applies only to launchers"),
        ({"processes_per_clip": 2}, "processes_per_clip must be 1 with engine ray, got 2"),
        ({"device": "cuda:1"}, "got device cuda:1; use cuda"),
        (
            {"device": "cpu", "num_gpus_per_clip": 1.0},
            "num_gpus_per_clip applies only to GPUs, got 1.0 with device cpu",
        ),
        ({"num_gpus_per_clip": 0.0}, "must be above 0 and at most 1, .* got 0.0; use 1"),
        ({"num_gpus_per_clip": 2.0}, "must be above 0 and at most 1, .* got 2.0; use 1"),
        ({"num_gpus_per_clip": float("nan")}, "num_gpus_per_clip must be finite, got nan"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ray_options(**{"engine": "ray", "address": None, "num_gpus_per_clip": None} | ALONE | given)


def test_a_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="run the batch without a launcher"):
        ray_options("ray", None, None, **ALONE)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("pyramid_seed.extras.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'this needs ray; pip install "pyramid-seed\[ray\]"'):
        run_batch(tmp_path / "list.txt", tmp_path / "clips", engine="ray")
    assert not (tmp_path / "clips").exists()


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, so that nobody else can listen there
        port = closed.getsockname()[1]
        with pytest.raises(ConnectionError, match=f"no Ray cluster answers at 127.0.0.1:{port}: "):
            check_answers(f"127.0.0.1:{port}")
        with pytest.raises(ConnectionError, match=r"answers at ray://127\.0\.0\.1:99999"):
            check_answers("ray://127.0.0.1:99999")
        closed.listen()
        check_answers(f"127.0.0.1:{port}")
    check_answers("auto")


@pytest.mark.parametrize("given", [{"address": 6379}, {"num_gpus_per_clip": "1"}])
def test_values_of_another_kind_are_refused(given):
    with pytest.raises(TypeError, match=f"{next(iter(given))} must be a"):
        ray_options(**{"engine": "ray", "address": None, "num_gpus_per_clip": None} | ALONE | given)
