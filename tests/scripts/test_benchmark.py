"""`scripts/benchmark.py`: every subcommand at its smallest, and the arithmetic behind the figures."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from importlib import import_module

import benchmark
import pytest
import torch
from benchmarks import batch, memory, noise, processes, scale, startup, transformer, workers
from benchmarks import vae as vae_benchmark
from benchmarks.baseline import (
    block_gaussian,
    block_noise_loop,
    block_noise_loop_of,
    block_root,
    decode_in_overlapping_tiles,
    reference_path,
)
from benchmarks.ceilings import attention_operations, counted_linears
from benchmarks.clip import peaks_by_stage
from benchmarks.fresh import environment, peak_memory, run_fresh
from benchmarks.measure import Bar, Result, Row, in_turn, summary
from benchmarks.report import draw, markdown
from benchmarks.sequence import attended_pairs, frame_tokens, published_geometry
from benchmarks.sizes import FULL, MID, SIZES, TINY, call_settings, device_for, make_pipeline, make_vae
from benchmarks.vae import decode_once, decode_streaming, memory_bars, random_latents

from pyramid_seed import AutoencoderKLCausalVideo, PyramidFluxTransformer3DModel
from pyramid_seed.batch import run as batch_run
from pyramid_seed.batch.journal import Journal
from pyramid_seed.batch.worker import Worker
from pyramid_seed.cli import main
from pyramid_seed.models.token_geometry import causal_attention_mask
from pyramid_seed.noise import block_noise, noise_digest
from pyramid_seed.pipelines import shared_step
from pyramid_seed.pipelines.decode import decode_chunks, to_uint8
from pyramid_seed.pipelines.shared_step import num_pieces
from tests.cases import check_cases

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The size tiny, but for the length of its clip."""
    monkeypatch.setitem(SIZES, "tiny", replace(TINY, num_units=2, num_steps=(1, 1, 1)))
    monkeypatch.setattr(vae_benchmark, "NUM_UNITS", 2)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script; (status, what it printed, what it said on standard error)."""

    def run_script(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        status = benchmark.main()
        return (status, *capsys.readouterr())

    return run_script


# Every subcommand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["noise"],
        ["attention"],
        ["processes"],
        ["tokens"],
        *(
            pytest.param(command, marks=pytest.mark.slow)
            for command in (
                ["transformer"],
                ["vae", "--no-memory"],
                ["clip"],
                ["determinism"],
                ["workers", "--no-memory"],
                ["startup", "--parts", "help"],
            )
        ),
    ],
    ids=lambda command: command[0],
)
def test_every_subcommand_writes_what_it_measured(run, tmp_path, monkeypatch, command):
    monkeypatch.setattr(startup, "EAGER_HELP", startup.HELP)  # which else takes as long as all others
    result, picture = tmp_path / "result.json", tmp_path / "picture.png"
    repeats = [] if command == ["tokens"] else ["--repeats", "1"]
    monkeypatch.setattr(processes, "launch", launch_pretended)
    has_device = command[0] not in ("noise", "tokens", "startup", "workers")
    device = ["--device", "cpu"] if has_device else []
    status, said, _ = run(*command, *repeats, *device, "--json", result, "--picture", picture)
    assert status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads(result.read_text())
    assert told["command"] == command[0]
    assert told["what"] in said
    assert told["environment"]["packages"]["torch"] == torch.__version__
    assert {"threads", "cpu", "device"} <= told["environment"].keys()
    for row in told["rows"]:
        assert all(set(values) == {"min", "median", "max"} for values in row["seconds"].values())
        above, below = row["ratio"]["of"].split(" / ")
        seconds = row["seconds"]
        assert row["ratio"]["median"] == pytest.approx(seconds[above]["median"] / seconds[below]["median"])
    assert bool(told["rows"]) == (command != ["tokens"])


def launch_pretended(count, size_name, device):
    """In place of a launch, which takes ten seconds: see `test_two_processes_...`."""
    return [{"seconds": 2.0 / count, "busy": 1.0, "peak": 2**20, "sent": 0, "digest": "same"}] * count


@pytest.mark.slow
def test_two_processes_make_the_clip_of_one(tiny):
    """Of the size that is not made smaller: fresh processes do not see that it is here."""
    two = processes.launch(2, "tiny", "cpu")
    settings = call_settings(tiny, TINY) | {"output_type": "latent", "shards": 1}
    assert {rank["digest"] for rank in two} == {noise_digest(tiny(**settings).latents)}
    # A velocity of each stage, float32: 16 channels of 16 x 16, 8 x 8, 4 x 4 latents, on average.
    assert [rank["sent"] for rank in two] == [16 * (256 + 64 + 16) * 4 // 3] * 2
    assert all(rank["peak"] > 2**24 for rank in two)


def test_a_launch_that_fails_is_told(monkeypatch):
    said = (
        "KeyError: 'no size'\nE0101 torch/distributed/api.py] failed (exitcode: 1) local_rank: 0" + 900 * "="
    )
    failed = subprocess.CompletedProcess([], 1, stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^1 processes failed: KeyError: 'no size'\nE0101 torch"):
        processes.launch(1, "no size", "cpu")


def test_times_of_other_bits_are_refused(monkeypatch):
    digests = iter("ab")
    monkeypatch.setattr(
        processes, "launch", lambda count, *_: [launch_pretended(1, *_)[0] | {"digest": next(digests)}]
    )
    with pytest.raises(
        RuntimeError, match=r"has other bits, so its time says nothing; digests: \['a', 'b'\]"
    ):
        processes.measure(Namespace(size="tiny", device="cpu", repeats=1))


@pytest.mark.slow
def test_workers_and_shards_of_mid(monkeypatch):
    """A model with a layer of each kind, whose last stage is still cut into 4 pieces."""
    small = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 4, "joint_attention_dim": 64}
    cut = replace(workers.CUT, transformer=small, num_units=2)
    monkeypatch.setattr(workers, "CUT", cut)
    monkeypatch.setitem(SIZES, "mid", replace(cut, description="small", height=64, width=64))
    monkeypatch.setattr(workers, "run_fresh", lambda *_: {"peak": 2**20})
    pieces = []
    monkeypatch.setattr(
        shared_step, "num_pieces", lambda *given: pieces.append(num_pieces(*given)) or pieces[-1]
    )
    result = workers.measure(Namespace(size="mid", repeats=1, no_memory=False))
    assert set(pieces) >= {1, 4}
    assert [bar.limit for bar in result.bars] == [1.75, 1.1]
    assert result.facts == {"peak bytes, 1 worker": 2**20, "peak bytes, 2 workers": 2**20}


@pytest.mark.slow
def test_the_clip_whose_peak_is_taken():
    workers.make_once("tiny", 2)


@pytest.mark.slow
def test_memory_lists_what_it_cannot_measure(run, tmp_path, monkeypatch):
    def run_here(module, function, arguments):
        getattr(import_module(module), function)(*arguments)
        return {"peak": 2**20}

    monkeypatch.setattr(memory, "run_fresh", run_here)
    command = ["memory", "--device", "cpu", "--modes", "none", "model offload"]
    status, said, _ = run(*command, "--picture", tmp_path / "memory.png")
    assert status == 0
    assert "| model offload | needs a GPU, not measured | pipeline.enable_model_cpu_offload() |" in said
    assert "| none | 1 MiB | load_pipeline(...) |" in said


@pytest.mark.slow
@pytest.mark.parametrize("mode", [name for name, mode in memory.MODES.items() if not mode.needs_gpu])
def test_modes_of_a_cpu_run(mode):
    if mode == "quantised":
        pytest.importorskip("torchao")
    memory.generate_in_mode("tiny", mode, "cpu")


def test_bars_decide_the_exit_status(run, monkeypatch):
    for limit, status, verdict in ((0.0, 0, "PASS"), (1e9, 1, "FAIL")):
        result = Result("noise", "nothing", bars=[Bar("block noise", 2.0, limit)])
        monkeypatch.setattr(noise, "measure", lambda _, result=result: result)
        got, said, _ = run("noise", "--bars")
        assert got == status
        assert said.splitlines()[-1] == f"{verdict}  block noise: wanted >= {limit:g}, got 2"


def test_full_needs_a_gpu(run):
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    status, _, said = run("clip", "--size", "full")
    assert status == 2
    assert "--size full (miniFLUX (1.97 B parameters)" in said
    assert "needs a GPU, got the CPU; use --size mid" in said


def test_what_is_wrong_is_said(run, capsys):
    with pytest.raises(SystemExit):
        run("noise", "--repeats", "0")
    assert "--repeats must be at least 1, got 0; use 1" in capsys.readouterr().err
    for command, option in (
        (["memory"], "--repeats"),
        (["noise"], "--device"),
        (["tokens"], "--threads"),
        (["workers"], "--threads"),
        (["workers"], "--device"),
    ):
        with pytest.raises(SystemExit):
            run(*command, option, "1")
        assert f"unrecognized arguments: {option} 1" in capsys.readouterr().err
    status, _, said = run("memory", "--modes", "none", "all")
    assert status == 2
    assert said.endswith("got 'all'\n")
    with pytest.raises(ValueError, match="nothing to draw of memory"):
        draw(Result("memory", "nothing"), None)


def test_the_script_runs_by_itself(tmp_path):
    root = benchmark.Path(benchmark.__file__).parents[1]
    command = [sys.executable, "scripts/benchmark.py", "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, env=environment())
    assert "determinism" in done.stdout


# Taking times ----------------------------------------------------------------------------------------------


def test_works_take_turns_after_a_warm_up():
    calls = []
    works = [lambda: calls.append("a"), lambda: calls.append("b")]
    times = in_turn(works, 3, CPU)
    assert calls == ["a", "b"] * 4
    assert [len(own) for own in times] == [3, 3]
    assert min(map(min, times)) >= 0
    calls.clear()
    in_turn(works, 1, CPU, warm_ups=[lambda: calls.append("warm")])
    assert calls == ["warm", "a", "b"]


def test_ratios_are_those_of_neighbours():
    row = Row("work", {"product": [1.0, 2.0, 4.0], "baseline": [3.0, 8.0, 8.0]})
    assert row.ratios() == [3.0, 4.0, 2.0]
    assert row.to_json() == {
        "name": "work",
        "seconds": {
            "product": {"min": 1.0, "median": 2.0, "max": 4.0},
            "baseline": {"min": 3.0, "median": 8.0, "max": 8.0},
        },
        "ratio": {"of": "baseline / product", "min": 2.0, "median": 3.0, "max": 4.0},
    }
    assert Row("alone", {"all": [1.0]}, ratio=None).to_json()["ratio"] is None
    assert summary([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_a_bar_is_a_limit_from_either_side():
    assert [Bar("", got, 2.0).passed for got in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [Bar("", got, 2.0, is_lower_limit=False).passed for got in (1.9, 2.0, 2.1)] == [True, True, False]
    assert Bar("b", 1.0, 0.3, is_lower_limit=False).to_json() == {
        "name": "b",
        "wanted": "<= 0.3",
        "got": 1.0,
        "passed": False,
    }


@pytest.mark.slow
def test_fresh_processes_have_peaks_of_their_own_and_the_threads_of_this_one():
    hog = torch.ones(2**28)  # 1 GiB here, which must not count there
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        fresh = run_fresh("torch", "get_num_threads", [])
    finally:
        torch.set_num_threads(before)
    assert hog.sum() > 0
    assert 2**24 < fresh["peak"] < 2**30 < peak_memory()
    assert fresh["value"] == before + 1


@pytest.mark.slow
def test_what_fails_in_a_fresh_process_is_told():
    with pytest.raises(RuntimeError, match=r"fresh.nothing\(1,\) failed: (.|\n)*AttributeError"):
        run_fresh("benchmarks.fresh", "nothing", [1])


def test_a_table_is_markdown():
    assert markdown([("a", "b"), ("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


# Baselines -------------------------------------------------------------------------------------------------


def test_the_loop_makes_the_product_s_block_noise_of_the_same_white_noise():
    def rule(gamma):
        white = torch.randn(1, 3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            block_noise_loop_of(white, gamma), block_noise(white, gamma), rtol=0, atol=1e-6
        )

    check_cases([0.0, 0.2, 1 / 3], rule)


def test_the_loop_samples_what_it_says():
    """The same draws, made block by block, through the product's map."""
    gamma, shape = 1 / 3, (1, 2, 1, 4, 6)
    torch.manual_seed(5)
    sampled = block_noise_loop(block_gaussian(gamma).sample, shape)
    torch.manual_seed(5)
    white = block_noise_loop(lambda: torch.normal(torch.zeros(4), torch.ones(4)), shape)
    torch.testing.assert_close(sampled, block_noise(white, gamma), rtol=0, atol=1e-6)


