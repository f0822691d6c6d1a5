"""Clips made again, verified, continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from diffusers.image_processor import PipelineImageInput

from .api import (
    current_pipeline,
    generate,
    image_digest,
    load_pipeline,
    lora_rows,
)
from .checkpoints.digests import weight_digests
from .checkpoints.load import fetch_checkpoint
from .checkpoints.source import weight_files_of, weights_of
from .clip import Clip
from .geometry import PyramidGeometry
from .media.frame_file import FrameFile
from .models.lora import find_lora_file, lora_of_file
from .pipelines import Beginning, PyramidFlowPipeline
from .pipelines.frame_collector import OnFrames
from .pipelines.stages import StageDigests
from .provenance.extension import plan_extension
from .provenance.latents import latents_path, read_latents
from .provenance.manifest import (
    Recipe,
    check_noise_scheme,
    find_manifest,
    geometry_of,
    recipe_of,
    unit_digests,
)
from .provenance.verify import Verification, verify_clip, verify_noise
from .resources import resolve_model


class Callbacks(TypedDict, total=False):
    """What watches a clip being made and takes its frames, see `generate`."""

    on_step: Callable[..., dict[str, Any] | None]
    on_unit: Callable[[int, int, torch.Tensor, StageDigests], None]
    on_chunk: OnFrames
    sink: FrameFile | None


def regenerate(
    manifest: Mapping[str, Any],
    *,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    progress: bool = True,
    **callbacks: Unpack[Callbacks],
) -> Clip:
    """Make the clip of a manifest again.

    Args:
        manifest: see `provenance.manifest.find_manifest`.
        model: the folder of the weights; needed unless they are embedded or on the hub.
        image: the first frame, if the clip was made from one.
        loras: the files of the LoRAs that the clip was made with, in any order.
        device: where the model runs; default: the accelerator if there is one, else the CPU.
        progress: show a progress bar on standard error.
        callbacks: on_step, on_unit, on_chunk and sink of `generate`.

    Raises:
        ValueError: the model's folder, the image or a LoRA is needed and was not given, or it is another one;
            or the weights are such as no file holds.
        OSError: the weights cannot be read.
    """
    check_noise_scheme(manifest, "the clip")
    recipe = recipe_of(manifest)
    _check_image(recipe, image)
    pipeline = _loaded(manifest, model, device, loras)
    return _generate(recipe, pipeline, image=image, progress=progress, **callbacks)


def verify(
    path: str | Path,
    *,
    noise_only: bool = False,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    progress: bool = True,
    **callbacks: Unpack[Callbacks],
) -> Verification:
    """Make a saved clip again and compare: weights, text, noise, units, decoded chunks, frames, the file.

    Args:
        path: an .mp4, another clip with its manifest beside it, or a manifest.
        noise_only: only draw the noise again, which needs no model.
        model, image, loras, device, progress, callbacks: see `regenerate`; there is no sink.

    Raises:
        ValueError, OSError: it could not be run, as in `regenerate`.
        TypeError: a sink was given.
    """
    if "sink" in callbacks:
        raise TypeError("verify compares the frames that it makes, so it takes no sink")
    if noise_only:
        return verify_noise(path)
    wanted = find_manifest(path)
    recipe = recipe_of(wanted)
    _check_image(recipe, image)
    _lora_files(wanted, loras)

    def weigh(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
        folder = _folder_of(manifest, model)
        return weight_digests(folder, weight_files_of(folder, recipe.settings.variant), fresh=True)

    return verify_clip(
        path,
        weigh=weigh,
        regenerate=lambda manifest: regenerate(
            manifest, model=model, image=image, loras=loras, device=device, progress=progress, **callbacks
        ),
    )


def extend_clip(
    recipe: Recipe,
    num_frames: int,
    *,
    geometry: PyramidGeometry,
    text_digests: Mapping[str, str],
    stage_digests: Sequence[Sequence[str] | None],
    latents: torch.Tensor,
    weights: Sequence[Mapping[str, Any]] | None,
    branch_seed: int | None = None,
    from_frame: int | None = None,
    loras: Sequence[Mapping[str, Any]] | None = (),
    device: str | None = None,
    pipeline: PyramidFlowPipeline | None = None,
    progress: bool = True,
    **callbacks: Unpack[Callbacks],
) -> Clip:
    """Go on from a clip's latents, see `Clip.extend`.

    Args:
        recipe, geometry, text_digests, stage_digests, latents, weights, loras: of the clip.
        num_frames, branch_seed, from_frame, device, pipeline, progress: see `Clip.extend`.
        callbacks: see `regenerate`.
    """
    longer, kept = plan_extension(
        recipe, geometry, num_frames, branch_seed=branch_seed, from_frame=from_frame
    )
    if pipeline is None:
        pipeline = _shared(recipe, device)
    _check_same_model(recipe, weights, pipeline)
    if (has := _acting(lora_rows(pipeline))) != (had := _acting(loras)):
        raise ValueError(
            f"the clip was made with {had}, this pipeline has {has}; pass pipeline= with the clip's LoRAs"
        )
    beginning = Beginning(
        latents[:, :, :kept],
        tuple(None if digests is None else tuple(digests) for digests in stage_digests[:kept]),
        text_digests,
        recipe.image_digest,
    )
    return _generate(longer, pipeline, beginning=beginning, progress=progress, **callbacks)


def extend_file(
    path: str | Path,
    num_frames: int,
    *,
    branch_seed: int | None = None,
    from_frame: int | None = None,
    model: str | Path | None = None,
    image: PipelineImageInput | None = None,
    loras: Sequence[str | Path] = (),
    device: str | None = None,
    progress: bool = True,
    **callbacks: Unpack[Callbacks],
) -> Clip:
    """Go on from a saved clip: from the latents kept beside it, or else by making its beginning again.

    Args:
        path: an .mp4, or another clip with its manifest beside it.
        num_frames, branch_seed, from_frame: see `Clip.extend`.
        model, image, loras, device, progress, callbacks: see `regenerate`; the image is not needed where
            latents were kept.

    Raises:
        ValueError: as in `Clip.extend` and `regenerate`; or latents, kept or made again, that are not those
            of the clip.
    """
    manifest = find_manifest(path)
    check_noise_scheme(manifest, path)
    recipe, geometry, digests = recipe_of(manifest), geometry_of(manifest), manifest["digests"]
    longer, kept = plan_extension(
        recipe, geometry, num_frames, branch_seed=branch_seed, from_frame=from_frame
    )
    beside = latents_path(Path(path))
    if beside.is_file():
        latents = read_latents(beside, digests["units"])
        return extend_clip(
            recipe,
            num_frames,
            geometry=geometry,
            text_digests=digests["text"],
            stage_digests=digests["stages"],
            latents=latents,
            weights=manifest["weights"],
            branch_seed=branch_seed,
            from_frame=from_frame,
            loras=manifest["loras"],
            pipeline=_loaded(manifest, model, device, loras),
            progress=progress,
            **callbacks,
        )
    _check_image(recipe, image)
    wanted = digests["units"][:kept]
    told = callbacks.pop("on_unit", None)

    def check_unit(clip: int, unit: int, latents: torch.Tensor, stage_digests: StageDigests) -> None:
        if unit < kept and unit_digests(latents) != [wanted[unit]]:
            raise ValueError(
                f"making {path} again gives another unit {unit} here, so it cannot go on from it; "
                "pyramid-seed verify says what differs; keep latents to continue a clip on other machines"
            )
        if told is not None:
            told(clip, unit, latents, stage_digests)

    pipeline = _loaded(manifest, model, device, loras)
    return _generate(longer, pipeline, image=image, progress=progress, on_unit=check_unit, **callbacks)


def _generate(recipe: Recipe, pipeline: PyramidFlowPipeline, **options: Any) -> Clip:
    return generate(
        recipe.prompt,
        seed=recipe.seed,
        branches=recipe.branches,
        preset=recipe.settings,
        noise_device=recipe.noise_device,
        determinism=recipe.determinism,  # type: ignore[arg-type]  # the pipeline refuses other words
        attention=recipe.attention,  # type: ignore[arg-type]  # so does the transformer
        pipeline=pipeline,
        **options,
    )


def _loaded(
    manifest: Mapping[str, Any],
    model: str | Path | None,
    device: str | None,
    loras: Sequence[str | Path],
) -> PyramidFlowPipeline:
    """The model of a manifest, at its very revision where it is on the hub, with its LoRAs."""
    files = _lora_files(manifest, loras)
    folder = _folder_of(manifest, model)
    name = manifest["model"]["name"] if model is None and manifest["model"]["kind"] == "embedded" else folder
    recipe = recipe_of(manifest)
    settings = replace(recipe.settings, model=str(name))
    if not files:
        return _shared(replace(recipe, settings=settings), device)
    pipeline = load_pipeline(
        settings.model, variant=settings.variant, dtype=getattr(torch, settings.dtype), device=device
    )
    rows = manifest["loras"]
    names = [row["adapter"] for row in rows]
    for name, file in zip(names, files, strict=True):
        pipeline.load_lora_weights(file, adapter_name=name)
    pipeline.set_adapters(names, [row["scale"] for row in rows])
    if rows[0]["fused"]:
        pipeline.fuse_lora(adapter_names=names)
    if recipe.compiled:
        pipeline.transformer.compile_repeated_blocks()
    return pipeline


def _check_same_model(
    recipe: Recipe, had: Sequence[Mapping[str, Any]] | None, pipeline: PyramidFlowPipeline
) -> None:
    """Refuse to go on from latents with another model than theirs: the clip would be made by two."""
    dtype = str(pipeline.transformer.dtype).removeprefix("torch.")
    if dtype != recipe.settings.dtype:
        raise ValueError(f"the clip was made in {recipe.settings.dtype}, this pipeline is in {dtype}")
    if pipeline.transformer.is_compiled != recipe.compiled:
        told = {True: "with a compiled transformer", False: "without compiling the transformer"}
        raise ValueError(
            f"the clip was made {told[recipe.compiled]}, this pipeline is {told[not recipe.compiled]}"
        )
    has = weights_of(pipeline)
    if had is None or has is None:
        return
    files_had, files_has = ({row["file"]: row["sha256"] for row in rows} for rows in (had, has))
    if other := sorted(dict(files_had.items() ^ files_has.items())):
        raise ValueError(
            f"the clip was made with other weights than those in {pipeline.source_folder}, they differ in "
            f"{', '.join(other)}; go on with its own model, or make the clip anew"
        )


def _lora_files(manifest: Mapping[str, Any], given: Sequence[str | Path]) -> list[Path]:
    """The files of a manifest's LoRAs, in its order, found among the given ones by their SHA-256."""
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
    """What LoRAs do to the weights, for a comparison and for people."""
    if rows is None:
        return "adapters that are not known"
    told = (
        f"{row['file']} ({row['sha256'][:16]}, scale {row['scale']}, fused {row['fused']})" for row in rows
    )
    return ", ".join(told) or "no LoRA"


