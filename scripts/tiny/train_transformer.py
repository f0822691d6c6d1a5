"""Train the transformer of the embedded model by pyramidal flow matching (arXiv 2410.05954, section 3).

    python scripts/tiny/train_transformer.py

Needs `train_text.py` first. Latents come from the linear codec that is also the VAE's teacher; they are
computed once, at the start. A checkpoint is written every few minutes, and the same command goes on from it.

To end a training early, start it again with fewer --steps, at least --decay-steps more than were made.
To train a finished model further, give its folder as --start, another --out and another --seed. A checkpoint
goes on only with the --start and the --seed that it began with.
"""

from __future__ import annotations

import argparse
import copy
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import world
from clips import render_seeds
from codec import LinearCodec, load_codec
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_text import CLIP_WIDTH, T5_WIDTH, tokenize
from training import (
    WORK_FOLDER,
    Schedule,
    append_log,
    check_same_beginning,
    digest_of,
    draw_curves,
    load_checkpoint,
    pick_device,
    save_checkpoint,
    smooth,
    update_average,
)
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from pyramid_seed.geometry import history_plan
from pyramid_seed.models.transformer_pyramid_flux import PyramidFluxTransformer3DModel
from pyramid_seed.noise import initial_pyramid
from pyramid_seed.schedulers import PyramidFlowMatchEulerDiscreteScheduler

NUM_STAGES = 3
BATCH_SIZES = (48, 40, 24)
LOSS_WEIGHTS = (3.0, 2.0, 1.0)
FIRST_UNIT_SHARE = 0.4
EMPTY_CAPTION_SHARE = 0.1
HISTORY_NOISE = 1 / 3
CAPTIONS_PER_CLIP = 4
EMA_DECAY = 0.998
WARMUP_STEPS = 100
VALIDATION_CLIPS = 200
VALIDATION_BATCH = 64


def build_transformer() -> PyramidFluxTransformer3DModel:
    """The embedded model's transformer with fresh weights (3.4 M parameters).

    Zero-initialised modulation and output layers make every block the identity at first.
    """
    model = PyramidFluxTransformer3DModel(
        num_layers=1,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        axes_dims_rope=(8, 12, 12),
    )
    for name, parameter in model.named_parameters():
        modulation = name.startswith(("norm_out", "proj_out")) or (".norm" in name and "linear" in name)
        if name.endswith("bias") or modulation:
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            torch.nn.init.xavier_uniform_(parameter)
    return model