def test_the_root_is_one_of_the_covariance():
    for gamma in (0.1, 1 / 3):
        covariance = (1 + gamma) * torch.eye(4) - gamma * torch.ones(4, 4)
        root = block_root(gamma)
        torch.testing.assert_close(root @ root, covariance, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def tiny():
    return make_pipeline(TINY, CPU)


@pytest.mark.slow
def test_the_reference_path_makes_the_same_clip_and_is_left_again(tiny):
    settings = call_settings(tiny, SIZES["tiny"]) | {"output_type": "latent"}
    product = tiny(**settings).latents
    with reference_path(tiny):
        assert tiny.transformer.attention_path == "reference"
        baseline = tiny(**settings).latents
    assert tiny.transformer.attention_path == "grouped"
    torch.testing.assert_close(product, baseline, rtol=0, atol=1e-3)
    assert torch.equal(product, tiny(**settings).latents)


@pytest.mark.slow
@torch.no_grad()
def test_one_tile_is_the_product_s_decoder():
    vae = make_vae(TINY, CPU)
    latents = random_latents(vae, TINY, 2, CPU)
    frames = torch.cat([to_uint8(chunk) for chunk in decode_chunks(vae, latents)], dim=1)[0]
    one_tile = decode_in_overlapping_tiles(vae, latents, 64, 48)[:, :48, :48]
    assert (one_tile.int() - frames[:, :48, :48].int()).abs().max() <= 1  # a grey level, by rounding
    assert decode_streaming(vae, latents) == len(frames)


@pytest.mark.slow
@torch.no_grad()
def test_more_tiles_are_the_product_s_tiles():
    """Where none lies wholly inside its neighbour, which the product leaves out; one grey level, by rounding.

    Tiled or not is up to 45 levels: it matters that the same tiles fade into each other in the same way.
    """
    vae = make_vae(TINY, CPU)
    latents = random_latents(vae, TINY, 2, CPU)
    for tile, stride in ((32, 24), (48, 32)):
        baseline = decode_in_overlapping_tiles(vae, latents, tile, stride)
        vae.enable_tiling(tile, tile, stride, stride)
        frames = torch.cat([to_uint8(chunk) for chunk in decode_chunks(vae, latents)], dim=1)[0]
        vae.disable_tiling()  # or else it would cut the baseline's tiles into tiles
        assert baseline.shape == frames.shape
        assert (baseline.int() - frames.int()).abs().max() <= 1


def test_the_memory_bars_tell_who_holds_the_clip():
    """The peaks of docs/performance.md, MiB: the baseline, which holds the clip, passes the ratio as well."""
    for peaks, kept in (
        ((1667, 1668), [True, True]),
        ((1585, 1628), [True, False]),
        ((60, 70), [False, False]),
    ):
        assert [bar.passed for bar in memory_bars(MID, 96, *(2**20 * peak for peak in peaks))] == kept
    assert memory_bars(MID, 96, 1, 1)[1].limit == pytest.approx(96 * 192 * 320 * 3 / 2 / 2**20)
    assert len(memory_bars(TINY, 8, 2**20, 2**20)) == 1


@pytest.mark.slow
def test_both_ways_of_decoding_run_in_a_fresh_process():
    for way in ("product", "baseline"):
        decode_once("tiny", way, 2, "cpu")


# Models and sequences --------------------------------------------------------------------------------------


def test_mid_is_about_a_hundred_million_parameters():
    with torch.device("meta"):
        models = [PyramidFluxTransformer3DModel(**size.transformer) for size in (MID, FULL)]
        vae = AutoencoderKLCausalVideo(**MID.vae)
    counts = [sum(each.numel() for each in model.parameters()) for model in models]
    assert counts[0] == pytest.approx(109e6, rel=0.01)
    assert counts[1] == pytest.approx(1.97e9, rel=0.01)
    assert (vae.spatial_compression_ratio, vae.temporal_compression_ratio) == (8, 8)


@pytest.mark.slow
def test_random_models_make_finite_clips():
    small = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 64}
    shrunk = replace(MID, transformer=small, height=64, width=64, num_units=2)
    pipeline = make_pipeline(shrunk, CPU, with_text=False)
    again = make_pipeline(shrunk, CPU, with_text=False)
    settings = call_settings(pipeline, shrunk) | {"output_type": "latent"}
    latents = pipeline(**settings).latents
    assert torch.isfinite(latents).all()
    assert torch.equal(latents, again(**call_settings(again, shrunk), output_type="latent").latents)


