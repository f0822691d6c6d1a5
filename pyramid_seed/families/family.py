"""What a family of models says about itself before any of its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from diffusers.models.modeling_utils import ModelMixin

from ..choices import AttentionPath
from ..geometry import PyramidGeometry


class ReadConfig(Protocol):
    """Reads one of a model's configs."""

    def __call__(self, file: str, *names: str) -> Mapping[str, Any]:
        """The config in a file; ValueError if it lacks one of the keys."""
        ...


class Family(Protocol):
    """A family of models: how its folders are recognised, what is in them, and what is made of it.

    Everything else in which families differ is in the pipeline that a family names, see
    `pipelines.clip_pipeline.ClipPipeline`.
    """

    @property
    def name(self) -> str:
        """In messages."""
        ...

    @property
    def pipeline(self) -> str:
        """The name of its pipeline in `pyramid_seed.pipelines`."""
        ...

    @property
    def vae_class(self) -> type[ModelMixin]:
        """The class of its autoencoder."""
        ...

    @property
    def transformer_class(self) -> type[ModelMixin]:
        """The class of its transformer; the arguments default to the published sizes."""
        ...

    @property
    def attention(self) -> AttentionPath:
        """How its transformer computes attention unless told otherwise."""
        ...

    @property
    def float32_parts(self) -> frozenset[str]:
        """Parts that stay in float32 whatever the dtype of the rest."""
        ...

    @property
    def published_geometry(self) -> PyramidGeometry:
        """The geometry of its published models: it says what fits before the hub is asked."""
        ...

    def made(self, index: Mapping[str, Any]) -> bool:
        """Whether a model_index.json is that of one of its models."""
        ...

    def geometry(self, config: ReadConfig) -> PyramidGeometry:
        """Sizes and counts that a saved model allows; ValueError if a config does not say."""
        ...

    def text_widths(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Widths of the sequence of embeddings and of the pooled ones, from the transformer's config."""
        ...


def class_in(index: Mapping[str, Any], part: str) -> Any:
    """The class that a model_index.json names for a part."""
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