def _shared(recipe: Recipe, device: str | None) -> PyramidFlowPipeline:
    settings = recipe.settings
    return current_pipeline(settings.model, settings.variant, settings.dtype, device, recipe.compiled)


def _folder_of(manifest: Mapping[str, Any], model: str | Path | None) -> Path:
    """Where the weights of a manifest are on this machine; those on the hub are downloaded."""
    kind, name, revision = (manifest["model"][field] for field in ("kind", "name", "revision"))
    if model is not None:
        return fetch_checkpoint(resolve_model(str(model)), variant=manifest["settings"]["variant"])
    if kind == "embedded":
        return Path(resolve_model(name))
    if kind == "hub":
        return fetch_checkpoint(name, variant=manifest["settings"]["variant"], revision=revision)
    which = f"from a folder named {name!r}" if kind == "folder" else "with a pipeline of somebody's own"
    raise ValueError(f"the clip was made {which}; say where its weights are here: --model FOLDER")


def _check_image(recipe: Recipe, image: PipelineImageInput | None) -> None:
    if recipe.image_digest is None and image is not None:
        raise ValueError("the clip was made without an image; leave it out")
    if recipe.image_digest is not None and image is None:
        raise ValueError(
            f"the clip was made from an image (SHA-256 of its pixels {recipe.image_digest[:16]}...); "
            "give it: --image FILE"
        )
    if image is not None and image_digest(image) != recipe.image_digest:
        raise ValueError(
            f"this is not the image that the clip was made from: SHA-256 of its pixels is "
            f"{image_digest(image)[:16]}..., the manifest says {str(recipe.image_digest)[:16]}..."
        )
