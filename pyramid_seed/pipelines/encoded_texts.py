"""Texts encoded in advance, so that clips can be made from them without text encoders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..checks import check_choice
from ..choices import DTYPES
from ..dtypes import dtype_name
from ..files import FileRow, check_readable, write_file
from ..texts import parse_json
from .text import PromptEmbeddings, TextEmbeddings, embeddings_digest

ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts that a pipeline no longer needs once its texts are encoded."""
PARTS_WITHOUT_TEXT = ("transformer", "vae")
"""Parts that a pipeline does not need for encoding texts."""

_HEADER = "pyramid_seed"  # the name of our metadata in the file


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Embeddings of texts, and what encoded them.

    Attributes:
        texts: the embeddings (1, L, D), (1, L) and (1, P) of each text; those in a file are read on access.
        max_sequence_length: L.
        dtype: of the text encoders, "float32" or "bfloat16".
        weights: name, size and SHA-256 of each file of the text encoders and tokenizers.
        environment: where they were encoded, see `environment_fingerprint`.
        path: the file that holds them; None if they are in memory.
    """

    texts: Mapping[str, TextEmbeddings]
    max_sequence_length: int
    dtype: str
    weights: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    path: Path | None = None

    def check(self, prompt: str, negative_prompt: str | None, max_sequence_length: int, dtype: str) -> None:
        """Refuse a clip whose texts are missing here, or were encoded in another way.

        Args:
            prompt: with its suffix.
            negative_prompt: None if the clip is not guided.
            max_sequence_length, dtype: the clip's.

        Raises:
            ValueError: says what does not fit, and what to do.
        """
        where = self.path or "prompt_embeds"
        for name, mine, asked in (
            ("max_sequence_length", self.max_sequence_length, max_sequence_length),
            ("dtype", self.dtype, dtype),
        ):
            if mine != asked:
                raise ValueError(
                    f"{where} was encoded with {name} {mine}, the clip has {asked}; give {name}={mine}, or "
                    "encode the texts again"
                )
        for name, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
            if text is not None and text not in self.texts:
                raise ValueError(
                    f"{where} must hold the embeddings of the {name} {text!r:.200}, which is none of its "
                    f"{len(self.texts)} texts; encode it with the clip's preset: pyramid-seed encode"
                )

    def check_beginning(self, digests: Mapping[str, str], prompt: str, negative_prompt: str | None) -> None:
        """Refuse to continue a clip whose units were made from other embeddings of its texts: ValueError.

        Args:
            digests: see `Beginning.text_digests`.
            prompt, negative_prompt: see `check`.
        """
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if text is not None and name in digests and digests[name] != (digest := self.digest(text)):
                raise ValueError(
                    f"the clip was begun with other embeddings of its {name} than those of "
                    f"{self.path or 'prompt_embeds'}: SHA-256 {digests[name][:16]}... and {digest[:16]}...; "
                    "go on with its own"
                )

    def arguments(self, prompt: str, negative_prompt: str | None) -> dict[str, torch.Tensor]:
        """The arguments for a pipeline's call in place of the texts, which must be stored here.

        Raises:
            ValueError: the file is damaged.
        """
        negative = () if negative_prompt is None else self.texts[negative_prompt]
        embeddings = PromptEmbeddings(*self.texts[prompt], *negative)
        return {name: values for name, values in embeddings._asdict().items() if values is not None}

    def digest(self, text: str) -> str:
        """SHA-256 of the embeddings of a text, which must be stored here; see `embeddings_digest`."""
        return embeddings_digest(self.texts[text])

    def with_rows(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
        """The weight files of a clip: a pipeline's, and those that encoded its texts.

        Raises:
            ValueError: see `check_files`.
        """
        self.check_files({row["file"]: row["sha256"] for row in rows}, "sha256")
        files = {row["file"]: dict(row) for row in (*self.weights, *rows)}
        return tuple(files[name] for name in sorted(files))

    def check_files(self, files: Mapping[str, object], fact: str) -> None:
        """Refuse texts that were encoded with the files of another model.

        Args:
            files: the model's files by name, each with one `fact` about it: "size" or "sha256".

        Raises:
            ValueError: the fact differs for a file of the same name.
        """
        for row in self.weights:
            if files.get(row["file"], row[fact]) != row[fact]:
                raise ValueError(
                    f"{self.path or 'prompt_embeds'} must be encoded with the model's own {row['file']}, "
                    "which is another one; encode the texts with this model"
                )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a .safetensors file: the embeddings, and the rest as its metadata; whole or not at all.

        Returns:
            The path.

        Raises:
            FileExistsError: the path exists.
            ValueError: the path has another ending.
        """
        path = Path(path)
        check_ending(path)
        rows = list(self.texts.items())
        header = _Header(
            texts=[_Text(text, embeddings_digest(embeddings)) for text, embeddings in rows],
            max_sequence_length=self.max_sequence_length,
            dtype=self.dtype,
            weights=msgspec.convert(self.weights, list[FileRow]),
            environment=dict(self.environment),
        )
        tensors = {
            f"{index}.{name}": values.detach().cpu().contiguous()
            for index, (_, embeddings) in enumerate(rows)
            for name, values in embeddings._asdict().items()
        }
        metadata = {_HEADER: json.dumps(msgspec.to_builtins(header), sort_keys=True)}
        write_file(path, save(tensors, metadata=metadata), overwrite=overwrite)
        return path


