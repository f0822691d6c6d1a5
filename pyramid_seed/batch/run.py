"""`run_batch`: a list of prompts becomes a folder of clips, on one process or many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Unpack

import torch

from ..api import (
    check_request,
    generate,
    image_digest,
    lora_rows,
    opened_texts,
    parts_left_out,
    texts_of,
    weights_of,
)
from ..checkpoints.digests import weights_key
from ..checkpoints.source import RecognisedModel, recognise_model
from ..checks import check_path
from ..choices import DEFAULT_PATH, EARLIER_DEFAULT_PATH, AfterUse, AttentionPath, DeterminismLevel, Engine
from ..clip import Clip
from ..determinism import attention_backend_at
from ..devices import parse_device, usable_device
from ..dtypes import torch_dtype
from ..environment import environment_fingerprint
from ..first_image import in_clip_size
from ..loading import LoraToLoad, check_loras_fit, check_shards_fit, check_texts_fit, default_device
from ..media.frame_file import FrameFile
from ..media.images import open_image, pixels_digest
from ..media.video import check_fps
from ..noise import NoiseStreams
from ..pieces.processes import Processes, ProcessLostError
from ..pipelines.encoded_texts import EncodedTexts
from ..pipelines.inputs import Request
from ..pipelines.sharing import check_processes
from ..presets import Preset, Settings, settings_listed
from ..run_options import RunOptions
from ..shared_pipeline import shared_pipeline
from .engine import ray_options
from .errors import ModelError, refuse_too_many_files
from .group import Group
from .identity import KEY_LENGTH, Job, SharedContent, beginning_keys, key_of, shared_content
from .items import MOST_REMEMBERED, BatchItem, Defaults, items_of_list
from .jobs import run_jobs
from .launch import Launch, LaunchError, join_launch
from .maker import Order
from .part import parse_part
from .part_jobs import run_part
from .summary import BatchSummary, Plan
from .worker import Worker

logger = logging.getLogger(__name__)


@settings_listed
def run_batch(
    prompts: str | Path,
    output: str | Path,
    *,
    file_format: str | None = None,
    seeds: Sequence[int] = (0,),
    preset: str | Path | Preset | None = None,
    device: str | None = None,
    noise_device: str = "cpu",
    determinism: DeterminismLevel = "strict",
    text_encoders: AfterUse = "keep",
    prompt_embeds: str | Path | EncodedTexts | None = None,
    attention: AttentionPath | None = None,
    compile: bool = False,
    workers: int | None = None,
    loras: Mapping[str | Path, float] | None = None,
    lossless: bool = False,
    keep_going: bool = False,
    check_files: bool = False,
    folders: bool = False,
    keep_units: bool = False,
    num_processes: int | None = None,
    processes_per_clip: int = 1,
    part: str | None = None,
    engine: Engine = "launch",
    address: str | None = None,
    num_gpus_per_clip: float | None = None,
    progress: bool = True,
    **settings: Unpack[Settings],
) -> BatchSummary:
    """Make the clips of a list that do not exist yet; every process of a launch makes the same call.

    A clip's identity is its content: prompt, seed, settings, image, weights, LoRAs. It is the same clip, in a
    file of the same name, whatever surrounds it in the list, however many processes there are, and however
    often the batch was interrupted.

    Args:
        prompts: a .txt, .jsonl, .csv or .yaml file (docs/batch.md), or "-" for standard input.
        output: the folder for clips, `index.jsonl`, `contact_sheet.png` and `logs`.
        file_format: "txt", "jsonl", "csv" or "yaml", overriding the file's extension.
        seeds: for rows that give none.
        preset: for rows that give none; default: the settings that their model is made for, or those of
            "tiny" if no model is given.
        device: where models run; default: an accelerator per process, else the CPU.
        noise_device: where noise is drawn; noise from the CPU is the same on all machines.
        determinism: "strict" or "relaxed".
        text_encoders: after encoding a clip's text, "keep" the encoders or "offload" them to the CPU.
        prompt_embeds: the texts of all rows, encoded by `encode_list`, or their file: then no process loads
            text encoders.
        attention, compile: see `generate`; they are part of a clip's identity.
        workers: threads per process, see `generate`.
        loras: for rows that give none, see `generate`.
        lossless: keep every bit in the video files.
        keep_going: make what can be made even if some rows are bad; bad rows then count as failed.
        check_files: read every existing file completely, to check that it is the one that was written;
            otherwise only files whose size or modification time differs from the record.
        folders: put new clips into sub-folders named after the first two digits of their ids, at most 256.
        keep_units: keep the latents of finished clips in `.work`, and go on from those of a clip that is
            another's beginning: shorter, or up to a branch.
        num_processes: how many processes were started; another number is refused.
        processes_per_clip: how many neighbouring processes of the launch make each clip together, in the
            pieces that the setting `shards` defines; the clips are the same with any number.
        part: "I/N": make only the clips of part I (0 to N - 1), in a process that does not communicate and
            may run beside those of other parts; "auto" or "auto/N": the part given by the variables of a
            Slurm array job or a Kubernetes Indexed Job. `gather_parts` puts the index in order.
        engine: "launch": the processes of a launch divide the list; "ray": actors of a Ray cluster do, one
            per GPU, or per core on CPUs (docs/cluster.md); needs the extra `ray`.
        address: of the Ray cluster, as `ray.init` takes it; default: RAY_ADDRESS, or a cluster on this
            machine for this batch only.
        num_gpus_per_clip: the fraction of a GPU that each actor takes; default: 1.
        progress: show a progress line on standard error.
        settings: values that replace the presets', see below; a row's own values take precedence.

    Returns:
        The outcome; complete only in the main process.

    Raises:
        BatchInputError: some rows are bad, all listed; nothing was made.
        ValueError: the list cannot be read or is empty, the number of processes is wrong, a device is
            missing, or a run option is invalid.
        OSError: the list cannot be read, or the folder cannot be written to.
        ModelError: a model cannot be loaded, or its files have changed since the batch began; a ValueError.
        LaunchError: the processes have lost each other.
        ConnectionError: there is no Ray cluster at the address.
    """
    options = RunOptions(device, noise_device, determinism, attention, compile, workers, text_encoders)
    if text_encoders == "free":
        raise ValueError(
            "text_encoders must be keep or offload, got 'free'; a batch has more texts to encode: use "
            "offload, or encode the list first (pyramid-seed encode) and give prompt_embeds"
        )
    options.check()
    check_path("prompts", prompts)
    check_path("output", output)
    ray = ray_options(
        engine,
        address,
        num_gpus_per_clip,
        device=device,
        workers=workers,
        num_processes=num_processes,
        processes_per_clip=processes_per_clip,
    )
    embeds = opened_texts(prompt_embeds)
    without = parts_left_out(text_encoders, embeds)
    launch = join_launch(num_processes)
    own_part = None if part is None else parse_part(part)
    if own_part is not None and (launch.world_size > 1 or ray is not None):
        raise ValueError(
            "part is for processes that are started one by one, but this is "
            + ("engine='ray'" if ray else f"a launch of {launch.world_size}")
            + "; leave out part, or start each part without a launcher or engine"
        )
    own_device = _device_of("cpu" if ray else device, launch)
    NoiseStreams(0, noise_device)  # also refuses a device without float64
    group = Group.of_launch(launch, processes_per_clip, torch.device(own_device))
    maker = _ClipMaker(own_device, options, lossless, group, embeds)
    work_on = Worker.work
    if ray is not None:
        from .ray_engine import work_on_actors  # the only module that needs Ray

        actor = replace(maker, options=replace(options, workers=ray.num_cpus))
        work_on = partial(work_on_actors, maker_on=lambda device: replace(actor, device=device), options=ray)

    def make_plan() -> Plan:
        source_of = cache(lambda model, variant: recognise_model(model, variant=variant, without=without))
        fetched = cache(lambda model, variant: source_of(model, variant).fetched())
        loras_fit = cache(lambda loras, *model: check_loras_fit(loras, source_of(*model)))
        shards_fit = cache(lambda shards, *model: check_shards_fit(shards, source_of(*model)))
        texts_fit = cache(lambda *model: check_texts_fit(embeds, source_of(*model)))
        negatives: dict[int, str | None] = {}  # by settings, which many items share

        def check(item: BatchItem) -> None:
            model = item.settings.model, item.settings.variant
            request = _request(item, source_of(*model), processes_per_clip)
            negatives[id(item.settings)] = texts_of(item.prompt, item.settings, request)[1]
            loras_fit(item.loras, *model)
            shards_fit(item.settings.shards, *model)
            texts_fit(*model)
            if keep_going:  # an incomplete model is the fault of its rows alone
                fetched(*model)

        def check_text(item: BatchItem) -> None:
            if embeds is not None:
                settings, negative = item.settings, negatives[id(item.settings)]
                prompt = item.prompt + settings.prompt_suffix
                embeds.check(prompt, negative, settings.max_sequence_length, settings.dtype)

        items, bad = items_of_list(
            prompts,
            file_format,
            Defaults(preset, settings, seeds, loras),
            source_of=source_of,
            check=check,
            check_text=check_text,
            keep_going=keep_going,
        )
        # By object identity: a user's own preset may hold lists, which are not hashable.
        shared: dict[
            tuple[int, str | None, tuple[LoraToLoad, ...]], tuple[list[SharedContent], dict[str, Any]]
        ] = {}
        jobs: dict[str, Job] = {}
        list_sum, num_own = 0, 0
        for item in items:
            place = id(item.settings), item.image_digest, item.loras
            if place not in shared:
                if len(shared) >= MOST_REMEMBERED:
                    shared.clear()
                source = fetched(item.settings.model, item.settings.variant)
                request = _request(item, source, processes_per_clip)
                weights = source.weights if embeds is None else embeds.with_rows(source.weights)
                steps, digest = _steps(item, request), weights_key(weights)
                lengths = [source.geometry.num_frames(n) for n in range(1, len(steps) if keep_units else 1)]
                likes = [replace(item, settings=replace(item.settings, num_frames=n)) for n in lengths]
                shared[place] = (
                    [maker.shared_content(like, digest) for like in (*likes, item)],
                    {
                        "steps": steps,
                        "frames_per_unit": request.shape.frames,
                        "attention": source.family.attention,
                    },
                )
            (*shorter, content), making = shared[place]
            key = key_of(item, content)
            list_sum += int(key[:KEY_LENGTH], 16)
            if own_part is None or own_part.has(key[:KEY_LENGTH]):
                num_own += 1
                if key not in jobs:
                    begun = beginning_keys(item, shorter) if keep_units else None
                    jobs[key] = Job(item, key, **making, beginnings=begun)
        own_bad = bad if own_part is None or own_part.index == 0 else ()  # a row without an id is told once
        return Plan(tuple(jobs.values()), tuple(own_bad), num_own - len(jobs), list_sum)

    flags = {"lossless": lossless, "progress": progress, "check_files": check_files, "folders": folders}
    if own_part is not None:
        return run_part(Path(output), own_part, launch, make_plan, maker, **flags)
    return run_jobs(
        Path(output), launch, make_plan, maker, group=group, follow=maker.follow, work_on=work_on, **flags
    )


@dataclass(frozen=True)
class _ClipMaker:
    """Makes the clips of a batch with this process's shared pipeline."""

    device: str
    options: RunOptions
    lossless: bool
    group: Group | None
    embeds: EncodedTexts | None

    def shared_content(self, item: BatchItem, weights: str) -> SharedContent:
        """What identifies an item made with these weights, see `identity.shared_content`."""
        options = self.options
        # Only what is not the default, so that folders of earlier versions continue.
        path = {} if options.attention in (None, DEFAULT_PATH) else {"attention": options.attention}
        compiled = {"compiled": True} if options.compile else {}
        return shared_content(
            item,
            weights,
            noise_device=options.noise_device,
            determinism=options.determinism,
            lossless=self.lossless,
            **path,
            **compiled,
        )

    def image_digest(self, item: BatchItem) -> str | None:
        """See `worker.Maker`."""
        image = _image_of(item)
        return image_digest(image)

    def origins(self, job: Job) -> list[dict[str, Any]]:
        """What can change the bits of a unit besides its content, see `maker.Maker`."""
        item, options = job.item, self.options
        dtype, backend = torch_dtype(item.settings.dtype), attention_backend_at(options.determinism)
        fingerprint = environment_fingerprint(self.device, dtype, backend, options.determinism)
        path = options.attention or job.attention
        # Clips that were begun under an earlier default are finished with it.
        paths = [path, EARLIER_DEFAULT_PATH] if path == DEFAULT_PATH else [path]
        origin = fingerprint | {"compiled": options.compile}
        if self.embeds is not None:
            texts = item.prompt + item.settings.prompt_suffix, item.settings.negative_prompt
            origin["texts"] = [self.embeds.digest(text) for text in texts if text in self.embeds.texts]
        return [origin | {"attention": path} for path in paths]

    def make(
        self,
        order: Order,
        on_step: Callable[[], None],
        on_unit: Callable[[int, torch.Tensor, Sequence[str]], None],
        sink: FrameFile,
    ) -> Clip:
        """The clip of a job, see `maker.Maker`."""
        if self.group is None:
            return self._make(order, on_step, on_unit, sink)
        self.group.tell(order)
        try:
            with self.group.making() as processes:
                return self._make(order, on_step, on_unit, sink, processes)
        except ProcessLostError as error:
            raise LaunchError(str(error)) from error

    def follow(self, order: Order) -> None:
        """Make a clip with the leading process, which gets it at the end."""
        assert self.group is not None  # its leading process gave the order
        logger.info("%s: begun, with other processes", order.job.file)
        try:
            with self.group.making() as processes:
                self._make(order, None, None, None, processes)
        except Exception:  # the leading process reports what became of the clip
            logger.exception("%s: left", order.job.file)

    def _make(
        self,
        order: Order,
        on_step: Callable[[], None] | None,
        on_unit: Callable[[int, torch.Tensor, Sequence[str]], None] | None,
        sink: FrameFile | None,
        processes: Processes | None = None,
    ) -> Clip:
        item, options = order.job.item, self.options
        try:
            without = parts_left_out(options.text_encoders, self.embeds)
            pipeline = shared_pipeline.get(
                item.settings, self.device, options.compile, loras=item.loras, without=without
            )
        except Exception as error:  # whatever it is, every clip of the model would fail
            refuse_too_many_files(error)
            raise ModelError(
                f"{item.settings.model} cannot be loaded: {error}. Finished work is kept; repair the "
                "model and run the batch again"
            ) from error
        weights = weights_of(pipeline, self.embeds)[0] or ()
        wanted = [(lora.sha256, lora.scale) for lora in item.loras]
        here = [(row["sha256"], row["scale"]) for row in lora_rows(pipeline) or ()]
        if key_of(item, self.shared_content(item, weights_key(weights))) != order.job.key or here != wanted:
            raise ModelError(
                f"the files of {item.settings.model} or its LoRAs differ from those with which the batch "
                "began; give all machines the same ones, and run the batch again"
            )
        return generate(
            item.prompt,
            seed=item.seed,
            branches=item.branches,
            preset=item.settings,
            height=item.settings.height,
            width=item.settings.width,
            image=_image_of(item),
            beginning=order.known,
            noise_device=options.noise_device,
            determinism=options.determinism,
            text_encoders=options.text_encoders,
            prompt_embeds=self.embeds,
            attention=order.origin["attention"],
            workers=options.workers,
            pipeline=pipeline,
            progress=False,
            processes=processes,
            on_step=None if on_step is None else lambda *_: on_step(),
            on_unit=None if on_unit is None else lambda _, *unit: on_unit(*unit),
            sink=sink,
        )


