"""Which model it is: determined once, then passed on.

Small files decide it, so that requests beyond a model are refused before its weights are downloaded.
"""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self, TypedDict, Unpack

import transformers
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..families import family_of_saved
from ..families.family import Family
from ..families.pyramid_flow import VAE_PART, PyramidFlowFamily, geometry_of_configs
from ..geometry import PyramidGeometry
from ..resources import embedded_name, resolve_model
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler
from .configs import naming, read_config, refuse_lfs_pointer
from .digests import weight_digests, weights_key
from .hub import Repository, open_repository
from .layout import (
    Layout,
    choose_variant,
    find_family,
    is_index,
    is_pickle,
    layout_of,
    list_files,
    original_files,
    refuse_pickles,
    saved_files,
    shards_of,
    transformer_part,
    weight_files,
)
from .original import check_files, empty_model
from .original_configs import transformer_config_from_original, vae_config_from_original
from .pickles import Converted, converted

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class FileState(NamedTuple):
    """Shows whether a file was written since: its size in bytes, and the time of its last change."""

    size: int
    modified_ns: int


@dataclass(frozen=True, eq=False)
class RecognisedModel:
    """Which model it is, according to its files' names and a few configs, see `recognise_model`.

    Attributes:
        folder: where its files are, or will be.
        variant: as requested: "384p", "768p", "image", or None for the only one; in the layout of diffusers,
            that of `save_pretrained`, or None.
        layout: "original", as published, or "diffusers", as `save_pretrained` writes it.
        family: which family it is of.
        transformer: the part, a folder in `folder`, that holds the transformer.
        files: names of the files that loading reads, relative to `folder`, sorted.
        states: states of the files that are here, and of their folders (names ending in "/").
        configs: the JSON files that were read for all this, by name.
        without: parts of the pipeline that are left out, with their files not in `files`.
        repository: where missing files come from; None for a folder.
    """

    folder: Path
    variant: str | None
    layout: Layout
    family: Family
    transformer: str
    files: tuple[str, ...]
    states: Mapping[str, FileState]
    configs: Mapping[str, Mapping[str, Any]]
    without: frozenset[str] = frozenset()
    repository: Repository | None = field(default=None, repr=False)

    def fetched(self) -> ModelSource:
        """The model with every file that loading reads: missing ones are downloaded, pickles are converted.

        Raises:
            OSError: the hub does not deliver a file; there is no room; the safetensors copy of a pickle
                cannot be written.
            ValueError: a file is a Git LFS pointer, or a pickle that is refused.
        """
        states = self.states
        if self.repository is not None:
            self.repository.fetch(self.files)
            states = _states(self.folder, self.files)
            if self.repository.warning is not None:
                logger.warning(self.repository.warning)
        for name in self.files:
            refuse_lfs_pointer(self.folder / name)
        values = {each.name: getattr(self, each.name) for each in fields(RecognisedModel)}
        source = ModelSource(**values | {"states": states, "repository": None})
        copies: dict[str, Converted] = {}
        for _, names in groupby(filter(is_pickle, self.files), lambda name: name.partition("/")[0]):
            shards = list(names)
            copy = converted([self.folder / name for name in shards], source.empty)
            copies |= dict.fromkeys(shards, copy)
        return replace(source, converted=copies)

    @property
    def description(self) -> str:
        """A description for messages."""
        if self.layout == "diffusers":
            saved = "" if self.variant is None else f"variant {self.variant}, "
            return f"{self.family.name}, {saved}in the layout of diffusers at {self.folder}"
        variant = self.transformer_variant
        return f"{self.family.name}, variant {variant}, in the original's layout at {self.folder}"

    @property
    def transformer_variant(self) -> str | None:
        """The variant in the original's layout, even if it is the only one and none was requested."""
        return None if self.layout == "diffusers" else self.transformer.removeprefix(transformer_part(""))

    @property
    def name(self) -> str:
        """The name for settings: `embedded:NAME`, a hub id, or the folder."""
        reference = self.reference
        return str(self.folder) if reference["kind"] == "folder" else str(reference["name"])

    @property
    def reference(self) -> dict[str, str | None]:
        """The reference for a manifest: kind, name and revision.

        The kind is "embedded" (`embedded:NAME`), "hub" (owner/name, with the commit as revision) or "folder":
        that is named without its path, and whoever makes the clip again must say where it is.
        """
        if (name := embedded_name(self.folder)) is not None:
            return {"kind": "embedded", "name": f"embedded:{name}", "revision": None}
        if (hub_id := _hub_id(self.folder)) is not None:
            return {"kind": "hub", "name": hub_id, "revision": self.folder.name}
        return {"kind": "folder", "name": self.folder.resolve().name, "revision": None}

    @cached_property
    def geometry(self) -> PyramidGeometry:
        """Sizes and counts that the model allows; reads no weights.

        Raises:
            ValueError: a config lacks a needed key, or describes a model that we do not implement.
        """
        with naming(self.folder):
            if self.layout == "diffusers":
                return self.family.geometry(self._config)
            stages = PyramidFlowMatchEulerDiscreteScheduler().config.stages
            return geometry_of_configs(self.vae_config(), self.transformer_config()["patch_size"], stages)

    @property
    def original_family(self) -> PyramidFlowFamily:
        """The family of a model in the original's layout."""
        assert isinstance(self.family, PyramidFlowFamily)  # no other one has that layout
        return self.family

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """How the transformer's weights are quantised in the files; None if they are not."""
        return self.configs.get("transformer/config.json", {}).get("quantization_config")

    def changed_files(self) -> list[str]:
        """Names of files written, removed or added since; if there are none, this takes one pass of stats."""
        changed = [name for name, state in self.states.items() if _state(self.folder / name) != state]
        if not any(name.endswith("/") for name in changed):
            return changed
        # A folder has gained or lost something, perhaps nothing that loading reads.
        try:
            files = judge(
                list_files(self.folder), str(self.folder), self.variant, self._config, self.without
            ).files
        except ValueError:  # no longer even a model
            return list(self.files)
        names = {name for name in changed if not name.endswith("/")}
        return sorted(names | set(self.files).symmetric_difference(files))

    def model_of(self, part: str) -> tuple[type[ModelMixin], dict[str, Any]]:
        """Class and arguments of our model for the VAE or the transformer, from the original's config.

        Raises:
            ValueError: the config is another model's.
        """
        if part == VAE_PART:
            return self.family.vae_class, self.vae_config()
        return self.family.transformer_class, self.transformer_config()

    def empty_transformer(self) -> nn.Module:
        """The transformer without its weights, from its config alone; raises as `model_of`."""
        if self.layout == "original":
            return empty_model(*self.model_of(self.transformer), self.folder / self.transformer)
        config = self._config("transformer/config.json")
        arguments = {name: value for name, value in config.items() if not name.startswith("_")}
        return empty_model(self.family.transformer_class, arguments, self.folder / self.transformer)

    def vae_config(self) -> dict[str, Any]:
        """Arguments of our autoencoder, from the original's config; ValueError if it is another model's."""
        name = f"{VAE_PART}/config.json"
        with naming(self.folder / name):
            config = vae_config_from_original(self.configs[name])
        family = self.original_family
        return config | {"shift_factor": family.shift_factor, "scaling_factor": family.scaling_factor}

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of our transformer, from the original's config; raises as `vae_config`."""
        name = f"{self.transformer}/config.json"
        with naming(self.folder / name):
            return transformer_config_from_original(self.original_family, self.configs[name])

    def _config(self, file: str, *names: str) -> Mapping[str, Any]:
        """A config that was read; ValueError if it lacks one of the keys."""
        config = self.configs.get(file, {})
        if missing := [name for name in names if name not in config]:
            raise ValueError(f"{self.folder / file} must have {', '.join(missing)}")
        return config


