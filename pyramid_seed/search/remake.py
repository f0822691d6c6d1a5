"""Candidates of a search made one after the other in this process, without files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffusers.image_processor import PipelineImageInput

from ..api import make_clip
from ..clip import Clip
from ..pipelines.beginning import Beginning
from ..pipelines.clip_pipeline import ClipPipeline
from ..recipe import Recipe
from ..reproduce import Making
from .tree import Node, path_text


@dataclass
class Remaker:
    """Makes candidates; children go on from the units of parents that were made here.

    Attributes:
        recipe: of every candidate, but for its noise and its length.
        pipeline, image, making: see `reproduce.loaded_for`.
        start: what all candidates begin with, if it is a clip.
    """

    recipe: Recipe
    pipeline: ClipPipeline
    image: PipelineImageInput | None
    making: Making
    start: Node | None = None

    def __post_init__(self) -> None:
        self.environment: Mapping[str, Any] | None = None
        self._beginnings: dict[str, Beginning] = {}

    def made(self, node: Node) -> Clip:
        """The clip of a candidate, or of the finished winner."""
        parent = path_text(node.path[:-1])
        if not parent and self.start is not None and "" not in self._beginnings:
            self._make(self.start, None)
        return self._make(node, self._beginnings.get(parent))

    def _make(self, node: Node, beginning: Beginning | None) -> Clip:
        num_frames = self.pipeline.geometry.num_frames(node.num_units)
        clip = make_clip(
            replace(
                self.recipe,
                seed=node.seed,
                branches=node.branches,
                settings=replace(self.recipe.settings, num_frames=num_frames),
            ),
            self.pipeline,
            image=self.image,
            beginning=beginning,
            progress=False,
            **self.making,
        )
        self.environment = clip.environment
        self._beginnings[path_text(node.path)] = Beginning(
            clip.latents,
            clip.stage_digests,
            clip.text_digests,
            self.recipe.image_digest,
            clip.geometry.frames_per_unit,
        )
        return clip
