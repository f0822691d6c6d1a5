"""Clips whose frames are never held: the same frames, manifest and file; memory that does not grow."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from pyramid_seed import Clip, generate
from pyramid_seed.media.frame_file import FrameFile
from pyramid_seed.media.frames import frames_digest
from pyramid_seed.media.video import read_video
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.reproduce import extend, regenerate
from pyramid_seed.shared_pipeline import shared_pipeline


@pytest.fixture(scope="module")
def held(quick) -> Clip:
    return generate("a boat", seed=5, **quick)


def without_times(manifest):
    return {name: value for name, value in manifest.items() if name != "timings"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_clip_is_the_same(quick, held, tmp_path):
    with FrameFile(tmp_path / "clip.mp4", lossless=True) as file:
        clip = generate("a boat", seed=5, sink=file, **quick)
        clip.save(tmp_path / "clip.mp4", lossless=True, sidecar=True, keep_latents=True)
        assert names(tmp_path) == ["clip.json", "clip.latents.safetensors", "clip.mp4"]
        with pytest.raises(ValueError, match=r"already encoded, as \.mp4 .*; got \.gif"):
            clip.save(tmp_path / "clip.gif")
        with pytest.raises(ValueError, match="already encoded"):
            clip.save(tmp_path / "other.mp4")
    shown = read_video(tmp_path / "clip.mp4")[0][:, :: clip.settings.scale, :: clip.settings.scale]
    assert clip.digest == held.digest == frames_digest(shown)
    assert clip.frame_facts == held.frame_facts
    assert without_times(clip.manifest) == without_times(held.manifest)
    assert repr(clip) == repr(held)
    with pytest.raises(RuntimeError, match=r"are not held: save the clip and read the file"):
        _ = clip.frames
    with pytest.raises(ValueError, match="save the clip inside"):
        clip.save(tmp_path / "late.mp4", lossless=True)
    assert names(tmp_path) == ["clip.json", "clip.latents.safetensors", "clip.mp4"]


def test_the_bytes_of_the_file_are_the_same(quick, held, tmp_path):
    held.save(tmp_path / "held.mp4")
    with FrameFile(tmp_path / "clip.mp4") as file:
        generate("a boat", seed=5, sink=file, **quick).save(tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "held.mp4").read_bytes()


def test_the_scale_is_that_of_the_settings(quick, tmp_path):
    with FrameFile(tmp_path / "clip.mp4") as file:
        clip = generate("a boat", seed=5, sink=file, **quick | {"scale": 3})
        clip.save(tmp_path / "clip.mp4")
    assert read_manifest(tmp_path / "clip.mp4")["file"]["scale"] == 3
    assert read_video(tmp_path / "clip.mp4")[0].shape == (9, 64 * 3, 64 * 3, 3)


def test_chunks_are_told_in_order_also_of_a_clip_made_again(quick, held):
    told = []

    def on_chunk(clip, chunk, frames):
        assert frames.dtype == np.uint8
        told.append((clip, chunk, frames))

    again = regenerate(held.manifest, model=quick["model"], progress=False, on_chunk=on_chunk)
    assert [(clip, chunk, len(frames)) for clip, chunk, frames in told] == [(0, 0, 1), (0, 1, 8)]
    assert np.array_equal(np.concatenate([frames for *_, frames in told]), again.frames)
    assert again.digest == held.digest


def test_a_longer_clip_streams_from_its_first_frame(quick, tmp_path):
    first = tmp_path / "clip.mp4"
    generate("a boat", seed=5, **quick).save(first, keep_latents=True)
    whole = generate("a boat", seed=5, **quick | {"num_frames": 17})
    with FrameFile(tmp_path / "longer.mp4") as file:
        longer = extend(first, 17, model=quick["model"], progress=False, sink=file)
        longer.save(file.path)
    assert longer.frame_facts == whole.frame_facts
    assert read_manifest(file.path)["digests"] == whole.manifest["digests"]


def test_a_run_that_is_stopped_has_the_frames_of_its_units(quick, held, tmp_path):
    def stop(pipeline, step, timestep, tensors):
        if pipeline.current_place.unit == 2:
            pipeline._interrupt = True
        return {}

    with FrameFile(tmp_path / "clip.mp4") as file:
        clip = generate("a boat", seed=5, sink=file, on_step=stop, **quick | {"num_frames": 25})
        assert clip.frame_facts == held.frame_facts
        assert file.num_frames == 9


def test_frames_that_went_by_are_not_held(quick, tmp_path):
    alive = []

    def watch(clip, chunk, frames):
        assert not any(each() is not None for each in alive)
        alive.append(weakref.ref(frames))

    with FrameFile(tmp_path / "clip.mp4") as file:
        generate("a boat", seed=5, sink=file, on_chunk=watch, **quick | {"num_frames": 25})
    assert len(alive) == 4


def test_an_error_in_the_middle_leaves_nothing(quick, tmp_path):
    def fail(clip, chunk, frames):
        if chunk == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), FrameFile(tmp_path / "clip.mp4") as file:
        generate("a boat", seed=5, sink=file, on_chunk=fail, **quick)
    assert names(tmp_path) == []


def test_a_rate_that_no_file_can_have_is_refused_before_the_model_runs(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_pipeline, "get", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="fps must be between"), FrameFile(tmp_path / "clip.mp4") as file:
        generate("a boat", seed=5, sink=file, **quick | {"fps": 5000.0})


PEAK = """
import sys
from pathlib import Path
import torch
from functools import partial
from pyramid_seed.models import AutoencoderKLCausalVideo
from pyramid_seed.pipelines.decode import ClipDecoder
from pyramid_seed.pipelines.frame_collector import FrameCollector
from pyramid_seed.media.frame_file import FrameFile

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

torch.manual_seed(0)
widths = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (8, 8, 16, 16))
layers = {"decoder_layers_per_block": (1, 1, 1, 1), "norm_num_groups": 4, "mid_block_add_attention": False}
vae = AutoencoderKLCausalVideo(**widths, **layers).eval()
num_units = int(sys.argv[1])
before = peak()
with torch.no_grad(), FrameFile(sys.argv[2]) as file:
    file.start(24, 1)
    write = lambda clip, chunk, frames: file.write(frames)
    collector = FrameCollector(vae, partial(ClipDecoder, vae), "latent", 1, write, 1)
    decoder = collector.decoder(0)
    for unit in range(num_units):
        decoder.put(torch.randn(1, 16, 1, 8, 12), is_last=unit + 1 == num_units)
    decoder.finish()
    file.save(sys.argv[2], comment="x" * 4096)
print(peak() - before, file.num_frames)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="measures with glibc's allocator")
def test_memory_does_not_grow_with_the_clip(tmp_path):
    """Peak memory of 129 frames against 65, each in a fresh process: not even half of the frames more.

    Clips shorter than these do not fill what x264 looks ahead.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384"}  # what is freed is given back at once
    root = Path(__file__).resolve().parents[1]

    def peak(num_units):
        command = [sys.executable, "-c", PEAK, str(num_units), str(tmp_path / f"{num_units}.mp4")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
        return tuple(map(float, done.stdout.split()))

    (short, frames), (long, more_frames) = peak(9), peak(17)
    assert (frames, more_frames) == (65, 129)
    held = (more_frames - frames) * 64 * 96 * 3 / 2**20
    assert long - short < held / 2