@dataclass(frozen=True, eq=False)
class ModelSource(RecognisedModel):
    """A model whose files are all here, as they were when `read_source` read them.

    Attributes:
        states: those of all files.
        converted: the safetensors copy of each file that is a pickle, by name; shards share one.
    """

    converted: Mapping[str, Converted] = field(default_factory=dict)

    def fetched(self) -> Self:
        """The model itself."""
        return self

    @cached_property
    def weights(self) -> tuple[dict[str, Any], ...]:
        """Name, size and SHA-256 of every file; read on first use, see `digests.weight_digests`.

        Raises:
            ValueError: a file has changed since, so that its earlier content is unknown.
            OSError: a file cannot be read.
        """
        rows = self._rows(fresh=False)
        self.check_unchanged()
        return tuple(rows)

    @property
    def weights_key(self) -> str:
        """SHA-256 (hex) that identifies the files by content; raises as `weights`."""
        return weights_key(self.weights)

    def weights_now(self) -> list[dict[str, Any]]:
        """The rows of `weights`, from reading every file now, whatever is known about it."""
        return self._rows(fresh=True)

    def _rows(self, fresh: bool) -> list[dict[str, Any]]:
        """The rows; a pickle also has the digest of its safetensors copy: that is what is loaded."""
        digests = {copy: copy.check(fresh=fresh) for copy in set(self.converted.values())}
        return [
            row | {"converted_sha256": digests[self.converted[row["file"]]]}
            if row["file"] in self.converted
            else row
            for row in weight_digests(self.folder, self.files, fresh=fresh)
        ]

    def check_unchanged(self) -> None:
        """Raise ValueError if files have changed; the message names them."""
        if changed := self.changed_files():
            raise ValueError(
                f"{self.folder} has changed since the model was loaded ({', '.join(changed)}); load it again"
            )

    def weight_paths(self, part: str) -> list[Path]:
        """The safetensors files of a part."""
        if (copy := self.converted_weights(part)) is not None:
            return [copy]
        names = [name for name in self.files if name.startswith(f"{part}/")]
        if self.layout == "diffusers":  # it may hold weights of other variants, too
            names = weight_files(self.files, part, self.variant) or weight_files(self.files, part)
            if (index := next(filter(is_index, names), None)) is not None:
                names = shards_of(self.configs[index], self.files, str(self.folder), index)
        return [self.folder / name for name in names if name.endswith(".safetensors")]

    def converted_weights(self, part: str) -> Path | None:
        """The safetensors copy of the pickle with a part's weights; None if they are not a pickle."""
        copies = (copy.path for name, copy in self.converted.items() if name.startswith(f"{part}/"))
        return next(copies, None)

    def empty(self, part: str) -> nn.Module:
        """A part's model, in the original's layout, without its weights; raises as `model_of`."""
        if (name := self.original_family.text_encoders.get(part)) is None:
            return empty_model(*self.model_of(part), self.folder / part)
        encoder = getattr(transformers, name)
        with naming(self.folder / part / "config.json"):
            config = encoder.config_class.from_pretrained(self.folder / part, local_files_only=True)
        model: Any = empty_model(encoder, {"config": config}, self.folder / part)
        model.tie_weights()
        return model

    def check_weights(self) -> None:
        """Refuse another model's weights without loading them, for the original's VAE and transformer.

        Raises:
            ValueError: names or shapes are not those that the config requires.
        """
        for part in (VAE_PART, self.transformer) if self.layout == "original" else ():
            check_files(self.empty(part), self.weight_paths(part))


