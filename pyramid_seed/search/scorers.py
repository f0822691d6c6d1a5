"""Who judges the candidates of a search: the report's measures, CLIP, or a function of the user's."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..checks import check_finite, did_you_mean
from ..determinism import determinism_level
from ..explore.measures import MEASURES, measure_clip
from ..files import file_digest
from ..geometry import PyramidGeometry
from ..media.frames import Frames
from ..version import __version__

logger = logging.getLogger(__name__)

_TERM = re.compile(r"\s*([+-]?)\s*(?:([0-9]*\.?[0-9]+)\s*\*\s*)?([a-z_]+)\s*")


class Scorer(Protocol):
    """Gives a clip a number, the higher the better; the same number for the same clip and prompt.

    Attributes:
        name, version: which scorer it is.
        digest: SHA-256 of its weights, or of its code; None if its version says everything.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def version(self) -> str:
        """See above."""
        ...

    @property
    def digest(self) -> str | None:
        """See above."""
        ...

    def score(self, frames: Frames, prompt: str) -> float:
        """The score of a clip, (T, H, W, 3) uint8 RGB as generated, made from `prompt`."""
        ...


def scorer_of(text: str, geometry: PyramidGeometry) -> Scorer:
    """The scorer that a text names.

    Args:
        text: measures with signs and weights, such as `sharpness` or `-flicker+0.5*motion`;
            `clip:FOLDER_OR_HUB_ID`; or `module:function`, called as `function(frames, prompt)`.
        geometry: the model's; it says which frames form a unit, for measures of drift.

    Raises:
        ValueError: there is no such measure, model, module or function.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        return MeasureScorer(text, geometry)
    return ClipScorer(rest) if kind == "clip" else FunctionScorer(text)


def score_of(scorer: Scorer, frames: Frames, prompt: str) -> tuple[float | None, str | None]:
    """A clip's score, or why it has none: the scorer has failed, or its number is not finite."""
    try:
        value = scorer.score(frames, prompt)
        check_finite("a score", value)
        return float(value), None
    except Exception as error:  # whatever it is, the other candidates go on
        logger.info("the scorer has failed", exc_info=True)
        return None, f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class MeasureScorer:
    """A weighted sum of the report's measures, see `explore.measures`."""

    name: str
    geometry: PyramidGeometry
    version: str = field(
        default_factory=lambda: (
            f"pyramid-seed {__version__}, opencv {_version_of('cv2')}, scikit-image {_version_of('skimage')}"
        )
    )
    digest: str | None = None

    def __post_init__(self) -> None:
        self.weights  # noqa: B018 - raises if there is no such measure

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weight of each measure in the sum."""
        known, place = [measure.name for measure in MEASURES], 0
        weights: dict[str, float] = {}
        while place < len(self.name) or not weights:
            term = _TERM.match(self.name, place)
            if term is None or (place and not term[1]):
                raise ValueError(
                    "a scorer must be a sum of measures such as -flicker+0.5*motion, clip:FOLDER_OR_HUB_ID "
                    f"or module:function, got {self.name!r:.80}"
                )
            if term[3] not in known or term[3] in weights:
                again = " twice" if term[3] in weights else did_you_mean(term[3], known)
                raise ValueError(f"measures are {', '.join(known)}; got {term[3]!r}{again}")
            weights[term[3]] = float(f"{term[1]}{term[2] or 1}")
            place = term.end()
        return weights

    def score(self, frames: Frames, prompt: str) -> float:  # noqa: ARG002 - the same for all scorers
        """See `Scorer`; ValueError if a measure is not defined for the clip, as motion for one frame."""
        values = measure_clip(frames, self.geometry)
        total = 0.0
        for name, weight in self.weights.items():
            if (value := values[name]) is None:
                raise ValueError(f"{name} is not defined for this clip")
            total += weight * value
        return total


class ClipScorer:
    """Mean over the frames of the cosine of CLIP's embeddings of frame and prompt.

    Each frame is embedded alone, in float32 on the CPU at level strict, so that the score does not depend on
    batches and threads.

    Args:
        source: a folder with the weights as safetensors, or a hub id.
    """

    def __init__(self, source: str) -> None:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        place = Path(source).expanduser()
        self.name = f"clip:{place.resolve().name if place.is_dir() else source}"
        self.version = f"transformers {version('transformers')}, torch {version('torch')}"
        try:
            self._model = CLIPModel.from_pretrained(source, use_safetensors=True).eval().float()
            self._tokenizer = CLIPTokenizer.from_pretrained(source)
            self._images = CLIPImageProcessorPil.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"clip:{source} must be a CLIP of transformers, in safetensors: {error}"
            ) from error
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + b"\0" + tensor.contiguous().numpy().tobytes())
        self.digest = digest.hexdigest()

    def score(self, frames: Frames, prompt: str) -> float:
        """See `Scorer`; of a longer prompt, CLIP sees the first tokens."""
        import torch

        with torch.no_grad(), determinism_level("strict"):
            text = self._tokenizer(prompt, truncation=True, return_tensors="pt")
            cosines = []
            for frame in frames:
                image = self._images(Image.fromarray(frame), return_tensors="pt")
                made = self._model(**text, pixel_values=image["pixel_values"].float())
                cosines.append(float((made.image_embeds * made.text_embeds).sum()))
        return math.fsum(cosines) / len(cosines)


class FunctionScorer:
    """A function of the user's, `module:function`; its digest is that of the module's file."""

    def __init__(self, name: str) -> None:
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
            self._function: Callable[[Frames, str], Any] = getattr(module, attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"the scorer {name} cannot be imported: {error}; it must be module:function, where Python "
                "finds the module, for example beside you with PYTHONPATH=."
            ) from error
        if not callable(self._function):
            raise ValueError(f"the scorer {name} must be a function, got {type(self._function).__name__}")
        self.name = name
        self.version = str(getattr(module, "__version__", ""))
        file = inspect.getsourcefile(module)
        self.digest = None if file is None else file_digest(Path(file))

    def score(self, frames: Frames, prompt: str) -> float:
        """See `Scorer`."""
        value = self._function(frames, prompt)
        return value.item() if isinstance(value, np.generic) else value


def _version_of(module: str) -> str:
    return str(importlib.import_module(module).__version__)
