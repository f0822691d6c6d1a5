"""A manifest in readable form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..texts import counted, printable, size_text
from .manifest import geometry_of


def describe(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of (name, text) that describe how a clip was made. Control characters are escaped."""
    lines = [(name, str(value)) for name, value in _lines(manifest) if value is not None]
    return [(name, printable(text)) for name, text in lines]


def _lines(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    settings, digests, environment = manifest["settings"], manifest["digests"], manifest["environment"]
    yield "prompt", manifest["prompt"] + settings["prompt_suffix"]
    yield "negative", settings["negative_prompt"] or None
    yield "seed", manifest["seed"]
    for branch in manifest["branches"]:
        frame = geometry_of(manifest).frames_of_unit(branch["from_unit"])[0]
        yield "branch", f"seed {branch['seed']} from frame {frame} (unit {branch['from_unit']}) on"
    yield "image", manifest["image_sha256"] and f"given, SHA-256 {manifest['image_sha256']}"
    if video := manifest.get("video"):
        yield "video", f"given, {counted(video['num_frames'], 'frame')}, SHA-256 {video['sha256']}"
    size = f"{counted(settings['num_frames'], 'frame')} of {settings['height']}x{settings['width']}"
    yield "clip", f"{size} at {settings['fps']:g} fps, {counted(manifest['geometry']['num_units'], 'unit')}"
    yield "model", _model(manifest)
    if manifest["loras"] is None:
        yield "lora", "adapters that are not known"
    for lora in manifest["loras"] or ():
        fused = ", fused" if lora["fused"] else ""
        yield "lora", f"{lora['file']}, scale {lora['scale']:g}{fused}, SHA-256 {lora['sha256']}"
    yield "preset", manifest["preset"]
    yield "steps", _first_and_later(settings, "num_inference_steps", "video_num_inference_steps")
    yield "guidance", _guidance(settings)
    draws = f"{counted(len(manifest['ledger']), 'draw')} on {manifest['noise_device']}"
    yield "noise", f"{manifest['noise_scheme']}, {draws}"
    yield "frames", f"SHA-256 {digests['frames']}"
    yield from _labels(manifest.get("file") or {}, settings["num_frames"])
    yield "stages", (root := digests.get("root")) and f"Merkle root {root}"
    packages = environment.get("packages", {})
    yield "made by", f"pyramid-seed {manifest['package_version']}, torch {packages.get('torch')}"
    yield "made on", f"{_machine(environment)}, {settings['dtype']}, {manifest['determinism']}"
    if elsewhere := manifest.get("text_environment"):
        yield "encoded on", f"{_machine(elsewhere)}, torch {elsewhere.get('packages', {}).get('torch')}"
    yield "quantised", (manifest.get("quantization") or {}).get("quant_method")
    yield "cache", (manifest.get("cache") or {}).get("config")
    compiled = ", compiled" if manifest.get("compiled") else ""
    yield "attention", manifest.get("attention", "reference") + compiled
    if won := manifest.get("search"):
        yield "search", f"the winner of the one with Merkle root {won['merkle_root']}"
    for note in manifest.get("notes", ()):
        yield "note", note
    if timings := manifest.get("timings"):
        yield "time", "{load_seconds:.1f} s to load, {seconds:.1f} s to generate".format_map(timings)


def _labels(file: Mapping[str, Any], num_frames: int) -> Iterable[tuple[str, str]]:
    if label := file.get("visible_label"):
        covered = min(label["num_frames"], num_frames)
        yield "label", f"{label['text']!r}, drawn over the first {counted(covered, 'frame')}"
    if fields := file.get("aigc"):
        yield "AIGC label", ", ".join(f"{name} {value}" for name, value in fields.items() if value)


def _machine(environment: Mapping[str, Any]) -> str | None:
    device = environment.get("device", {})
    return device.get("name") or device.get("type")


def _model(manifest: Mapping[str, Any]) -> str:
    model, weights, variant = manifest["model"], manifest["weights"], manifest["settings"]["variant"]
    name = model["name"] or "a pipeline of somebody's own"
    parts = [name if model["kind"] != "folder" else f"{name} (a folder)"]
    parts += [f"variant {variant}"] if variant else []
    parts += [f"revision {model['revision'][:12]}"] if model["revision"] else []
    if note := manifest.get("weights_note"):
        parts.append(f"weights that no file holds ({note})")
    if weights is not None:
        size = size_text(sum(row["size"] for row in weights))
        parts.append(f"{counted(len(weights), 'file')}, {size}")
    return ", ".join(parts)


def _first_and_later(settings: Mapping[str, Any], first: str, later: str) -> str:
    if settings[later] is None or settings[later] == settings[first]:
        return str(settings[first])
    return f"{settings[first]}, later units {settings[later]}"


def _guidance(settings: Mapping[str, Any]) -> str:
    if settings["guidance_decay"] is None:
        return _first_and_later(settings, "guidance_scale", "video_guidance_scale")
    floor = settings["min_guidance_scale"]
    return (
        f"{settings['guidance_scale']}, {settings['guidance_decay']} less with every unit, at least {floor}"
    )
