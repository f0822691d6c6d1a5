"""Training of the embedded model: the codec that is kept, a training construction that fits the sampler.

Notation: a stage leads from `start` to `end` noise level (the scheduler's sigmas), U is the upsampled coarser
latent and C the clean latent of the stage. At local sigma l a training point is
x = l (start n + (1 - start) U) + (1 - l) (end n + (1 - end) C), its velocity the difference of the two ends.
With a single clip as data, U and C are known, so x gives n, and the best velocity is known exactly.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch
import torch.nn.functional as F
import train_transformer
import train_vae
import world
from clips import frames_of, pixels_of, render_seeds
from codec import FACTOR, LATENT_CHANNELS, LinearCodec, cut, load_codec
from linear_start import BLOCK, FIRST_BLOCK, LinearDecoder, fit_decoder
from train_transformer import NUM_STAGES, Latents, halve, make_batch
from training import (
    Schedule,
    check_same_beginning,
    digest_of,
    load_checkpoint,
    read_log,
    save_checkpoint,
    warmup_then_cosine,
)

from pyramid_seed.geometry import LatentShape
from pyramid_seed.noise import NoiseKey, NoiseStreams, initial_pyramid
from pyramid_seed.pipelines.denoise import UnitSettings, denoise_unit, renoise, upsample
from pyramid_seed.pipelines.history import history_clips, latent_pyramid
from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler
from tests.cases import check_cases

SCHEDULER = PyramidFlowMatchEulerDiscreteScheduler()
SHAPE = (1, LATENT_CHANNELS, 1, 16, 16)


@pytest.fixture(scope="module")
def clips():
    return render_seeds(world.TRAIN_SEEDS[:48])


def decode(codec: LinearCodec, latents: torch.Tensor) -> torch.Tensor:
    """The least-squares inverse of `codec.encode`, block by block; what the VAE starts from, done plainly."""
    first = torch.einsum("dk,bkthw->bdthw", torch.linalg.pinv(codec.first), latents[:, :, :1])
    later = torch.einsum("dk,bkthw->bdthw", torch.linalg.pinv(codec.later), latents[:, :, 1:])
    return torch.cat([join(first, frames=1), join(later, frames=FACTOR)], dim=2)


def join(blocks: torch.Tensor, frames: int) -> torch.Tensor:
    """Inverse of `cut`."""
    batch, _, length, height, width = blocks.shape
    parts = blocks.reshape(batch, -1, frames, FACTOR, FACTOR, length, height, width)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(
        batch, -1, length * frames, height * FACTOR, width * FACTOR
    )


def test_pixels_and_frames_are_inverse():
    frames = world.render(world.sample_scene(3))
    assert (frames_of(pixels_of(frames)) == frames).all()


def test_blocks_hold_a_clip_and_lose_nothing():
    def rule(frames):
        clip = torch.arange(2 * 3 * 8 * 16 * 8.0).reshape(2, 3, 8, 16, 8)
        blocks = cut(clip, frames)
        assert blocks.shape == (2, 3 * frames * FACTOR * FACTOR, 8 // frames, 16 // FACTOR, 8 // FACTOR)
        assert torch.equal(join(blocks, frames), clip)
        corner = clip[0, :, :frames, :FACTOR, :FACTOR]
        assert torch.equal(blocks[0, :, 0, 0, 0], corner.flatten())

    check_cases([1, FACTOR], rule)


def test_the_codec_that_is_kept_fits_the_world(clips):
    """It was fitted to another world; this one's clips have latents of about unit size in it, too, and come
    back at 30 dB."""
    codec = load_codec()
    latents = codec.encode(clips)
    assert latents.shape == (48, LATENT_CHANNELS, 5, 16, 16)
    assert torch.equal(codec.encode(clips[:, :, :1]), latents[:, :, :1])
    assert 0.9 < latents.std().item() < 1.1
    error = (decode(codec, latents).clamp(-1, 1) - clips).square().mean()
    assert 10 * torch.log10(4 / error) > 30


@pytest.mark.slow
@torch.no_grad()
def test_the_vae_starts_as_the_codec(clips):
    """But for the variation of the norms' statistics; the first frame and later ones, whole or in chunks."""
    torch.manual_seed(0)
    codec, vae = load_codec(), train_vae.build_vae().eval()
    clip = clips[:1]
    latents = codec.encode(clip)
    assert (vae.encode(clip).latent_dist.mode() - latents).square().mean() < 1e-4
    assert (vae.encode(clip[:, :, :1]).latent_dist.mode() - latents[:, :, :1]).square().mean() < 1e-4
    expected = decode(codec, latents)
    for decoded in (vae.decode(latents).sample, torch.cat(list(vae.decode_chunks(latents, 1)), dim=2)):
        assert 10 * torch.log10(4 / (decoded - expected).square().mean()) > 45


