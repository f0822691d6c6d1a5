"""A checkpoint in the original's layout at any size, with random weights from a seed.

Configs and tokenizers are those of the small reference checkpoints, whose sizes are replaced by the published
ones. A file is written tensor by tensor, so that no more than one of them is held.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyramid_seed import AutoencoderKLCausalVideo
from pyramid_seed.checkpoints.layout import transformer_part
from pyramid_seed.checkpoints.original_configs import VAE_NAMES
from pyramid_seed.checkpoints.source import ModelSource
from pyramid_seed.families.pyramid_flow import FAMILIES, MINIFLUX, VAE_PART, PyramidFlowFamily

REFERENCE = Path(__file__).resolve().parents[2] / "tests" / "reference"
VARIANT = "384p"
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""In which weights may be stored, and what safetensors calls them."""
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_L |= {"projection_dim": 768, "vocab_size": 49408}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_G |= {"projection_dim": 1280, "vocab_size": 49408}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128}
TEXT_ENCODERS: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "miniflux": {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    "sd3": {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
}
"""Sizes of the published text encoders: CLIP ViT-L/14, OpenCLIP ViT-bigG/14 and T5 1.1 XXL."""
SHARD_BYTES = 5 * 10**9
"""Of a text encoder, where transformers begins a new file by default."""


@dataclass(frozen=True)
class CheckpointSize:
    """What a checkpoint holds.

    Attributes:
        transformer, vae: arguments of our models that are not those of the published sizes.
        text: values of the configs of text encoders, by part; a part that is not named is the small one of
            the reference checkpoint.
        dtype: in which weights are stored, float32 or bfloat16.
        shard_bytes: the most that a file of a text encoder holds.
    """

    transformer: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard_bytes: int = SHARD_BYTES


def family_named(name: str) -> PyramidFlowFamily:
    """The family of a name, "miniflux" or "sd3"."""
    return next(family for family in FAMILIES if family.name == name)


def write_configs(folder: Path, family: PyramidFlowFamily, size: CheckpointSize) -> None:
    """Write everything but the weights that `write_weights` writes; what is there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REFERENCE / f"{family.name}-tiny", folder)
    model_class = family.transformer_class
    _edit(
        folder / transformer_part(VARIANT),
        original_transformer(family, _sizes(model_class, size.transformer)),
    )
    _edit(folder / VAE_PART, original_vae(_sizes(AutoencoderKLCausalVideo, size.vae)))
    for part, values in size.text.items():
        _edit(folder / part, values)


def _sizes(model_class: type[nn.Module], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model: the defaults of our classes are the published sizes."""
    parameters = signature(model_class).parameters
    return {name: parameter.default for name, parameter in parameters.items()} | dict(changes)


def original_transformer(family: PyramidFlowFamily, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What the original's config of a transformer of these arguments says; undone by `original_configs`."""
    if family is MINIFLUX:  # counts the channels of a patch
        return {**sizes, "in_channels": sizes["in_channels"] * sizes["patch_size"] ** 2, "patch_size": 1}
    return {**sizes, "caption_projection_dim": sizes["num_attention_heads"] * sizes["attention_head_dim"]}


def original_vae(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What the original's config of an autoencoder of these arguments says; undone by `original_configs`."""
    values = {theirs: sizes[ours] for theirs, ours in VAE_NAMES.items()}
    return values | {"decoder_norm_num_groups": sizes["norm_num_groups"]}


def _edit(folder: Path, values: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | dict(values)
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def parts_written(family: PyramidFlowFamily, size: CheckpointSize) -> list[str]:
    """The parts whose weights are random ones of `size`."""
    return [
        transformer_part(VARIANT),
        VAE_PART,
        *(part for part in family.text_encoders if part in size.text),
    ]


def shapes_of(source: ModelSource, part: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a part stores; of tied ones, the first."""
    state = source.empty(part).state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tuple(state[name].shape) for name in state if first[id(state[name])] == name}


def write_weights(source: ModelSource, part: str, size: CheckpointSize, seed: int) -> None:
    """Write the weights of a part of a folder that has its configs.

    One file, and of a text encoder that is larger than a shard an index and several.
    """
    folder = source.folder / part
    shapes = shapes_of(source, part)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    is_text = part.startswith("text_encoder")
    stem = "model" if is_text else "diffusion_pytorch_model"
    shards = _shards(shapes, size) if is_text else [list(shapes)]
    files = [f"{stem}.safetensors"]
    if len(shards) > 1:
        files = [f"{stem}-{index + 1:05d}-of-{len(shards):05d}.safetensors" for index in range(len(shards))]
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": num_bytes(shapes, size.dtype)}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    for file, names in zip(files, shards, strict=True):
        write_file(folder / file, {name: shapes[name] for name in names}, size.dtype, seed, part)


def num_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
    """Bytes of tensors of these shapes."""
    return sum(map(math.prod, shapes.values())) * dtype.itemsize


def _shards(shapes: Mapping[str, tuple[int, ...]], size: CheckpointSize) -> list[list[str]]:
    """The names of the tensors of each file, in order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        more = math.prod(shape) * size.dtype.itemsize
        if shards[-1] and filled + more > size.shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += more
    return shards


def write_file(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, seed: int, part: str
) -> None:
    """Write a safetensors file of random tensors, one after the other.

    The library's own writer wants all of them at once. A header of JSON, with its length in 8 bytes before
    it, says where each tensor lies in the bytes that follow.
    """
    ends = [0, *accumulate(math.prod(shape) * dtype.itemsize for shape in shapes.values())]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for (name, shape), offsets in zip(shapes.items(), pairwise(ends), strict=True):
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            tensor = random_tensor(shape, dtype, seed, f"{part}/{name}")
            tensor.flatten().view(torch.uint8).numpy().tofile(file)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int, name: str) -> torch.Tensor:
    """Weights as of a network that was just made: ones and zeros of norms and biases, the rest normal."""
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    scale = 0.6 / math.sqrt(math.prod(shape[1:]))
    return torch.randn(shape, generator=generator).mul_(scale).to(dtype)