def test_device_for():
    assert device_for(TINY, "cpu") == CPU
    with pytest.raises(ValueError, match=r"--size full .* needs a GPU, got the CPU; use --size mid"):
        device_for(FULL, "cpu")


def test_sequence_lengths_of_the_published_models():
    """As the issue counts them: 11,888 tokens with 128 of text, unit 15, 768p."""
    frames = frame_tokens(published_geometry(), 768, 1280, 15, 2)
    assert len(frames) == 16
    assert frames[-3:] == (960, 3840, 3840)
    assert set(frames[:-3]) == {240}
    assert sum(frames) + 128 == 11_888
    assert frame_tokens(published_geometry(), 384, 640, 0, 0) == (60,)


def test_allowed_pairs_are_those_of_the_mask():
    frames, num_text = (3, 2, 4), 5
    times = torch.tensor([float(time) for time, count in enumerate(frames) for _ in range(count)])
    mask = causal_attention_mask(torch.ones(1, num_text), times)
    assert attended_pairs(frames, num_text) == mask.sum().item()
    last = mask[0, 0, -frames[-1] :].sum().item()
    assert attention_operations(frames, num_text, 8, 3) == 4 * 8 * (2 * mask.sum().item() + last)


def test_operations_of_linear_layers_are_counted():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    with counted_linears(layers) as count:
        layers(torch.zeros(7, 3))
        assert count() == 2 * 7 * (3 * 5 + 5 * 2)
    layers(torch.zeros(7, 3))
    assert count() == 2 * 7 * (3 * 5 + 5 * 2)


