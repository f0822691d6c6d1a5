"""Checkpoint folders: which layout, which family, which variant, and what is missing.

All this follows from the files' names and two small config files, so that a repository on the hub is judged
by the same rules as a folder, before its weights are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from ..choices import VARIANTS
from ..families.pyramid_flow import FAMILIES, MINIFLUX, SD3, VAE_PART, PyramidFlowFamily

Layout = Literal["original", "diffusers"]

_TRANSFORMER = "diffusion_transformer_"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_PICKLE_STEMS = {"model": "pytorch_model", "diffusion_pytorch_model": "diffusion_pytorch_model"}
_TOKENIZER_FILES = (".json", ".txt", ".model")
_SAVED_ENDINGS = (".safetensors", *_TOKENIZER_FILES)
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")


def transformer_part(variant: str) -> str:
    """The folder of a variant's transformer."""
    return f"{_TRANSFORMER}{variant}"


def list_files(folder: Path) -> frozenset[str]:
    """The files in a checkpoint folder and in its subfolders, the latter as `part/name`."""
    paths = (*folder.glob("*"), *folder.glob("*/*"))
    return frozenset(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def layout_of(files: Collection[str], where: str) -> Layout:
    """The layout of a checkpoint: as the original publishes it, or as `save_pretrained` writes it.

    Args:
        files: the file names of a folder or a repository.
        where: its name in messages.

    Raises:
        ValueError: it has neither layout; the message lists what is missing.
    """
    if "model_index.json" in files:
        return "diffusers"
    parts = _parts(files)
    if VAE_PART in parts or any(part.startswith(_TRANSFORMER) for part in parts):
        return "original"
    raise ValueError(
        f"{where} is neither a folder that save_pretrained wrote (it has no model_index.json) nor an "
        f"original Pyramid Flow checkpoint. {_gaps(parts, {})}"
    )


def choose_variant(files: Collection[str], where: str, variant: str | None) -> str:
    """The variant to load; None takes the only one.

    Raises:
        ValueError: it is unknown or missing, or there are several and none was named.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    parts = _parts(files)
    present = [name for name in VARIANTS if transformer_part(name) in parts]
    if not present:
        raise ValueError(f"{where} has no transformer. {_gaps(parts, {})}")
    if variant is None and len(present) > 1:
        raise ValueError(f"{where} has the variants {', '.join(present)}; name one, as in {present[0]!r}")
    if variant is not None and variant not in present:
        raise ValueError(f"{where} has no variant {variant!r}, it has {', '.join(present)}")
    return variant or present[0]


def find_family(
    files: Collection[str],
    where: str,
    variant: str,
    configs: Mapping[str, Mapping[str, Any]],
    without: Collection[str] = (),
) -> PyramidFlowFamily:
    """The family of a checkpoint in the original layout.

    Args:
        files: its file names.
        where: its name in messages.
        variant: the variant that was chosen.
        configs: part -> its config.json, for the parts whose config is available.
        without: parts that may be missing.

    Raises:
        ValueError: there are parts of both families, missing parts, or a transformer of an unknown class; the
            message lists what is missing.
    """
    parts = _parts(files)
    families = {part: family for part in parts if (family := _family_of_part(part, configs.get(part, {})))}
    transformer = transformer_part(variant)
    if transformer in configs and transformer not in families:
        classes = " or ".join(family.original_transformer for family in FAMILIES)
        raise ValueError(
            f"{where}/{transformer}/config.json must have the _class_name {classes}, "
            f"got {configs[transformer].get('_class_name')!r}"
        )
    if len({family.name for family in families.values()}) > 1:
        owners = ", ".join(f"{part} is of {family.name}" for part, family in sorted(families.items()))
        raise ValueError(f"{where} has parts of both families: {owners}. {_gaps(parts, families)}")
    # Only SD3 has a third text encoder; the names say no more than that.
    family = next(iter(families.values()), MINIFLUX)
    if missing := _missing_parts(family, {*parts, *without}, families):
        raise ValueError(
            f"{where} is a {family.name} checkpoint but lacks {', '.join(missing)}. {_expected(family)}"
        )
    return family


def original_files(
    files: Collection[str], where: str, family: PyramidFlowFamily, variant: str, without: Collection[str] = ()
) -> list[str]:
    """The files that loading a variant reads: configs, weights, tokenizers; none of parts in `without`.

    Weights are safetensors, or a pickle if a part has nothing else.

    Raises:
        ValueError: a file is missing, or a part has several pickles.
    """
    transformer = transformer_part(variant)
    needed = []
    for part in (transformer, VAE_PART, *family.text_encoders):
        if part not in without:
            needed += _model_files(files, where, part)
    for part, tokenizer in family.tokenizers.items():
        if part in without:
            continue
        mine = [name for name in _files_of(part, files) if name.endswith(_TOKENIZER_FILES)]
        vocabulary = ("spiece.model",) if tokenizer == "T5Tokenizer" else ("vocab.json", "merges.txt")
        missing = [name for name in vocabulary if f"{part}/{name}" not in mine]
        if missing and f"{part}/tokenizer.json" not in mine:
            raise ValueError(
                f"{where}/{part} must hold {' and '.join(vocabulary)} (or tokenizer.json), "
                f"{' and '.join(missing)} is missing. {_expected(family)}"
            )
        needed += mine
    return needed


def saved_files(
    files: Collection[str], index: Mapping[str, Any], where: str, variant: str | None = None
) -> list[str]:
    """The files that loading a folder from `save_pretrained` reads: weights, configs, tokenizers.

    Args:
        files: the file names of the checkpoint.
        index: its model_index.json.
        where: its name in messages.
        variant: the `variant` of `save_pretrained`; parts without weights for it are loaded without one.

    Raises:
        ValueError: there are no weights for the variant, or only for variants, and none was named.
    """
    names = [
        name
        for name in files
        if "/" in name and name.partition("/")[0] in index and name.endswith(_SAVED_ENDINGS)
    ]
    parts = {name.partition("/")[0] for name in names if name.endswith(".safetensors")}
    there = {own for part in parts for own in _variants_of(part, files)}
    available = f"it has {', '.join(sorted(there)) or 'none'}"
    if variant is not None and variant not in there:
        raise ValueError(
            f"{where} was written by save_pretrained and has no weights of the variant {variant!r}, "
            f"{available}; leave variant out" + (", or name that one" if there else "")
        )
    for part in parts:
        if not weight_files(files, part) and not (variant and weight_files(files, part, variant)):
            raise ValueError(
                f"{where}/{part} must hold {_stem(part)}.safetensors: it was saved with variant=, and "
                f"{available}; load it with variant={min(there, default='...')!r}"
            )
    if variant is not None:
        chosen = {
            name for part in parts for name in weight_files(files, part, variant) or weight_files(files, part)
        }
        names = [name for name in names if name in chosen or not _is_weights(name)]
    return ["model_index.json", *names]


def shards_of(index: Mapping[str, Any], files: Collection[str], where: str, name: str) -> list[str]:
    """The files that an index of shards names, as `part/name`.

    Args:
        index: the content of the index.
        files: the file names of the checkpoint.
        where: the checkpoint's name in messages.
        name: the index's own, as `part/model.safetensors.index.json`.

    Raises:
        ValueError: it names anything but files of its own kind beside it, or a missing one.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{where}/{name} must hold a weight_map, the file of each tensor")
    part, _, file = name.rpartition("/")
    ending = Path(file.partition(".index.")[0]).suffix
    shards = list(dict.fromkeys(map(str, weight_map.values())))
    for shard in shards:
        if not (_PLAIN_NAME.fullmatch(shard) and shard.endswith(ending)):
            raise ValueError(
                f"{where}/{name} must name {ending} files beside it, without folders, got {shard!r:.80}"
            )
        if f"{part}/{shard}" not in files:
            raise ValueError(f"{where}/{part} lacks {shard}, which {file} names")
    return [f"{part}/{shard}" for shard in shards]


def refuse_pickles(files: Collection[str], where: str) -> None:
    """Refuse a folder from `save_pretrained` if the weights of a part are a pickle: ValueError."""
    for part in sorted(_parts(files)):
        if (name := pickle_of(files, where, part)) is not None:
            raise ValueError(
                f"{where}/{part} has its weights in a pickle ({name}); of a folder that save_pretrained "
                "wrote, only safetensors are read: save it again with safe_serialization=True"
            )


def pickle_of(files: Collection[str], where: str, part: str) -> str | None:
    """The pickle, `part/name`, with the weights of a part, or the index that names its shards.

    Returns:
        None if there are safetensors, or no pickle.

    Raises:
        ValueError: there are several, and no index.
    """
    mine = _files_of(part, files)
    pickles = [name for name in mine if is_pickle(name)]
    if not pickles or any(name.endswith(".safetensors") for name in mine):
        return None
    usual = f"{part}/{_PICKLE_STEMS[_stem(part)]}.bin"
    index = f"{usual}.index.json"
    name = next((name for name in (usual, index) if name in mine), None)
    if name is None and len(pickles) > 1:
        names = ", ".join(name.rpartition("/")[2] for name in pickles)
        raise ValueError(
            f"{where}/{part} must hold its weights in one pickle, in shards that "
            f"{index.rpartition('/')[2]} names, or in safetensors, got {names}"
        )
    return name or pickles[0]


def weight_files(files: Collection[str], part: str, variant: str | None = None) -> list[str]:
    """The safetensors of a part, `part/name`: one file, or an index and its shards; empty if none.

    Args:
        files: the file names of the checkpoint.
        part: the folder.
        variant: the `variant` of `save_pretrained`, which makes it part of the names.
    """
    stem, infix = _stem(part), "" if variant is None else f".{variant}"
    single = f"{part}/{stem}{infix}.safetensors"
    if single in files:
        return [single]
    index = f"{part}/{stem}.safetensors.index{infix}.json"
    shard = re.compile(re.escape(f"{part}/{stem}{infix}") + r"-\d{5}-of-\d{5}\.safetensors")
    return [index, *sorted(filter(shard.fullmatch, files))] if index in files else []


def is_index(name: str) -> bool:
    """Whether a file is an index of safetensors shards, by its name."""
    return ".safetensors.index." in name and name.endswith(".json")


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") or is_index(name)


def _variants_of(part: str, files: Collection[str]) -> set[str]:
    """The variants of `save_pretrained` for which a part has weights."""
    stem = re.escape(f"{part}/{_stem(part)}")
    single = re.compile(stem + r"\.(\w+)(-\d{5}-of-\d{5})?\.safetensors")
    return {match[1] for name in files if (match := single.fullmatch(name))}


def is_pickle(name: str) -> bool:
    """Whether a file is a pickle, by its name."""
    return name.endswith(_PICKLES)


def _stem(part: str) -> str:
    """The stem of weight files: transformers' name for text encoders, diffusers' for the rest."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def _model_files(files: Collection[str], where: str, part: str) -> list[str]:
    weights = weight_files(files, part) or [name for name in [pickle_of(files, where, part)] if name]
    if not weights:
        stem = _stem(part)
        raise ValueError(
            f"{where}/{part}/{stem}.safetensors is missing (or {stem}.safetensors.index.json and its shards)"
        )
    config = f"{part}/config.json"
    if config not in files:
        raise ValueError(f"{where}/{config} is missing")
    return [config, *weights]


def _files_of(part: str, files: Collection[str]) -> list[str]:
    return sorted(name for name in files if name.startswith(f"{part}/"))


def _parts(files: Collection[str]) -> frozenset[str]:
    return frozenset(name.split("/")[0] for name in files if "/" in name)


def _family_of_part(part: str, config: Mapping[str, Any]) -> PyramidFlowFamily | None:
    """The family of a part; None if both have such a part or the config is not available."""
    if part in ("text_encoder_3", "tokenizer_3"):
        return SD3
    if part.startswith(_TRANSFORMER):
        name = config.get("_class_name")
        return next((family for family in FAMILIES if family.original_transformer == name), None)
    if part == "text_encoder_2" and "model_type" in config:
        return MINIFLUX if config["model_type"] == "t5" else SD3
    return None


def _missing_parts(
    family: PyramidFlowFamily, parts: Collection[str], families: Mapping[str, PyramidFlowFamily]
) -> list[str]:
    fitting = {part for part in parts if families.get(part, family) is family}
    missing = [f"{part}/" for part in family.parts if part not in fitting]
    if not any(transformer_part(variant) in fitting for variant in VARIANTS):
        missing.insert(0, f"{_TRANSFORMER}{'|'.join(VARIANTS)}/ ({family.original_transformer})")
    return missing


def _gaps(parts: Collection[str], families: Mapping[str, PyramidFlowFamily]) -> str:
    """What each family is missing, and the layout to aim at."""
    sentences = [
        f"For {family.name} it lacks {', '.join(_missing_parts(family, parts, families)) or 'nothing'}."
        for family in FAMILIES
    ]
    return " ".join([*sentences, *(_expected(family) for family in FAMILIES)])


def _expected(family: PyramidFlowFamily) -> str:
    folders = ", ".join(f"{part}/" for part in family.parts)
    return f"Expected layout of {family.name}: {_TRANSFORMER}{'|'.join(VARIANTS)}/, {folders}."