@torch.no_grad()
def test_the_vae_starts_with_any_linear_decoder(clips):
    """What the network does with the kernels is their causal convolution, with zeros around the clip."""
    generator = torch.Generator().manual_seed(0)
    latents = load_codec().encode(clips[:1, :, :9])
    later = 0.02 * torch.randn(BLOCK, LATENT_CHANNELS + 1, 3, 3, 3, generator=generator)
    first = 0.02 * torch.randn(FIRST_BLOCK, LATENT_CHANNELS + 1, 1, 3, 3, generator=generator)
    vae = train_vae.build_vae(LinearDecoder(later, first)).eval()
    inputs = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    blocks = F.conv3d(F.pad(inputs, (1, 1, 1, 1, 2, 0)), later)
    start = F.conv3d(inputs[:, :, :1], first, padding=(0, 1, 1))
    start = start + blocks[:, :, :1].unflatten(1, (3, 4, 16))[:, :, -1].flatten(1, 2)
    expected = torch.cat([join(start, frames=1), join(blocks[:, :, 1:], frames=FACTOR)], dim=2)
    torch.testing.assert_close(vae.decode(latents).sample, expected, atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_the_fitted_decoder_is_better_than_the_codec(clips):
    """Least squares over a set that has the codec's inverse in it; on clips that were not fitted, too."""
    codec = load_codec()
    vae = train_vae.build_vae(fit_decoder(codec, clips[8:])).eval()
    for part in (clips[8:10], clips[:2]):
        latents = codec.encode(part)
        with torch.no_grad():
            error = (vae.decode(latents).sample - part).square().mean()
        assert error < (decode(codec, latents) - part).square().mean()


def test_clips_of_the_vae_training_are_of_every_length_and_never_the_same():
    seen = [train_vae.training_clips(step) for step in range(6)]
    assert {tuple(part.shape[:3:2]) for part in seen} == {(4, 5), (2, 9), (1, 17)}
    assert not torch.equal(seen[0], seen[3])


def test_clips_of_the_vae_training_start_at_every_frame_they_can(monkeypatch):
    """Of clips whose frames are their own numbers, so that a part tells where it starts."""

    def rule(shape):
        numbers = torch.arange(float(world.TRAIN_FRAMES)).reshape(1, 1, -1, 1, 1)
        monkeypatch.setattr(
            train_vae, "render_seeds", lambda seeds, frames: numbers.repeat(len(seeds), 3, 1, 1, 1)
        )
        frames, count = train_vae.CLIP_SHAPES[shape]
        starts = set()
        for turn in range(world.TRAIN_FRAMES - frames + 1):
            clips = train_vae.training_clips(len(train_vae.CLIP_SHAPES) * turn + shape)
            start = int(clips[0, 0, 0, 0, 0])
            assert torch.equal(
                clips[:, 0, :, 0, 0], torch.arange(start, start + frames).float().repeat(count, 1)
            )
            starts.add(start)
        assert starts == set(range(world.TRAIN_FRAMES - frames + 1))

    check_cases(range(3), rule)


def _single_clip(seed: int) -> Latents:
    stages = [torch.randn((1, *SHAPE[1:2], 5, *SHAPE[3:]), generator=torch.Generator().manual_seed(seed))]
    for _ in range(NUM_STAGES - 1):
        stages.insert(0, halve(stages[0]))
    return Latents(tuple(stages), torch.zeros(1, train_transformer.CAPTIONS_PER_CLIP, dtype=torch.long))


def _local_sigma(stage: int, timestep: torch.Tensor) -> torch.Tensor:
    """Inverse of the scheduler's `timestep_of`, which is linear."""
    first, last = (SCHEDULER.timestep_of(stage, sigma).double() for sigma in (1.0, 0.0))
    return ((timestep.double() - last) / (first - last)).reshape(-1, 1, 1, 1, 1)


def _implied_noise(data: Latents, unit: int, stage: int, latents: torch.Tensor, local: torch.Tensor):
    """n of the point `latents`, with (1 - start) U and (1 - end) C, all float64."""
    start, end = SCHEDULER.start_sigmas[stage], SCHEDULER.end_sigmas[stage]
    clean = (1 - end) * data.stages[stage][:, :, unit : unit + 1].double()
    beginning = torch.zeros_like(clean)
    if stage > 0:
        beginning = (1 - start) * upsample(data.stages[stage - 1][:, :, unit : unit + 1]).double()
    mean = local * beginning + (1 - local) * clean
    return (latents.double() - mean) / (local * start + (1 - local) * end), beginning, clean


def _best_velocity(data: Latents, unit: int, stage: int, latents: torch.Tensor, timestep: torch.Tensor):
    noise, beginning, clean = _implied_noise(data, unit, stage, latents, _local_sigma(stage, timestep))
    way = SCHEDULER.start_sigmas[stage] - SCHEDULER.end_sigmas[stage]
    return way * noise + beginning - clean


@dataclass
class Oracle:
    """A perfectly trained transformer for one clip; notes the noise and the history that each stage meets."""

    data: Latents
    unit: int
    noises: list[torch.Tensor] = field(default_factory=list)
    histories: list[list[torch.Tensor]] = field(default_factory=list)

    def start_unit(self, guidance_scale: float) -> None:
        assert guidance_scale == 1.0

    def start_stage(self, num_steps: int) -> None:
        self.histories.append([])

    def __call__(self, latents, history, timestep):
        stage = len(self.histories) - 1
        if len(self.noises) == stage:
            start = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
            self.noises.append(_implied_noise(self.data, self.unit, stage, latents, start)[0])
        self.histories[-1] = history
        return _best_velocity(self.data, self.unit, stage, latents, timestep[None]).float()


def _sample(data: Latents, unit: int, root: int) -> tuple[torch.Tensor, Oracle]:
    oracle = Oracle(data, unit)
    clip = data.stages[-1]
    past = [latent_pyramid(frame, NUM_STAGES) for frame in clip.split(1, dim=2)[:unit]]
    settings = UnitSettings(num_inference_steps=(4, 3, 5), guidance_scale=1.0)
    *_, latents = denoise_unit(
        unit,
        past,
        oracle,
        SCHEDULER,
        NoiseStreams(root),
        LatentShape(SHAPE[1], *SHAPE[3:], num_stages=NUM_STAGES),
        torch.device("cpu"),
        settings,
        lambda place, timestep, latents: latents,
    )
    return latents, oracle


def test_batches_have_the_velocity_that_the_oracle_knows():
    """Float32 points are exact to about 5e-7; dividing by a noise level of 0.01 or more costs two digits."""

    def rule(stage, unit):
        data = _single_clip(0)
        batch = make_batch(data, SCHEDULER, stage, unit, 16, torch.Generator().manual_seed(1))
        velocity = _best_velocity(data, unit, stage, batch.noisy, batch.timestep)
        torch.testing.assert_close(batch.target.double(), velocity, atol=1e-4, rtol=0)

    check_cases(product(range(NUM_STAGES), [0, 3]), rule)


def test_batches_start_from_white_noise_of_the_stages_level():
    """The velocity alone would not show a wrong start of the last stage: all its ways end in C. The noise
    that is left must not depend on the clip, and have variance 1 (five standard errors of its estimate)."""

    def rule(stage):
        noises = []
        for seed in (0, 1):
            data = _single_clip(seed)
            batch = make_batch(data, SCHEDULER, stage, 2, 64, torch.Generator().manual_seed(1))
            local = _local_sigma(stage, batch.timestep)
            noises.append(_implied_noise(data, 2, stage, batch.noisy, local)[0])
        torch.testing.assert_close(*noises, atol=2e-4, rtol=0)
        variance = noises[0].square().mean().item()
        assert variance == pytest.approx(1, abs=5 * (2 / noises[0].numel()) ** 0.5)

    check_cases(range(NUM_STAGES), rule)


def test_sampler_with_the_best_velocity_gives_the_clip():
    """The ways are straight, so any number of Euler steps follows them exactly."""

    def rule(unit):
        data = _single_clip(0)
        latents, _ = _sample(data, unit, root=5)
        torch.testing.assert_close(latents, data.stages[-1][:, :, unit : unit + 1], atol=1e-4, rtol=0)

    check_cases([0, 1, 3], rule)


def test_every_stage_starts_from_noise_that_knows_nothing_of_the_clip():
    """The mean of the sampler's start points is that of training, (1 - start) U: what remains of them after
    it is subtracted is the same for two different clips."""
    noises = [_sample(_single_clip(seed), 0, root=5)[1].noises for seed in (0, 1)]
    initial = initial_pyramid(NoiseStreams(5).draw(NoiseKey("initial", 0, 0), SHAPE), NUM_STAGES)
    assert torch.equal(noises[0][0].float(), initial[0])
    assert len(noises[0]) == NUM_STAGES
    for ours, theirs in zip(*noises, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_every_stage_starts_from_white_noise_of_its_level():
    """Covariance in closed form: renoise is linear, so it is that of its matrix over one 2x2 block."""

    def rule(stage):
        coefficients, gamma = SCHEDULER.renoise_coefficients(stage), SCHEDULER.config.gamma
        old = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
        white = torch.eye(4, dtype=torch.float64).reshape(4, 1, 1, 1, 2, 2).unbind()
        of_old = renoise(old, coefficients, torch.zeros_like(white[0]), gamma).flatten()
        of_white = torch.stack(
            [renoise(0 * old, coefficients, part, gamma).flatten() for part in white], dim=1
        )
        level = SCHEDULER.end_sigmas[stage - 1]
        covariance = level**2 * torch.outer(of_old, of_old) + of_white @ of_white.T
        expected = SCHEDULER.start_sigmas[stage] ** 2 * torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(covariance, expected, atol=1e-6, rtol=0)

    check_cases(range(1, NUM_STAGES), rule)


def test_history_is_that_of_the_sampler_up_to_its_noise(monkeypatch):
    def rule(unit):
        data = _single_clip(0)
        monkeypatch.setattr(train_transformer, "HISTORY_NOISE", 0.0)
        oracle = _sample(data, unit, root=5)[1]
        past = [latent_pyramid(frame, NUM_STAGES) for frame in data.stages[-1].split(1, dim=2)[:unit]]
        for stage in range(NUM_STAGES):
            batch = make_batch(data, SCHEDULER, stage, unit, 1, torch.Generator().manual_seed(0))
            met = oracle.histories[stage]
            assert len(batch.history) == len(met) == len(history_clips(past, stage))
            for ours, theirs in zip(batch.history, met, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)

    check_cases([0, 1, 2, 4], rule)


def test_learning_rate_rises_then_falls():
    rates = [warmup_then_cosine(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)


def test_a_schedule_rises_stays_and_falls_to_zero():
    schedule = Schedule(steps=100, warmup=10, decay=20)
    rates = [schedule.factor(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[9:81]) == {1}
    assert rates[-1] == pytest.approx(1 / 20)
    assert schedule.factor(100) == 0
    assert rates[81:] == sorted(rates[81:], reverse=True)


def test_before_the_decay_a_schedule_does_not_know_its_end():
    short, long = Schedule(60, 10, 20), Schedule(600, 10, 50)
    assert [short.factor(step) for step in range(41)] == [long.factor(step) for step in range(41)]
    short.check_resumable(40, long)
    short.check_resumable(59, short)
    with pytest.raises(ValueError, match="room for the decay after 41 steps, got 60; use 61"):
        short.check_resumable(41, long)
    with pytest.raises(ValueError, match="has begun: --steps must stay 60 and --decay-steps 20, got 600"):
        long.check_resumable(41, short)


def test_a_checkpoint_goes_on_only_as_it_began(tmp_path):
    path, device = tmp_path / "checkpoint.pt", torch.device("cpu")
    save_checkpoint(path, {"step": 3, "seed": 0, "start": None})
    state = load_checkpoint(path, device)
    check_same_beginning(state, {"seed": 0, "start": None})
    with pytest.raises(
        ValueError, match="began with --seed 0, got 1; give that one to go on, or another --out"
    ):
        check_same_beginning(state, {"seed": 1, "start": None})
    with pytest.raises(ValueError, match="began with --start None, got weights 12"):
        check_same_beginning(state, {"seed": 0, "start": "weights 12"})
    save_checkpoint(path, {"step": 3})  # as they were before they told
    check_same_beginning(load_checkpoint(path, device), {"seed": 1, "start": "weights 12"})


@pytest.mark.slow
def test_a_vae_training_is_reproducible_and_resumable(tmp_path, monkeypatch, capsys):
    """Three steps twice, and a run that was meant to be longer, stopped and ended: the same weights."""
    monkeypatch.setattr(train_vae, "VALIDATION_CLIPS", 1)
    monkeypatch.setattr(train_vae, "FITTED_CLIPS", 4)

    def train(out: str, *arguments: str) -> str:
        command = ["train_vae.py", "--device", "cpu", "--decay-steps", "1", "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        train_vae.main()
        return capsys.readouterr().out.split()[-1]

    digest = train("straight", "--steps", "3")
    assert train("again", "--steps", "3") == digest
    assert train("resumed", "--steps", "9", "--stop-after", "2") != digest
    assert train("resumed", "--steps", "3") == digest
    assert train("other", "--steps", "3", "--seed", "1") != digest
    with pytest.raises(ValueError, match="began with --seed 0, got 1"):
        train("straight", "--steps", "3", "--seed", "1")
    model = train_vae.AutoencoderKLCausalVideo.from_pretrained(tmp_path / "straight" / "model")
    assert digest_of(model) == digest


@pytest.mark.slow
def test_a_resumed_training_is_the_same_training(text_folder, tmp_path, monkeypatch):
    """Six steps at once, and three, a stop and three more: the same bits, and one log."""
    monkeypatch.setattr(train_transformer, "BATCH_SIZES", (2, 2, 2))
    monkeypatch.setattr(train_transformer, "VALIDATION_CLIPS", 4)
    monkeypatch.setattr(train_transformer, "VALIDATION_BATCH", 2)

    def train(out: str, *arguments: str):
        command = ["--out", str(tmp_path / out), "--text", str(text_folder), "--clips", "8", "--steps", "6"]
        command += ["--decay-steps", "2"]
        monkeypatch.setattr(sys, "argv", ["train_transformer.py", "--device", "cpu", *command, *arguments])
        train_transformer.main()
        return load_checkpoint(tmp_path / out / "checkpoint.pt", torch.device("cpu"))

    straight = train("straight")
    assert train("resumed", "--stop-after", "3")["step"] == 3
    resumed = train("resumed")
    assert straight["step"] == resumed["step"] == 6
    assert torch.equal(straight["generator"], resumed["generator"])
    for part in ("model", "average"):
        for name, value in straight[part].items():
            assert torch.equal(value, resumed[part][name]), (part, name)
    rows = [read_log(tmp_path / out / "log.jsonl")[-1] for out in ("straight", "resumed")]
    assert rows[0]["stage2_unit3"] == rows[1]["stage2_unit3"]

    start = ("--start", str(tmp_path / "straight" / "model"))
    still = train("still", *start, "--learning-rate", "0")
    assert still["step"] == 6
    torch.testing.assert_close(still["average"], straight["average"], atol=1e-6, rtol=0)
    for others, told in ((("--seed", "1"), "began with --seed 0, got 1"), (start, "began with --start None")):
        with pytest.raises(ValueError, match=told):
            train("straight", *others)
    with pytest.raises(ValueError, match=r"began with --start weights \w+, got None"):
        train("still")
    moved = train("moved", *start)
    assert not torch.allclose(moved["average"]["proj_out.weight"], still["average"]["proj_out.weight"])