class _Text(msgspec.Struct):
    text: str
    sha256: str


class _Header(msgspec.Struct, kw_only=True):
    schema: Literal["pyramid-seed/prompt-embeds"] = "pyramid-seed/prompt-embeds"
    schema_version: Literal[1] = 1
    texts: list[_Text]
    max_sequence_length: int
    dtype: str
    weights: list[FileRow]
    environment: dict[str, Any]


def check_ending(path: Path) -> None:
    """Refuse to write embeddings to any file but a .safetensors: ValueError."""
    if path.suffix.lower() != ".safetensors":
        raise ValueError(
            f"embeddings are written as .safetensors, got {path}; use {path.with_suffix('.safetensors')}"
        )


def read_encoded_texts(path: str | Path) -> EncodedTexts:
    """Read what `EncodedTexts.save` wrote; the embeddings themselves are read on access.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or of another kind.
    """
    path = Path(path)
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
    except SafetensorError as error:
        raise ValueError(f"{path} holds no embeddings: {error}") from error
    if text is None:
        raise ValueError(f"{path} holds no embeddings of pyramid-seed encode")
    try:
        header = msgspec.convert(parse_json(text), _Header)
        check_choice("dtype", header.dtype, DTYPES)
        if not header.texts:
            raise ValueError("it has no texts")
    except ValueError as error:  # msgspec's error is one
        raise ValueError(f"{path} holds damaged embeddings: {error}") from error
    return EncodedTexts(
        texts=_StoredTexts(path, header),
        max_sequence_length=header.max_sequence_length,
        dtype=header.dtype,
        weights=msgspec.to_builtins(header.weights),
        environment=header.environment,
        path=path,
    )


class _StoredTexts(Mapping[str, TextEmbeddings]):
    """The embeddings in a file, read one by one, as the file may be larger than the memory."""

    def __init__(self, path: Path, header: _Header) -> None:
        self._path = path
        self._places = {row.text: (index, row.sha256) for index, row in enumerate(header.texts)}
        self._dtype = header.dtype

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, text: object) -> bool:
        return text in self._places

    def __getitem__(self, text: str) -> TextEmbeddings:
        """The embeddings of a text; ValueError if they are not those that were written."""
        index, digest = self._places[text]
        try:
            with safe_open(self._path, framework="pt") as file:
                names = (f"{index}.{name}" for name in TextEmbeddings._fields)
                embeddings = TextEmbeddings(*map(file.get_tensor, names))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self._path} lacks the embeddings of {text!r:.200}: {error}") from error
        if (
            dtype_name(embeddings.prompt_embeds.dtype) != self._dtype
            or embeddings_digest(embeddings) != digest
        ):
            raise ValueError(
                f"{self._path} is damaged: the embeddings of {text!r:.200} are not those written"
            )
        return embeddings
