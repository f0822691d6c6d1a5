"""Clips made again, verified, continued: each function takes a `Clip`, a saved clip or a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import PipelineImageInput

from .api import (
    check_request,
    check_watchers,
    checked_pipeline,
    image_digest,
    load_for_clip,
    lora_rows,
    make_clip,
    opened_texts,
    parts_left_out,
    started_sink,
    tell_unfit,
    weights_of,
)
from .checkpoints.source import is_hub_id, read_source
from .checks import check_int, check_kinds, check_list, check_path, did_you_mean
from .choices import AfterUse
from .clip import Clip
from .devices import usable_device
from .dtypes import dtype_name
from .files import latents_path
from .first_image import in_clip_size
from .keying.clip import KeyedClip
from .keying.manifest import check_keyed_manifest, is_keyed, read_any_manifest
from .keying.verify import load_pipeline_of, remake_keyed, verify_keyed
from .loading import LoraToLoad
from .media.frame_file import FrameFile
from .models.lora import find_lora_file, lora_of_file
from .noise import noise_digest
from .pieces.processes import Processes
from .pipelines.beginning import Beginning
from .pipelines.clip_pipeline import ClipPipeline
from .pipelines.encoded_texts import ENCODER_PARTS, EncodedTexts
from .pipelines.first_frames import opened
from .pipelines.frame_collector import OnFrames
from .pipelines.stages import StageDigests
from .provenance.latents import read_latents
from .provenance.manifest import (
    check_manifest,
    check_noise_scheme,
    geometry_of,
    read_manifest,
    recipe_of,
)
from .provenance.sample import sample_units
from .provenance.verify import Verification, after_signature, verify_clip, verify_noise, verify_weights
from .recipe import Recipe, plan_extension
from .run_options import RunOptions
from .shared_pipeline import shared_pipeline
from .spot_check import remake_from_latents

AnyClip: TypeAlias = Clip | str | Path | Mapping[str, Any]
"""A clip in memory; a saved clip, with its manifest in it or beside it; or a manifest."""


class Making(TypedDict, total=False):
    """How a clip is made: its texts, what runs and watches it, what takes its frames, see `generate`."""

    text_encoders: AfterUse
    prompt_embeds: str | Path | EncodedTexts | None
    workers: int | None
    processes: Processes | None
    on_step: Callable[..., dict[str, Any] | None]
    on_unit: Callable[[int, int, torch.Tensor, StageDigests], None]
    on_chunk: OnFrames
    sink: FrameFile | None


@dataclass(frozen=True)
class _Given:
    """With what a clip is to be made again, see `regenerate`."""

    making: Making
    model: str | Path | None
    loras: Sequence[str | Path]
    device: str | None
    pipeline: DiffusionPipeline | None


def regenerate(
    clip: AnyClip,
    *,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    pipeline: ClipPipeline | None = None,
    progress: bool = True,
    **making: Unpack[Making],
) -> Clip:
    """Make a clip again.

    Args:
        clip: a `Clip`, the path of a saved clip, or a manifest.
        model: the folder of the weights; needed for a saved clip unless they are embedded or on the hub.
        image: the image that the clip was made from, if there was one.
        loras: the LoRA files that the clip was made with, in any order.
        device: where the model runs; default: the accelerator if there is one, else the CPU.
        pipeline: use this pipeline instead of loading the clip's model.
        progress: show a progress bar on standard error.
        making: these arguments of `generate`: text_encoders, prompt_embeds, workers, processes, on_step,
            on_unit, on_chunk and sink.

    Raises:
        ValueError: the model's folder, the image or a LoRA is needed and missing, or is a different one; or
            no file holds the weights.
        OSError: the weights cannot be read.
    """
    started = time.perf_counter()
    recipe, loaded, image = loaded_for(clip, making, model, image, loras, device, pipeline)
    return make_clip(recipe, loaded, image=image, started=started, progress=progress, **making)


def loaded_for(
    clip: AnyClip,
    making: Making,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    pipeline: ClipPipeline | None = None,
) -> tuple[Recipe, ClipPipeline, PipelineImageInput | None]:
    """What a clip is made again with: its recipe, its model and its image; see `regenerate`.

    Texts that are encoded before the model is loaded are put into `making`.
    """
    original, given = _original(clip), _Given(making, model, loras, device, pipeline)
    _start(given, original.recipe)
    image = _checked_image(original.recipe, image)
    return original.recipe, _model_of(original, given), image


def folder_of(clip: AnyClip, model: str | Path | None = None) -> str:
    """Where a clip's weights are on this machine, as `load_pipeline` takes it; ValueError if not known."""
    return _original(clip).folder(model)


