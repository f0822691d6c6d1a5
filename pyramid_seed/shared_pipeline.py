"""The pipeline that everything in a process shares to make clips, and texts encoded for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial

from tqdm.auto import tqdm

from .checkpoints.source import ModelSource, RecognisedModel, recognise_model
from .choices import DeterminismLevel
from .determinism import attention_backend_at, determinism_level
from .devices import usable_device
from .dtypes import torch_dtype
from .environment import environment_fingerprint
from .families import PUBLISHED_MODELS
from .geometry import PyramidGeometry
from .loading import (
    LoraToLoad,
    check_loras_fit,
    check_shards_fit,
    check_texts_fit,
    default_device,
    load_source,
)
from .pipelines.clip_pipeline import ClipPipeline
from .pipelines.encoded_texts import PARTS_WITHOUT_TEXT, EncodedTexts
from .pipelines.memory import free_memory
from .pipelines.out_of_memory import out_of_memory_advice
from .pipelines.text import TextEmbeddings
from .pipelines.text_memory import TextMemory
from .presets import Preset


class SharedPipeline:
    """The pipeline of this process: loaded once, even for several threads; asking for another drops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[object, ...] | None = None
        self._pipeline: ClipPipeline | None = None
        self._read: dict[tuple[str, str | None], RecognisedModel] = {}  # the last one, by model and variant
        self._encoders: tuple[tuple[str, str | None, str], ModelSource, TextMemory] | None = (
            None  # of the last model
        )
        self.num_loads = 0

    def get(
        self,
        settings: Preset,
        device: str | None = None,
        compile: bool = False,
        check: Callable[[PyramidGeometry], object] = lambda _: None,
        source: RecognisedModel | None = None,
        loras: Sequence[LoraToLoad] = (),
        without: Collection[str] = (),
        embeds: EncodedTexts | None = None,
    ) -> ClipPipeline:
        """The pipeline with these settings and LoRAs, loaded again if its files have changed.

        Args:
            settings: name the model, its variant and dtype.
            device, compile: see `load_pipeline`.
            source: the same model, if its files have just been read.
            check: called with the model's geometry before its weights are downloaded or loaded; its errors
                are passed on.
            loras: as `loras_to_load` returns them. Other LoRAs mean another pipeline: none are exchanged
                while a clip is made.
            without: parts that it is loaded without; other parts mean another pipeline, too.
            embeds: texts that were encoded in advance; those of another model are refused before this one is
                loaded.
        """
        left_out = frozenset(without)
        key = (settings.model, settings.variant, settings.dtype, device, compile, tuple(loras), left_out)
        with self._lock:
            if self._pipeline is not None and self._key == key:
                held = self._pipeline.source
                if held is None or held is source or not held.changed_files():
                    return self._pipeline
            if self._pipeline is not None:
                self._key = self._pipeline = None
                free_memory()  # for the next one
            target = default_device() if device is None else usable_device(device)
            read = self._read.pop((settings.model, settings.variant), None)
            if source is None and read is not None and not read.changed_files():
                source = read
            source = checked_source(settings, check, source, loras, left_out, embeds)
            dtype = torch_dtype(settings.dtype)
            self._pipeline = load_source(source.fetched(), dtype, target, compile, loras)
            self._key = key
            self.num_loads += 1
            return self._pipeline

    def encoded(
        self,
        texts: Collection[str],
        settings: Preset,
        device: str | None = None,
        level: DeterminismLevel = "strict",
        progress: bool = False,
    ) -> EncodedTexts:
        """Texts encoded by a model's text encoders, which are loaded alone.

        They are not loaded for recently encoded texts; otherwise they take the place of the pipeline here.

        Args:
            texts: each is encoded separately.
            settings: name the model, its variant and dtype, and how many tokens are kept.
            device: where they are encoded, see `load_pipeline`.
            level: the level of determinism.
            progress: show a bar on standard error.
        """
        source, memory = self._text_encoders(settings)
        target = default_device() if device is None else usable_device(device)
        length = settings.max_sequence_length
        with determinism_level(level):
            missing = [text for text in texts if not memory.has(text, length, target)]
        pipeline = self.get(settings, device, source=source, without=PARTS_WITHOUT_TEXT) if missing else None

        def encode(text: str) -> TextEmbeddings:
            assert pipeline is not None  # since this text is missing
            with out_of_memory_advice(pipeline):
                return pipeline.remembered_text(text, length)

        with determinism_level(level):
            rows = {
                text: memory.get(text, length, target, (), partial(encode, text))
                for text in tqdm(dict.fromkeys(texts), desc="texts", disable=not progress)
            }
            environment = environment_fingerprint(
                target, torch_dtype(settings.dtype), attention_backend_at(level), level
            )
        return EncodedTexts(rows, length, settings.dtype, source.weights, environment)

    def _text_encoders(self, settings: Preset) -> tuple[ModelSource, TextMemory]:
        """The files of a model's text encoders, and the texts that these encoded recently."""
        model = settings.model, settings.variant, settings.dtype
        with self._lock:
            if self._encoders is not None:
                known, source, memory = self._encoders
                if known == model and not source.changed_files():
                    return source, memory
            read = recognise_model(settings.model, variant=settings.variant, without=PARTS_WITHOUT_TEXT)
            self._encoders = model, read.fetched(), TextMemory()
            return self._encoders[1:]

    def source(self, model: str, variant: str | None, without: Collection[str] = ()) -> RecognisedModel:
        """Which model it is: that of the pipeline here, unless its files have changed; else read now.

        Args:
            model, variant: as settings name them.
            without: parts to leave out.
        """
        left_out = frozenset(without)
        with self._lock:
            held = None if self._pipeline is None else self._pipeline.source
            if (
                held is None
                or self._key is None
                or (*self._key[:2], held.without) != (model, variant, left_out)
                or held.changed_files()
            ):
                read = recognise_model(model, variant=variant, without=left_out)
                self._read = {(model, variant): read}
                return read
            return held

    def clear(self) -> None:
        """Drop the pipeline."""
        with self._lock:
            self._key = self._pipeline = None


def checked_source(
    settings: Preset,
    check: Callable[[PyramidGeometry], object],
    source: RecognisedModel | None,
    loras: Sequence[LoraToLoad],
    without: Collection[str],
    embeds: EncodedTexts | None = None,
) -> RecognisedModel:
    """The model of settings, checked against them, LoRAs and texts; see `SharedPipeline.get`.

    Raises:
        ValueError: its configs alone rule these out; and whatever `check` raises.
    """
    if (family := PUBLISHED_MODELS.get(settings.model)) is not None:
        check(family.published_geometry)
    if source is None or source.without != frozenset(without):
        source = recognise_model(settings.model, variant=settings.variant, without=without)
    check(source.geometry)
    check_loras_fit(loras, source)
    check_shards_fit(settings.shards, source)
    check_texts_fit(embeds, source)
    return source


shared_pipeline = SharedPipeline()