@pytest.mark.slow
def test_startup_asks_the_command_line_for_a_clip(monkeypatch):
    """The command is run by this process instead of a fresh one, which takes seconds."""
    ran = []

    def run_here(command):
        ran.append(command)
        if command == startup.IMPORTS:
            return
        assert main([*command[3:], "--num-frames", "1", "--num-inference-steps", "1"]) == 0

    monkeypatch.setattr(startup, "_run", run_here)
    row = startup._clip_row(1)
    generate = (sys.executable, "-m", "pyramid_seed", "generate")
    assert [command[:4] for command in ran] == [generate, startup.IMPORTS[:4]] * 2
    assert {label: len(values) for label, values in row.values.items()} == {
        "in all": 1,
        "loading weights": 1,
        "generating": 1,
        "all but generation": 1,
        "torch, diffusers and text encoders": 1,
    }


def told_of_a_batch(count, first, clip, peak=10**9):
    seconds = {"first_seconds": first, "first_cpu_seconds": first, "clip_seconds": clip}
    return {**seconds, "clip_cpu_seconds": clip, "peak": peak}


def test_a_batch_is_measured_by_the_length_of_its_list(run, tmp_path, monkeypatch):
    launched = []

    def launch(prompts, output, maker, seconds, *, part=""):
        count = len(prompts.read_text().splitlines())
        launched.append((count, output.name, maker + part))
        waits = 5.0 if output.name == "later" else 0.0
        return told_of_a_batch(count, count / 10 + waits, 0.001 + count / 1e5, 10**7 * count)

    monkeypatch.setattr(batch, "launch", launch)
    monkeypatch.setattr(batch, "run_fresh", lambda *_: {"value": {"seconds": 7.0}, "peak": 2 * 10**9})
    command = ["batch", "--rows", "80", "20", "40", "--folder", tmp_path, "--bars"]
    status, said, _ = run(*command, "--picture", tmp_path / "batch.png")
    assert status == 1
    assert launched.pop(9) == (20, "neighbour", batch.TINY)
    assert launched[-2:] == [(80, "part", f"{batch.TINY}0/100"), (80, "gathered", f"{batch.FILL}0/1")]
    del launched[-2:]
    assert launched == [
        (count, *batch_of)
        for count in (20, 40, 80)
        for batch_of in (
            ("fresh", batch.TINY),
            *([("embedded", batch.EMBEDDED)] if count < 80 else []),
            ("later", batch.FILL),
            ("later", batch.TINY),
        )
    ]
    assert "--gather of 80, peak, GB" in said
    assert "| 80 | tiny files, part 0/100 | 8.0 |" in said
    assert "| 80 | tiny files, 99 % of them there | 13.0 | 13.0 | 1.8 | 1.8 | 0.80 |" in said
    assert [line.split(": ")[1] for line in said.splitlines()[-4:]] == [
        "wanted <= 60, got 8",
        "wanted <= 60, got 5",
        "wanted <= 1.5, got 0.8",
        "wanted <= 1.1, got 1.5",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "batch.png"]