def verify(
    clip: AnyClip,
    *,
    noise_only: bool = False,
    sample: int | None = None,
    trust: str | Path | None = None,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    pipeline: DiffusionPipeline | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: bool = True,
    **making: Unpack[Making],
) -> Verification:
    """Make a clip again and compare: weights, text, noise, units, decoded chunks, frames, the file.

    The signature of a signed file is checked first; if it does not hold, nothing is made.

    Args:
        clip: a `Clip`, the path of a saved clip, or a manifest; only a saved clip has a file. A `keyed`
            pipeline's clip needs that pipeline, as `pipeline`, or its folder or hub id, as `model`.
        noise_only: only redraw the noise, which needs no model.
        sample: make only this many units again, chosen by the operating system's random numbers, each from
            the latents before it: those of a `Clip`, or those kept beside a saved one. Text, noise, all
            frames and the file are still compared. `Verification.sample` gives the chance that a forged unit
            would have been noticed.
        trust: a file with certificates (PEM): one of them must vouch for the signer of the file.
        model, image, loras, device, pipeline, progress, making: see `regenerate`; a sink is not allowed.
        arguments: for a keyed clip, the arguments of its call that its manifest holds only by digest.

    Raises:
        ValueError, OSError: the clip could not be made, as in `regenerate`; or there are no latents to sample
            from, or they are not the manifest's.
        TypeError: a sink was given.
    """
    if "sink" in making:
        raise TypeError("verify compares the frames that it makes, so it takes no sink")
    given = _Given(making, model, loras, device, pipeline)
    make = partial(_verify, clip, given, noise_only, sample, image, arguments, progress)
    if isinstance(clip, str | Path):
        return after_signature(Path(clip), trust, make)
    if trust is not None:
        raise ValueError("only a file can be signed; give the path of one, or leave trust out")
    return make()


def _verify(
    clip: AnyClip,
    given: _Given,
    noise_only: bool,
    sample: int | None,
    image: PipelineImageInput | None,
    arguments: Mapping[str, Any] | None,
    progress: bool,
) -> Verification:
    """`verify` without the signature."""
    recorded = clip if isinstance(clip, Clip | Mapping) else read_any_manifest(clip)
    if is_keyed(recorded):
        keyed = _keyed_pipeline(recorded, given, progress, noise_only=noise_only, sample=sample)
        call = {**(arguments or {}), **({} if image is None else {"image": image})}
        return verify_keyed(recorded, Path(clip) if isinstance(clip, str | Path) else None, keyed, call)
    if arguments is not None:
        raise ValueError("arguments are those of a clip of a keyed pipeline; leave them out")
    original, making, pipeline = _original(clip, recorded), given.making, given.pipeline
    if noise_only and sample is not None:
        raise ValueError("noise_only makes no unit, so it takes no sample; give one of them")
    embeds = _start(given, original.recipe)
    if noise_only:
        return verify_noise(original.manifest, original.path)
    latents = None if sample is None else _latents_to_sample(original, sample, making)
    image = _checked_image(original.recipe, image)
    weights_here: Sequence[Mapping[str, Any]] | None
    if pipeline is None:
        _check_cache(original)
        _lora_files(original.manifest, given.loras)
        source = read_source(
            original.folder(given.model),
            variant=original.recipe.settings.variant,
            without=() if embeds is None else ENCODER_PARTS,
        )
        weights_here = source.weights_now() if embeds is None else embeds.with_rows(source.weights_now())
    else:
        weights_here, _ = weights_of(checked_pipeline(pipeline), embeds)
    weights = verify_weights(original.manifest, weights_here)
    if weights.difference is not None:
        return weights
    started = time.perf_counter()
    loaded = _model_of(original, given)
    if sample is not None and latents is not None:
        chosen = sample_units(original.manifest["geometry"]["num_units"], sample)
        remade, manifest = remake_from_latents(
            original.recipe, loaded, latents, chosen.units, image=image, progress=progress, **making
        )
        return verify_clip(original.manifest, original.path, weights, manifest, remade.held_frames, chosen)
    again = make_clip(original.recipe, loaded, image=image, started=started, progress=progress, **making)
    return verify_clip(original.manifest, original.path, weights, again.manifest, again.held_frames)