def build_optimizers(
    model: PyramidFluxTransformer3DModel, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if "blocks." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate / 2, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


@dataclass(frozen=True)
class Captions:
    """Embeddings of all captions; caption 0 is the empty one."""

    embeds: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor

    def to(self, device: torch.device) -> Captions:
        """The same on another device."""
        return Captions(self.embeds.to(device), self.mask.to(device), self.pooled.to(device))


@torch.no_grad()
def embed_captions(texts: list[str], folder: Path) -> Captions:
    """Run the frozen text encoders over captions."""
    clip_ids, _ = tokenize(CLIPTokenizer.from_pretrained(folder / "tokenizer"), texts)
    t5_ids, mask = tokenize(T5Tokenizer.from_pretrained(folder / "tokenizer_2"), texts)
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2").eval()
    embeds, pooled = [], []
    for ids, part, part_mask in zip(clip_ids.split(500), t5_ids.split(500), mask.split(500), strict=True):
        pooled.append(clip(ids).pooler_output)
        embeds.append(t5(part, attention_mask=part_mask).last_hidden_state)
    return Captions(torch.cat(embeds), mask, torch.cat(pooled))


@dataclass(frozen=True)
class Latents:
    """Clean latents of all clips, one tensor a stage: (N, 16, T, H_s, W_s), normalised."""

    stages: tuple[torch.Tensor, ...]
    captions: torch.Tensor
    """(N, CAPTIONS_PER_CLIP) indices into `Captions`."""

    def to(self, device: torch.device) -> Latents:
        """The same on another device."""
        return Latents(tuple(stage.to(device) for stage in self.stages), self.captions.to(device))


def halve(latents: torch.Tensor) -> torch.Tensor:
    """Bilinear halving of rows and columns of (B, C, T, H, W)."""
    return F.interpolate(latents, scale_factor=(1, 0.5, 0.5), mode="trilinear")


def make_data(seeds: range, codec: LinearCodec, text_folder: Path) -> tuple[Latents, Captions]:
    """Render and encode the clips with these seeds and embed their captions."""
    texts: dict[str, int] = {"": 0}
    finest, indices = [], []
    for start in range(0, len(seeds), 500):
        part = seeds[start : start + 500]
        finest.append(codec.encode(render_seeds(part, world.TRAIN_FRAMES)).half())
        for seed in part:
            scene = world.sample_scene(seed)
            first = seed * CAPTIONS_PER_CLIP
            variants = [world.training_caption(scene, first + k) for k in range(CAPTIONS_PER_CLIP)]
            indices.append([texts.setdefault(text, len(texts)) for text in variants])
    stages = [torch.cat(finest)]
    for _ in range(NUM_STAGES - 1):
        stages.insert(0, torch.cat([halve(part.float()).half() for part in stages[0].split(500)]))
    return Latents(tuple(stages), torch.tensor(indices)), embed_captions(list(texts), text_folder)


@dataclass(frozen=True)
class Batch:
    """Input and target of the transformer for one stage and unit."""

    noisy: torch.Tensor
    history: list[torch.Tensor]
    timestep: torch.Tensor
    target: torch.Tensor
    caption: torch.Tensor


def make_batch(
    data: Latents,
    scheduler: PyramidFlowMatchEulerDiscreteScheduler,
    stage: int,
    unit: int,
    size: int,
    generator: torch.Generator,
) -> Batch:
    """Draw a training batch as in the paper: a point on the straight way of one stage, with its velocity.

    The way leads from `start * noise + (1 - start) * upsampled coarser latent` to
    `end * noise + (1 - end) * latent`; past latents are corrupted by a random level of noise.
    """

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device)

    device = data.stages[0].device
    rows = torch.randint(len(data.captions), (size,), generator=generator, device=device)
    level = torch.rand(size, 1, 1, 1, 1, generator=generator, device=device) * HISTORY_NOISE
    history = []
    for clip in history_plan(unit, NUM_STAGES, stage):
        past = data.stages[clip.stage][rows, :, clip.start : clip.stop].float()
        history.append(level * normal(past) + (1 - level) * past)

    clean = data.stages[stage][rows, :, unit : unit + 1].float()
    noise = initial_pyramid(normal(data.stages[-1][rows, :, unit : unit + 1]), NUM_STAGES)[stage]
    start_sigma, end_sigma = scheduler.start_sigmas[stage], scheduler.end_sigmas[stage]
    start = noise
    if stage > 0:
        coarser = data.stages[stage - 1][rows, :, unit : unit + 1].float()
        upsampled = F.interpolate(coarser, scale_factor=(1, 2, 2), mode="nearest")
        start = start_sigma * noise + (1 - start_sigma) * upsampled
    end = end_sigma * noise + (1 - end_sigma) * clean
    local = torch.rand(size, generator=generator, device=device)
    along = local[:, None, None, None, None]

    column = torch.randint(CAPTIONS_PER_CLIP, (size,), generator=generator, device=device)
    empty = torch.rand(size, generator=generator, device=device) < EMPTY_CAPTION_SHARE
    return Batch(
        noisy=along * start + (1 - along) * end,
        history=history,
        timestep=scheduler.timestep_of(stage, local),
        target=start - end,
        caption=torch.where(empty, 0, data.captions[rows, column]),
    )


def draw_unit(num_units: int, generator: torch.Generator) -> int:
    """The unit to train: the first one, which is the hardest, more often than any other."""
    if torch.rand((), generator=generator, device=generator.device).item() < FIRST_UNIT_SHARE:
        return 0
    return int(torch.randint(1, num_units, (), generator=generator, device=generator.device))