class SourceOptions(TypedDict, total=False):
    """The arguments of `read_source` besides the model."""

    variant: str | None
    revision: str | None
    cache_dir: str | Path | None
    local_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool
    without: Collection[str]


def read_source(path_or_hub_id: str | Path, **options: Unpack[SourceOptions]) -> ModelSource:
    """Determine which model it is, and download whatever loading it needs.

    Weights are read only if they are a pickle that has not been converted yet, see `pickles.converted`.

    Args:
        path_or_hub_id, options: see `recognise_model`; this raises what that does, and what `fetched` of its
            result does.
    """
    return recognise_model(path_or_hub_id, **options).fetched()


def recognise_model(
    path_or_hub_id: str | Path,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    without: Collection[str] = (),
) -> RecognisedModel:
    """Determine which model it is, from its files' names and a few configs.

    For a hub id, only these configs are downloaded.

    Args:
        path_or_hub_id: a folder here, `owner/name` on the hub, both in either layout, or `embedded:NAME`.
        variant: "384p", "768p" or "image": which transformer of a published checkpoint; None takes the only
            one. For a folder from `save_pretrained(variant=...)`, that variant.
        revision, cache_dir, local_dir, token, local_files_only: as in huggingface_hub; `local_files_only`
            uses earlier downloads.
        without: names of parts of the pipeline that are not loaded: their files are not downloaded, and those
            of text encoders may be missing.

    Raises:
        FileNotFoundError: the path does not exist.
        NotADirectoryError: the path is a file, such as the weights of one part.
        OSError: the hub cannot be reached, or has no such repository; there is no room.
        ValueError: the layout is neither; the variant is missing, or not named among several; there are parts
            of both families or of none; a file is missing, or weights lie elsewhere.
    """
    model = resolve_model(str(path_or_hub_id))
    folder = Path(model).expanduser()
    repository = None
    if folder.is_file():
        raise NotADirectoryError(
            f"a model is a folder with all of its parts, got the file {model}; name the folder that contains "
            "it, as published or as save_pretrained wrote it"
        )
    if not folder.is_dir():
        if isinstance(path_or_hub_id, Path) or not is_hub_id(model):
            raise FileNotFoundError(f"{model} is neither a folder nor a hub id such as owner/name")
        repository = open_repository(
            model,
            revision=revision,
            cache_dir=cache_dir,
            local_dir=local_dir,
            token=token,
            local_files_only=local_files_only,
        )
        folder = repository.folder
    elif local_dir is not None:
        raise ValueError(f"{folder} is already a folder; local_dir is for a model on the hub")
    configs: dict[str, Mapping[str, Any]] = {}

    def config(name: str) -> Mapping[str, Any]:
        if name not in configs:
            configs[name] = read_config((repository.fetch([name]) if repository else folder) / name)
        return configs[name]

    if repository is None:
        judged = judge(list_files(folder), str(folder), variant, config, without)
    else:
        judged = _judged_on_hub(repository, variant, config, without)
    return RecognisedModel(
        folder=folder,
        variant=variant,
        **judged._asdict(),
        states=_states(folder, judged.files),
        configs=configs,
        without=frozenset(without),
        repository=repository,
    )