def extend(
    clip: AnyClip,
    num_frames: int,
    *,
    branch_seed: int | None = None,
    from_frame: int | None = None,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    pipeline: ClipPipeline | None = None,
    progress: bool = True,
    **making: Unpack[Making],
) -> Clip:
    """Make a longer clip, bit for bit as if made in one go; or one that continues differently.

    Continues from the clip's latents: those of a `Clip`, or those kept beside a saved one; only new units are
    computed. Without latents, the beginning is made again.

    Args:
        clip: a `Clip`, the path of a saved clip, or a manifest.
        num_frames: length of the new clip, whole units: for Pyramid Flow r k + 1 frames, where r is the VAE's
            temporal factor; for Helios a multiple of 33.
        branch_seed: the root seed for everything after the beginning.
        from_frame: how many frames stay, whole units as well; default: all. Only with a branch_seed.
        model, image, loras, device, pipeline, progress, making: see `regenerate`; if there are latents, only
            Helios needs the image, on which it conditions every unit.

    Raises:
        ValueError: a number does not fit, and the message names good ones; as in `regenerate`; the model did
            not make the latents; or latents, kept or made again, are not the clip's.
    """
    original = _original(clip)
    recipe, digests = original.recipe, original.manifest["digests"]
    geometry = geometry_of(original.manifest)
    longer, kept = plan_extension(
        recipe, geometry, num_frames, branch_seed=branch_seed, from_frame=from_frame
    )
    given = _Given(making, model, loras, device, pipeline)
    _start(given, longer)
    latents = original.latents()
    needs_image = latents is None or geometry.image_role == "history"
    image = _checked_image(recipe, image) if needs_image else None
    started = time.perf_counter()
    loaded = _model_of(original, given)
    _check_same_model(original, loaded, opened_texts(making["prompt_embeds"]))
    tell_unfit(longer.settings, loaded)
    if latents is None:
        making["on_unit"] = _unit_check(digests["units"][:kept], original, making.get("on_unit"))
        return make_clip(longer, loaded, image=image, started=started, progress=progress, **making)
    beginning = Beginning(
        latents=latents[:, :, : kept * geometry.frames_per_unit],
        stage_digests=tuple(None if stages is None else tuple(stages) for stages in digests["stages"][:kept]),
        text_digests=digests["text"],
        image_digest=recipe.image_digest,
        frames_per_unit=geometry.frames_per_unit,
    )
    return make_clip(
        longer, loaded, image=image, beginning=beginning, started=started, progress=progress, **making
    )


def regenerate_either(
    manifest: Mapping[str, Any],
    *,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    progress: bool = True,
    **making: Unpack[Making],
) -> Clip | KeyedClip:
    """`regenerate` for clips of either kind; one that `keyed` made needs its pipeline, as `model`."""
    if not is_keyed(manifest):
        return regenerate(
            manifest, model=model, image=image, loras=loras, device=device, progress=progress, **making
        )
    pipeline = _keyed_pipeline(manifest, _Given(making, model, loras, device, None), progress)
    return remake_keyed(manifest, pipeline, {} if image is None else {"image": image})


