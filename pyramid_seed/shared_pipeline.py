"""The pipeline that a process shares among all who make clips in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .checkpoints.source import PUBLISHED_GEOMETRY, PUBLISHED_MODELS, RecognisedModel, recognise_model
from .devices import usable_device
from .dtypes import torch_dtype
from .geometry import PyramidGeometry
from .loading import LoraToLoad, check_loras_fit, check_shards_fit, default_device, load_source
from .pipelines import PyramidFlowPipeline
from .presets import Preset


class SharedPipeline:
    """The pipeline of this process: loaded once, also if several threads ask; asking for another drops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[object, ...] | None = None
        self._pipeline: PyramidFlowPipeline | None = None
        self._read: dict[tuple[str, str | None], RecognisedModel] = {}  # the last one, by model and variant
        self.num_loads = 0

    def get(
        self,
        settings: Preset,
        device: str | None = None,
        compile: bool = False,
        check: Callable[[PyramidGeometry], object] = lambda _: None,
        source: RecognisedModel | None = None,
        loras: Sequence[LoraToLoad] = (),
    ) -> PyramidFlowPipeline:
        """The pipeline of these settings and LoRAs, loaded again if its files have changed.

        Args:
            settings: name the model, its variant and dtype.
            device, compile: see `load_pipeline`.
            source: the same model, if its files have just been read.
            check: called with the model's geometry before its weights are downloaded or loaded; what it
                raises is passed on.
            loras: as `loras_to_load` gives them. With others it is another pipeline: nobody's are exchanged
                while a clip is made.
        """
        if settings.model in PUBLISHED_MODELS:
            check(PUBLISHED_GEOMETRY)
        key = (settings.model, settings.variant, settings.dtype, device, compile, tuple(loras))
        with self._lock:
            if self._pipeline is not None and self._key == key:
                held = self._pipeline.source
                if held is None or held is source or not held.changed_files():
                    return self._pipeline
            self._key = self._pipeline = None  # so that its memory is free while the next one is loaded
            target = default_device() if device is None else usable_device(device)
            read = self._read.pop((settings.model, settings.variant), None)
            if source is None and read is not None and not read.changed_files():
                source = read
            source = source or recognise_model(settings.model, variant=settings.variant)
            check(source.geometry)
            check_loras_fit(loras, source)
            check_shards_fit(settings.shards, source)
            self._pipeline = load_source(
                source.fetched(), torch_dtype(settings.dtype), target, compile, loras
            )
            self._key = key
            self.num_loads += 1
            return self._pipeline

    def source(self, model: str, variant: str | None) -> RecognisedModel:
        """Which model that is: as the pipeline here has it, unless its files have changed, or read now."""
        with self._lock:
            held = None if self._pipeline is None else self._pipeline.source
            if held is None or self._key is None or self._key[:2] != (model, variant) or held.changed_files():
                read = recognise_model(model, variant=variant)
                self._read = {(model, variant): read}
                return read
            return held

    def clear(self) -> None:
        """Let the pipeline go."""
        with self._lock:
            self._key = self._pipeline = None


shared_pipeline = SharedPipeline()