def _judged_on_hub(
    repository: Repository,
    variant: str | None,
    config: Callable[[str], Mapping[str, Any]],
    without: Collection[str],
) -> Judged:
    """What `judge` says of a repository."""
    try:
        return judge(repository.files, repository.name, variant, config, without)
    except ValueError as error:
        if repository.offline is None:
            raise
        raise repository.incomplete(str(error).split(". ")[0]) from error


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository on the hub: `owner/name`."""
    return _HUB_ID.fullmatch(name) is not None


class Judged(NamedTuple):
    """What a model's files say about it: see `ModelSource`."""

    layout: Layout
    family: Family
    transformer: str
    files: tuple[str, ...]


def judge(
    files: Collection[str],
    where: str,
    variant: str | None,
    config: Callable[[str], Mapping[str, Any]],
    without: Collection[str] = (),
) -> Judged:
    """Judge a folder or repository called `where`, by its file names and its configs by name.

    Args:
        without: parts of the pipeline that are left out, see `recognise_model`.

    Raises:
        ValueError: see `read_source`.
    """
    layout = layout_of(files, where)
    if layout == "diffusers":
        refuse_pickles(files, where)
        index = config("model_index.json")
        family, transformer = family_of_saved(index, where), "transformer"
        kept = {name: entry for name, entry in index.items() if name not in without}
        needed = saved_files(files, kept, where, variant)
        indexes = [name for name in needed if is_index(name)]
        names = ["vae/config.json", "transformer/config.json", "scheduler/scheduler_config.json"]
    else:
        chosen = choose_variant(files, where, variant)
        transformer = transformer_part(chosen)
        parts = (transformer, "text_encoder_2")
        configs = {part: config(f"{part}/config.json") for part in parts if f"{part}/config.json" in files}
        family = find_family(files, where, chosen, configs, without)
        folders = {"transformer": transformer, "vae": VAE_PART}
        left_out = {folders.get(part, part) for part in without}
        needed = original_files(files, where, family, chosen, left_out)
        indexes = [name for name in needed if name.endswith(".index.json")]
        names = [f"{VAE_PART}/config.json"]
    for name in names:
        if name in files:
            config(name)
    shards = [shard for name in indexes for shard in shards_of(config(name), files, where, name)]
    return Judged(layout, family, transformer, tuple(sorted({*needed, *shards})))


def _states(folder: Path, files: Collection[str]) -> dict[str, FileState]:
    """The states of the files that are here, and of their folders."""
    names = {*files, *(name.rpartition("/")[0] + "/" for name in files)}
    return {name: state for name in sorted(names) if (state := _state(folder / name)) is not None}


def _state(path: Path) -> FileState | None:
    """The state of a file, or of a folder, whose size means nothing; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return FileState(0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime_ns)


def _hub_id(folder: Path) -> str | None:
    """owner/name of a snapshot in the hub's cache: .../models--owner--name/snapshots/<commit>."""
    parts = folder.parent.parent.name.split("--")
    is_snapshot = folder.parent.name == "snapshots" and len(parts) == 3 and parts[0] == "models"
    return f"{parts[1]}/{parts[2]}" if is_snapshot else None