def _keyed_pipeline(manifest: Any, given: _Given, progress: bool, **how: Any) -> DiffusionPipeline:
    """The pipeline of a keyed clip: the given one, or the one in a folder.

    Raises:
        ValueError: an argument, one of `how` among them, is known to our own pipeline alone; or there is no
            pipeline.
    """
    for_ours = {**how, "loras": tuple(given.loras), **given.making}
    if useless := sorted(name for name, value in for_ours.items() if value not in (False, (), None, "keep")):
        raise ValueError(f"{useless[0]} does not apply to a clip of a keyed pipeline; leave it out")
    check_keyed_manifest(manifest, "the manifest")
    pipeline = given.pipeline
    if pipeline is None:
        if given.model is None:
            raise ValueError(
                f"the clip was made with {manifest['pipeline']['type']}; say where it is here: --model FOLDER"
            )
        pipeline = load_pipeline_of(manifest, str(given.model), given.device)
    pipeline.set_progress_bar_config(disable=not progress)
    return pipeline


@dataclass(frozen=True)
class _Original:
    """The clip to be made again.

    Attributes:
        manifest: how it was made.
        recipe: the same as a recipe, as far as it can be repeated.
        path: its file, if it has one.
        clip: the clip itself, if in memory.
    """

    manifest: Mapping[str, Any]
    recipe: Recipe
    path: Path | None = None
    clip: Clip | None = None

    def latents(self) -> torch.Tensor | None:
        """(1, C, t, h, w) float32; None if they were not kept."""
        if self.clip is not None:
            return self.clip.latents
        beside = None if self.path is None else latents_path(self.path)
        if beside is None or not beside.is_file():
            return None
        frames_per_unit = geometry_of(self.manifest).frames_per_unit
        return read_latents(beside, self.manifest["digests"]["units"], frames_per_unit)

    def folder(self, model: str | Path | None) -> str:
        """Where the weights are on this machine, as `load_pipeline` takes it."""
        reference = self.manifest["model"]
        if model is not None:
            return str(model)
        if self.clip is not None and self.clip.source is not None:
            return str(self.clip.source.folder)
        if reference["kind"] == "embedded":
            if not str(reference["name"]).startswith("embedded:"):  # a manifest is untrusted, see below
                raise ValueError(f"the manifest must name embedded:NAME, got {reference['name']!r:.80}")
            return str(reference["name"])
        if reference["kind"] == "hub":
            name, revision, variant = reference["name"], reference["revision"], self.recipe.settings.variant
            if not is_hub_id(str(name)):  # a manifest is untrusted, and may name a folder here
                raise ValueError(f"the manifest must name a model on the hub as owner/name, got {name!r:.80}")
            return str(read_source(str(name), variant=variant, revision=revision).folder)
        if self.clip is not None:
            raise ValueError("the clip was made by a pipeline of your own; pass it as pipeline=")
        which = (
            f"from a folder named {reference['name']!r}"
            if reference["kind"] == "folder"
            else "with a pipeline of somebody's own"
        )
        raise ValueError(f"the clip was made {which}; say where its weights are here: --model FOLDER")


def _original(clip: AnyClip, recorded: Clip | Mapping[str, Any] | None = None) -> _Original:
    """What a clip is to be made from; `recorded` is its manifest, if that was read before."""
    if isinstance(clip, Clip):
        return _Original(clip.manifest, clip.recipe, clip=clip)
    if isinstance(clip, Mapping):
        check_manifest(dict(clip), "the manifest")
        check_noise_scheme(clip, "the clip")
        return _Original(clip, recipe_of(clip))
    manifest = recorded if isinstance(recorded, Mapping) else read_manifest(clip)
    check_noise_scheme(manifest, clip)
    return _Original(manifest, recipe_of(manifest), Path(clip))


def _start(given: _Given, recipe: Recipe) -> EncodedTexts | None:
    """Refuse what cannot run here, before weights are read; open the sink and the texts, return the texts."""
    making = given.making
    if unknown := making.keys() - Making.__annotations__:
        name = min(unknown)
        raise TypeError(f"there is no argument {name!r}{did_you_mean(name, tuple(Making.__annotations__))}")
    sink, processes = making.get("sink"), making.get("processes")
    watchers = {name: value for name, value in making.items() if name.startswith("on_")}
    check_watchers(sink, **watchers)
    check_kinds(processes=(processes, Processes), pipeline=(given.pipeline, ClipPipeline))
    check_list("loras", given.loras, "paths")
    for file in given.loras:
        check_path("loras", file)
    options = RunOptions(
        given.device,
        recipe.noise_device,
        workers=making.get("workers"),
        text_encoders=making.get("text_encoders", "keep"),
    )
    options.check()
    if given.device is not None:
        usable_device(given.device)
    embeds = making["prompt_embeds"] = opened_texts(making.get("prompt_embeds"))
    making["sink"] = started_sink(sink, recipe.settings, processes)
    return embeds