def test_what_many_clips_need_follows_from_what_one_needs(run, monkeypatch):
    sizes = {"row of the list": 50.0, "index": 700.0, "log of the work": 300.0, "manifest": 30_000.0}
    monkeypatch.setattr(scale, "recorded_bytes", lambda: sizes)
    monkeypatch.setattr(scale, "clip_file_bytes", lambda height, width, grain: 10**5 if not grain else 10**7)
    # 16 units: 20 steps per stage of the first, 10 of the others; 0.437 s for one step of each stage.
    assert scale.most_seconds((20, 20, 20), (10, 10, 10)) == pytest.approx((20 + 15 * 10) * 0.437)
    assert scale.most_seconds(20, (10, 10, 10)) == scale.most_seconds((20, 20, 20), 10)
    status, said, _ = run("scale", "--clips", 1_000_000, "--gpus", 100, "--clip-seconds", 36.0)
    assert status == 0
    for line in (
        "| what | per clip | 1,000,000 clips on 100 GPUs |",
        "| time of a GPU | 36.0 s | 100 h on each |",
        "| bytes of them | 0.10 to 10.0 MB | 0.1 to 10 TB |",
        "| of which manifests | 30.0 kB | 30 GB |",
        "| index | 700 B | 0.70 GB |",
        "| files written at a time |  | 2.8 per second |",
    ):
        assert line in said