def attention_for(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU, plain matrix products: for these short sequences twice as fast as its fused attention."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def flow_loss(model: PyramidFluxTransformer3DModel, batch: Batch, captions: Captions) -> torch.Tensor:
    """Mean squared error of the velocity. Text tokens that are padding in the whole batch are left out."""
    mask = captions.mask[batch.caption]
    length = int(mask.sum(1).max())
    velocity = model(
        batch.noisy,
        batch.history,
        batch.timestep,
        captions.embeds[batch.caption, :length],
        mask[:, :length],
        captions.pooled[batch.caption],
        return_dict=False,
    )[0]
    return F.mse_loss(velocity.float(), batch.target)


@torch.no_grad()
def validate(
    model: PyramidFluxTransformer3DModel,
    data: Latents,
    captions: Captions,
    scheduler: PyramidFlowMatchEulerDiscreteScheduler,
) -> dict[str, float]:
    """Losses on held-out clips with fixed draws, for the first and a later unit of every stage."""
    losses = {}
    for stage in range(NUM_STAGES):
        for unit in (0, 3):
            generator = torch.Generator(data.captions.device).manual_seed(1000 + stage)
            batch = make_batch(data, scheduler, stage, unit, VALIDATION_BATCH, generator)
            losses[f"stage{stage}_unit{unit}"] = flow_loss(model, batch, captions).item()
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=WORK_FOLDER / "transformer", help="folder to write to")
    parser.add_argument("--text", type=Path, default=WORK_FOLDER / "text", help="folder of train_text.py")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--start", type=Path, help="folder of a trained transformer to begin with")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--decay-steps", type=int, default=2000, help="the last ones, with a falling rate")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of the products")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="stop at this step (the schedule is that of --steps)")
    parser.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    torch.manual_seed(arguments.seed)

    arguments.out.mkdir(parents=True, exist_ok=True)
    codec = load_codec()
    data, captions = make_data(world.TRAIN_SEEDS[: arguments.clips], codec, arguments.text)
    data, captions = data.to(device), captions.to(device)
    held_out, held_out_captions = make_data(world.HELD_OUT_SEEDS[:VALIDATION_CLIPS], codec, arguments.text)
    held_out, held_out_captions = held_out.to(device), held_out_captions.to(device)

    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    model = (
        PyramidFluxTransformer3DModel.from_pretrained(arguments.start)
        if arguments.start
        else build_transformer()
    )
    # The digest names the weights wherever their folder has gone meanwhile.
    beginning = {"seed": arguments.seed, "start": f"weights {digest_of(model)}" if arguments.start else None}
    model = model.to(device).train()
    model.set_attention_path("reference")  # one call for captions of many lengths
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizers = build_optimizers(model, arguments.learning_rate)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    generator = torch.Generator(device).manual_seed(arguments.seed)
    schedule = Schedule(arguments.steps, WARMUP_STEPS, arguments.decay_steps)
    checkpoint, log = arguments.out / "checkpoint.pt", arguments.out / "log.jsonl"
    first_step, seconds_before = 0, 0.0
    if (state := load_checkpoint(checkpoint, device)) is not None:
        check_same_beginning(state, beginning)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        generator.set_state(state["generator"].cpu())
        first_step, seconds_before = state["step"], state["seconds"]
        schedule.check_resumable(first_step, Schedule(*state["schedule"]))
        print(f"going on from step {first_step}")

    last_step = min(arguments.steps, arguments.stop_after or arguments.steps)
    started = last_save = time.perf_counter()
    smoothed: dict[str, float] = {}
    for step in range(first_step, last_step):
        factor = schedule.factor(step)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        for stage, (size, weight) in enumerate(zip(BATCH_SIZES, LOSS_WEIGHTS, strict=True)):
            unit = draw_unit(data.stages[0].shape[2], generator)
            batch = make_batch(data, scheduler, stage, unit, size, generator)
            with (
                attention_for(device),
                torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"),
            ):
                loss = flow_loss(model, batch, captions)
            (weight * loss).backward()
            smoothed[f"train_stage{stage}"] = smooth(smoothed.get(f"train_stage{stage}"), loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        update_average(average, model, min(EMA_DECAY, (step + 1) / (step + 10)))

        done, now = step + 1, time.perf_counter()
        if done % 100 == 0 or done == last_step:
            with attention_for(device):
                losses = validate(average, held_out, held_out_captions, scheduler)
            row = {"step": done, "seconds": seconds_before + now - started, **smoothed, **losses}
            append_log(log, row)
            print(" ".join(f"{name}={value:.4g}" for name, value in row.items()), flush=True)
        if now - last_save > 180 or done == last_step:
            last_save = now
            save_checkpoint(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "generator": generator.get_state(),
                    "step": done,
                    "schedule": (schedule.steps, schedule.warmup, schedule.decay),
                    "seconds": seconds_before + now - started,
                    **beginning,
                },
            )
            average.save_pretrained(arguments.out / "model")
            draw_curves(log, arguments.out / "curves.png", "Transformer of the embedded model")
    print(f"step {last_step}, weights {digest_of(average)}")


if __name__ == "__main__":
    main()