def _latents_to_sample(original: _Original, sample: int, making: Making) -> torch.Tensor:
    """The clip's latents (1, C, t, h, w), after checking that this many units can be made again."""
    check_int("sample", sample, 1, original.manifest["geometry"]["num_units"])
    if making.get("processes") is not None:
        raise ValueError(
            "a sample is made by one process; run verify without a launcher, or without a sample"
        )
    if (latents := original.latents()) is None:
        raise ValueError(
            "a sample needs the clip's latents, which --keep-latents (keep_latents=True) writes beside it as "
            f"{latents_path(original.path or Path('clip.mp4')).name}; verify the whole clip without a sample"
        )
    return latents


def _unit_check(
    digests: Sequence[str],
    original: _Original,
    on_unit: Callable[[int, int, torch.Tensor, StageDigests], None] | None,
) -> Callable[[int, int, torch.Tensor, StageDigests], None]:
    """Refuse to continue from units that come out differently when made again."""

    def check_unit(clip: int, unit: int, latents: torch.Tensor, stage_digests: StageDigests) -> None:
        if unit < len(digests) and noise_digest(latents) != digests[unit]:
            raise ValueError(
                f"making {original.path or 'the clip'} again gives another unit {unit} here, so it cannot be "
                "continued; `pyramid-seed verify` shows what differs; keep latents to continue a clip on "
                "other machines"
            )
        if on_unit is not None:
            on_unit(clip, unit, latents, stage_digests)

    return check_unit


def _model_of(original: _Original, given: _Given) -> ClipPipeline:
    """The given pipeline, or else the clip's model, at its exact revision, with its LoRAs.

    Texts that are encoded before it is loaded are put into `making`.
    """
    recipe, making = original.recipe, given.making
    if given.pipeline is not None:
        return checked_pipeline(given.pipeline)
    if original.manifest["weights"] is None and original.manifest["model"]["kind"] != "unknown":
        raise ValueError(
            f"the clip was made with weights that no file holds ({original.manifest.get('weights_note')}); "
            "it can only be made again by the pipeline that made it: pass pipeline="
        )
    _check_cache(original)
    files = _lora_files(original.manifest, given.loras)
    settings = replace(recipe.settings, model=original.folder(given.model))
    to_load = tuple(
        LoraToLoad(row["adapter"], file, row["scale"], row["sha256"], row["fused"], row.get("padded_rank"))
        for row, file in zip(original.manifest["loras"], files, strict=True)
    )
    embeds, text_encoders = opened_texts(making.get("prompt_embeds")), making.get("text_encoders", "keep")
    without = parts_left_out(text_encoders, embeds)
    source = shared_pipeline.source(settings.model, settings.variant, without)
    _check_quantization(recipe, source.quantization)
    options = RunOptions(
        given.device, determinism=recipe.determinism, compile=recipe.compiled, text_encoders=text_encoders
    )
    check = partial(check_request, prompt=recipe.prompt, settings=settings, embeds=embeds)
    loaded, making["prompt_embeds"] = load_for_clip(
        recipe.prompt, settings, options, embeds, to_load, source=source, check=check
    )
    return loaded