def test_the_batch_that_is_measured(tmp_path, monkeypatch):
    """A folder is filled, and gone on with: in this process, which is given back what is replaced."""
    prompts = tmp_path / "list.txt"
    prompts.write_text("".join(f"boat {n}\n" for n in range(30)))

    def launch(maker, part=""):
        with monkeypatch.context() as patch:
            for owner, name in ((batch_run._ClipMaker, "make"), (Journal, "record"), (Worker, "work")):
                patch.setattr(owner, name, getattr(owner, name))
            return batch.run_batch(str(prompts), str(tmp_path / "clips"), maker, 60.0, part, 0.0)

    assert launch(batch.FILL) == {}
    assert len((tmp_path / "clips" / "index.jsonl").read_text().splitlines()) == 20
    told = launch(batch.TINY)
    assert told.keys() == told_of_a_batch(0, 0, 0).keys()
    files = {path.name: path.read_bytes() for path in (tmp_path / "clips").glob("*.mp4")}
    assert (len(files), set(files.values())) == (30, {b"tiny"})
    (tmp_path / "clips" / "index.jsonl").unlink()
    assert launch(batch.FILL, "0/1") == {}
    told = batch.gather(str(tmp_path / "clips"))
    assert 400 < told["index, bytes per clip"] < 600
    assert 19 < told["plan, bytes per clip"] < 40  # an id in quotes and a comma, and 20 of 30 are there


@pytest.mark.slow
def test_peaks_by_stage(tiny, monkeypatch):
    """No GPU at hand: its counter is one that counts the questions."""
    asked = iter(range(1, 100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(asked))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    size = SIZES["tiny"]
    told = peaks_by_stage(tiny, call_settings(tiny, size), size)
    assert told == {
        "peak bytes, stage 0": 1,
        "peak bytes, stage 1": 2,
        "peak bytes, stage 2": 3,
        "peak bytes, after the last step": 4,
    }


@pytest.mark.slow
def test_a_step_of_both_paths_agrees():
    result = transformer.measure(Namespace(size="tiny", device="cpu", repeats=1, unit=3, torch_linears=True))
    assert result.facts["largest difference / largest value"] < 1e-5