def _image_of(item: BatchItem) -> Any:
    if item.image is None:
        return None
    image = open_image(item.image)
    if pixels_digest(image) != item.image_digest:
        raise ValueError(f"{item.image} has changed since the batch began")
    return in_clip_size(image, item.settings)


def _request(item: BatchItem, source: RecognisedModel, processes_per_clip: int) -> Request:
    """What is to be made; raises pipeline and file errors before anything is loaded."""
    check_fps(item.settings.fps, ".mp4")
    request = check_request(source.geometry, item.prompt, item.settings)
    check_processes(processes_per_clip, item.settings.shards, is_guided=request.is_guided)
    return request


def _steps(item: BatchItem, request: Request) -> tuple[int, ...]:
    """Transformer steps per unit; an image that is the first unit takes none."""
    steps = [sum(unit.num_inference_steps) for unit in request.units]
    is_first_unit = item.image is not None and request.image_role == "unit"
    return tuple([0, *steps[1:]] if is_first_unit else steps)


def _device_of(device: str | None, launch: Launch) -> str:
    """The device of this process: if several share a machine, each has an accelerator of its own.

    Raises:
        ValueError: this machine has fewer accelerators than processes, or the device cannot be used.
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
            f"start {count} processes per machine, or use --device cpu"
        )
    return str(usable_device(f"{chosen.type}:{launch.local_rank}"))