def _check_same_model(original: _Original, pipeline: ClipPipeline, embeds: EncodedTexts | None) -> None:
    """Refuse to continue with a model other than the clip's: two models would make the clip."""
    recipe, weights = original.recipe, original.manifest["weights"]
    if (dtype := dtype_name(pipeline.transformer.dtype)) != recipe.settings.dtype:
        raise ValueError(f"the clip was made in {recipe.settings.dtype}, this pipeline is in {dtype}")
    if pipeline.is_compiled != recipe.compiled:
        how = {True: "with a compiled transformer", False: "without compiling the transformer"}
        raise ValueError(
            f"the clip was made {how[recipe.compiled]}, this pipeline is {how[not recipe.compiled]}"
        )
    if (cache := pipeline.cache_in_use) != recipe.cache:
        raise ValueError(f"the clip was made with the step cache {recipe.cache}, this pipeline has {cache}")
    _check_quantization(recipe, pipeline.quantization)
    if (acting := _acting(lora_rows(pipeline))) != (acted := _acting(original.manifest["loras"])):
        raise ValueError(
            f"the clip was made with {acted}, this pipeline has {acting}; "
            "pass pipeline= with the clip's LoRAs"
        )
    weights_here, _ = weights_of(pipeline, embeds)
    if weights is None or weights_here is None:
        return
    digests, digests_here = ({row["file"]: row["sha256"] for row in rows} for rows in (weights, weights_here))
    if differing := sorted(dict(digests.items() ^ digests_here.items())):
        folder = "" if pipeline.source is None else f" in {pipeline.source.folder}"
        raise ValueError(
            f"the clip was made with other weights than those{folder}, they differ in "
            f"{', '.join(differing)}; go on with its own model, or make the clip anew"
        )


def _check_cache(original: _Original) -> None:
    """Refuse to load a model for a clip with a step cache: name and values do not suffice to set it up."""
    if (cache := original.recipe.cache) is not None:
        raise ValueError(
            f"the clip was made with the step cache {cache.get('config')}, which is not set up here; pass "
            "pipeline= with a pipeline on which you have called transformer.enable_cache"
        )


def _check_quantization(recipe: Recipe, here: Mapping[str, Any] | None) -> None:
    """Refuse weights that are quantised differently from the clip's."""
    made, found = (
        "plain weights" if config is None else f"weights quantised by {config.get('quant_method')}: {config}"
        for config in (recipe.quantization, here)
    )
    if made != found:
        raise ValueError(
            f"the clip was made with {made}; here are {found}; pass pipeline= with a pipeline of "
            "load_pipeline(..., quantization_config=...), or a folder to which it was saved"
        )


def _lora_files(manifest: Mapping[str, Any], given: Sequence[str | Path]) -> list[Path]:
    """The files of a manifest's LoRAs, in its order, found among the given files by their SHA-256."""
    rows = manifest["loras"]
    if rows is None:
        raise ValueError(
            "the clip was made with weights that no file holds: an adapter that was not loaded from a file, "
            "or a LoRA that was fused and taken out again; it cannot be made again"
        )
    files = {lora_of_file("", file).sha256: file for file in map(find_lora_file, given)}
    for row in rows:
        if row["sha256"] not in files:
            raise ValueError(
                f"the clip was made with the LoRA {row['file']} (SHA-256 {row['sha256'][:16]}...); "
                "give it: --lora FILE"
            )
    for digest, file in files.items():
        if all(row["sha256"] != digest for row in rows):
            raise ValueError(f"the clip was made without the LoRA {file}; leave it out")
    return [files[row["sha256"]] for row in rows]


def _acting(rows: Sequence[Mapping[str, Any]] | None) -> str:
    """How LoRAs change the weights, for comparisons and messages."""
    if rows is None:
        return "adapters that are not known"
    descriptions = (
        f"{row['file']} ({row['sha256'][:16]}, scale {row['scale']}, fused {row['fused']})" for row in rows
    )
    return ", ".join(descriptions) or "no LoRA"


def _checked_image(recipe: Recipe, image: PipelineImageInput | None) -> PipelineImageInput | None:
    """The image that a clip was made from, in the clip's size."""
    image = in_clip_size(opened(image), recipe.settings)
    if recipe.image_digest is None and image is not None:
        raise ValueError("the clip was made without an image; leave it out")
    if recipe.image_digest is not None and image is None:
        raise ValueError(
            f"the clip was made from an image (SHA-256 of its pixels {recipe.image_digest[:16]}...); "
            "give it: --image FILE"
        )
    if image is not None and (digest := image_digest(image)) != recipe.image_digest:
        raise ValueError(
            f"this is not the image that the clip was made from: SHA-256 of its pixels is "
            f"{str(digest)[:16]}..., the manifest says {str(recipe.image_digest)[:16]}..."
        )
    return image
