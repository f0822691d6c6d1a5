"""`run_batch`: a list of prompts becomes a folder of clips, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Unpack

import torch
from PIL.Image import Image

from ..api import current_pipeline, default_device, generate, image_digest, whole_ledger
from ..checkpoints.digests import weights_key
from ..checkpoints.facts import model_geometry, model_weights_key
from ..checkpoints.source import weights_of
from ..checks import check_choice
from ..choices import ATTENTION_PATHS, DETERMINISM_LEVELS, AfterUse, AttentionPath, DeterminismLevel
from ..clip import Clip
from ..determinism import attention_backend_at
from ..determinism import determinism as determinism_level
from ..devices import parse_device, usable_device
from ..environment import environment_fingerprint
from ..media.frame_file import FrameFile
from ..media.images import open_image, pixels_digest
from ..media.video import check_fps
from ..noise import LedgeredNoise, NoiseLedger, NoiseStreams
from ..pipelines import PyramidFlowPipeline
from ..pipelines.decode import encode_image
from ..pipelines.denoise import UnitSettings
from ..pipelines.inputs import Request, check_call, first_frames
from ..pipelines.text import text_digests
from ..presets import Preset, Settings
from .identity import Job, content_key
from .items import BatchItem, Defaults, items_from_rows, refuse_bad_rows
from .launch import Launch, join_launch
from .rows import STANDARD_INPUT, name_of, read_rows
from .units import KnownUnits
from .worker import BatchSummary, Plan, run_jobs

# Variables that a launcher sets, and whose effect is recorded as the number of threads.
_LAUNCHER_VARIABLES = {"KMP_AFFINITY", "OMP_NUM_THREADS", "PYTHONHASHSEED"}


def run_batch(
    prompts: str | Path,
    output: str | Path,
    *,
    file_format: str | None = None,
    seeds: Sequence[int] = (0,),
    preset: str | Path | Preset = "tiny",
    device: str | None = None,
    noise_device: str = "cpu",
    determinism: DeterminismLevel = "strict",
    text_encoders: AfterUse = "keep",
    attention: AttentionPath = "prefix",
    compile: bool = False,
    lossless: bool = False,
    keep_going: bool = False,
    num_processes: int | None = None,
    progress: bool = True,
    **settings: Unpack[Settings],
) -> BatchSummary:
    """Make the clips of a list that are not there yet; every process of a launch calls this with the same.

    A clip's identity is its content: prompt, seed, settings, image, weights. It is the same clip, in a file
    of the same name, whatever is before and after it in the list, on however many processes, and however
    often the batch was interrupted.

    Args:
        prompts: a .txt, .jsonl, .csv or .yaml file (docs/batch.md), or "-" for standard input.
        output: the folder for clips, `index.jsonl`, `contact_sheet.png` and `logs`.
        file_format: "txt", "jsonl", "csv" or "yaml" in place of the file's ending.
        seeds: for rows that name none.
        preset: for rows that name none.
        device: where models run; default: an accelerator of its own for each process, else the CPU.
        noise_device: where noise is drawn; the CPU's is the same on all machines.
        determinism: "strict" or "relaxed".
        text_encoders: once a clip's text is encoded, "keep" the encoders or "offload" them to the CPU.
        attention, compile: see `generate`; with other ones a clip is another clip.
        lossless: keep every bit in the files.
        keep_going: make what can be made if some rows are bad; these then count as failed.
        num_processes: how many processes were started; refused if it is another number.
        progress: show a line on standard error.
        settings: values that replace the presets'; a row's own come first.

    Returns:
        What came of it; whole only on the main process.

    Raises:
        BatchInputError: rows that are bad, all of them; nothing was made.
        ValueError: the list cannot be read or is empty, the number of processes is wrong, a device is not
            here, or there is no such way to run.
        OSError: the list cannot be read, or the folder cannot be written to.
        LaunchError: the processes have lost each other.
    """
    if text_encoders not in ("keep", "offload"):
        raise ValueError(
            f"text_encoders must be keep or offload, got {text_encoders!r}; a batch has other texts to "
            "encode: use offload"
        )
    check_choice("determinism", determinism, DETERMINISM_LEVELS)
    check_choice("attention", attention, ATTENTION_PATHS)
    launch = join_launch(num_processes)
    chosen = _device_of(device, launch)
    NoiseStreams(0, usable_device(noise_device, "noise_device"))  # refuses a device without float64 too
    run: dict[str, str | bool] = {
        "noise_device": noise_device,
        "determinism": determinism,
        "lossless": lossless,
    }
    # Only what is not the default, so that folders of earlier versions go on.
    run |= {"attention": attention} if attention != "prefix" else {}
    run |= {"compiled": True} if compile else {}
    maker = _ClipMaker(chosen, noise_device, determinism, text_encoders, attention, compile, run)

    def make_plan() -> Plan:
        where = name_of(prompts)
        folder = Path() if str(prompts) == STANDARD_INPUT else Path(prompts).parent
        rows, unread = read_rows(prompts, file_format)
        items, bad = items_from_rows(
            rows, Defaults(preset, settings, seeds), where=where, folder=folder, check=_request
        )
        if not keep_going or not items:
            refuse_bad_rows([*unread, *bad], len(items), where)
        jobs: dict[str, Job] = {}
        weights_of_model = cache(model_weights_key)
        for item in items:
            weights = weights_of_model(item.settings.model, item.settings.variant)
            key = content_key(item, weights, **run)
            jobs.setdefault(key, Job(item, key, _steps(item)))
        return Plan(tuple(jobs.values()), (*unread, *bad), duplicates=len(items) - len(jobs))

    return run_jobs(Path(output), launch, make_plan, maker, lossless=lossless, progress=progress)


class _ClipMaker:
    """Makes the clips of a batch with the shared pipeline of this process."""

    def __init__(
        self,
        device: str,
        noise_device: str,
        determinism: DeterminismLevel,
        text_encoders: AfterUse,
        attention: AttentionPath,
        compile: bool,
        run: Mapping[str, str | bool],
    ) -> None:
        self.run = run
        self.device = device
        self.noise_device = noise_device
        self.determinism: DeterminismLevel = determinism
        self.text_encoders: AfterUse = text_encoders
        self.attention: AttentionPath = attention
        self.compile = compile

    def origin(self, item: BatchItem) -> dict[str, Any]:
        """What can change the bits of a unit besides its content."""
        dtype = getattr(torch, item.settings.dtype)
        backend = attention_backend_at(self.determinism)
        fingerprint = environment_fingerprint(self.device, dtype, backend, self.determinism)
        variables = fingerprint["variables"].items()
        kept = {name: value for name, value in variables if name not in _LAUNCHER_VARIABLES}
        return fingerprint | {"variables": kept, "attention": self.attention, "compiled": self.compile}

    def make(
        self,
        job: Job,
        known: KnownUnits | None,
        on_step: Callable[[], None],
        on_unit: Callable[[int, torch.Tensor, Sequence[str]], None],
        sink: FrameFile,
    ) -> Clip:
        """The clip of a job, see `batch.worker.Maker`."""
        item, settings = job.item, job.item.settings
        pipeline = current_pipeline(
            settings.model, settings.variant, settings.dtype, self.device, self.compile
        )
        if content_key(item, weights_key(weights_of(pipeline) or ()), **self.run) != job.key:
            raise ValueError(
                f"the files of {settings.model} are others here than where and when the batch began; "
                "give all machines the same ones, and run the batch again"
            )
        picture = self._picture(item)
        # The picture's unit is kept like any other, so that an interrupted clip can go on from it.
        if picture is not None and known is None:
            known = KnownUnits(self._first_unit(pipeline, picture, item.seed), ((),))
            on_unit(0, known.latents, ())
        clip = generate(
            item.prompt,
            seed=item.seed,
            preset=settings,
            prefix_latents=None if known is None else known.latents,
            prefix_stage_digests=None if known is None else known.stage_digests,
            noise_device=self.noise_device,
            determinism=self.determinism,
            text_encoders=self.text_encoders,
            attention=self.attention,
            pipeline=pipeline,
            progress=False,
            on_step=lambda *_: on_step(),
            on_unit=lambda _, *unit: on_unit(*unit),
            sink=sink,
        )
        if picture is not None:
            noise = NoiseStreams(item.seed, self.noise_device)
            ledger = whole_ledger(noise, clip.geometry, clip.latents, with_image=True)
            clip = replace(clip, image_digest=image_digest(picture), ledger=ledger)
        if _is_guided(item) and "negative_prompt" not in clip.text_digests:
            # What is left of the clip was not guided, what was made earlier was.
            clip = replace(clip, text_digests=clip.text_digests | self._negative_digest(pipeline, item))
        return clip

    def _picture(self, item: BatchItem) -> Image | None:
        if item.image is None:
            return None
        picture = open_image(item.image)
        if pixels_digest(picture) != item.image_digest:
            raise ValueError(f"{item.image} is another picture than when the batch began")
        return picture

    @torch.no_grad()
    def _first_unit(self, pipeline: PyramidFlowPipeline, picture: Image, seed: int) -> torch.Tensor:
        """Latents (1, C, 1, h, w) of the first frame, as `generate` makes them of an image."""
        noise = LedgeredNoise(NoiseStreams(seed, self.noise_device), NoiseLedger())
        with determinism_level(self.determinism):
            return encode_image(pipeline.vae, first_frames(picture, 1)[0], noise)

    @torch.no_grad()
    def _negative_digest(self, pipeline: PyramidFlowPipeline, item: BatchItem) -> dict[str, str]:
        with determinism_level(self.determinism):
            negative = pipeline.remembered_text(
                item.settings.negative_prompt, item.settings.max_sequence_length
            )
        return {"negative_prompt": text_digests(negative, None)["prompt"]}


def _request(item: BatchItem) -> Request:
    """The checked call of an item; raises what pipeline and file would raise, before anything is loaded."""
    settings = item.settings
    check_fps(settings.fps, ".mp4")
    later = settings.video_num_inference_steps
    return check_call(
        model_geometry(settings.model, settings.variant),
        1,
        (1, 1),
        prompt=item.prompt,
        negative_prompt=settings.negative_prompt,
        embeddings={f"{sign}{name}": None for sign in ("", "negative_") for name in _EMBEDDINGS},
        image=None,
        prefix_latents=None,
        height=settings.height,
        width=settings.width,
        num_frames=settings.num_frames,
        num_inference_steps=list(settings.num_inference_steps),
        video_num_inference_steps=None if later is None else list(later),
        guidance_scale=settings.guidance_scale,
        video_guidance_scale=settings.video_guidance_scale,
        guidance_decay=settings.guidance_decay,
        min_guidance_scale=settings.min_guidance_scale,
        num_videos_per_prompt=1,
        max_sequence_length=settings.max_sequence_length,
    )


_EMBEDDINGS = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")


def _generated_units(item: BatchItem) -> tuple[int, Sequence[UnitSettings]]:
    """How many units an item is given, and the settings of the others."""
    known = 0 if item.image is None else 1
    return known, _request(item).units[known:]


def _steps(item: BatchItem) -> tuple[int, ...]:
    known, units = _generated_units(item)
    return (0,) * known + tuple(sum(unit.num_inference_steps) for unit in units)


def _is_guided(item: BatchItem) -> bool:
    return any(unit.guidance_scale > 1 for unit in _generated_units(item)[1])


def _device_of(device: str | None, launch: Launch) -> str:
    """The device of this process: where several share a machine, each has an accelerator of its own.

    Raises:
        ValueError: there are fewer accelerators than processes on this machine, or it cannot be used.
    """
    chosen = default_device() if device is None else parse_device(device)
    is_numbered = ":" in str(chosen)
    if chosen.type == "cpu" or (is_numbered and launch.world_size == 1):
        return str(usable_device(chosen))
    if is_numbered:
        raise ValueError(f"several processes cannot share {chosen}; use --device {chosen.type}")
    count = torch.accelerator.device_count()
    if launch.local_rank >= count:
        raise ValueError(
            f"process {launch.local_rank} of this machine has no accelerator of its own, there are {count}; "
            f"start {count} processes a machine, or use --device cpu"
        )
    return str(usable_device(f"{chosen.type}:{launch.local_rank}"))
