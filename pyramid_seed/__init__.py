"""pyramid_seed: the same prompt and seed always give the same clip.

The public names are imported when they are first used, so that `import pyramid_seed` and the command line's
help cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .api import generate, load_pipeline
    from .batch.rows import BatchInputError
    from .batch.run import run_batch
    from .batch.summary import BatchSummary
    from .checkpoints.source import ModelSource
    from .clip import Clip
    from .determinism import seed_everything, seed_worker
    from .environment import environment_fingerprint
    from .explore.sweep import SweepSummary, run_sweep
    from .media.frame_file import FrameFile
    from .models import (
        AutoencoderKLCausalVideo,
        PyramidFluxTransformer3DModel,
        PyramidSD3Transformer3DModel,
    )
    from .noise import Branch
    from .pipelines import PyramidFlowPipeline
    from .pipelines.beginning import Beginning
    from .presets import Preset, list_presets, load_preset
    from .provenance.manifest import read_manifest
    from .provenance.verify import Verification
    from .recipe import Recipe
    from .reproduce import extend, regenerate, verify
    from .schedulers import PyramidFlowMatchEulerDiscreteScheduler


_HOMES = {
    "AutoencoderKLCausalVideo": "models",
    "BatchInputError": "batch.rows",
    "BatchSummary": "batch.summary",
    "Beginning": "pipelines.beginning",
    "Branch": "noise",
    "Clip": "clip",
    "FrameFile": "media.frame_file",
    "ModelSource": "checkpoints.source",
    "Preset": "presets",
    "PyramidFlowMatchEulerDiscreteScheduler": "schedulers",
    "PyramidFlowPipeline": "pipelines",
    "PyramidFluxTransformer3DModel": "models",
    "PyramidSD3Transformer3DModel": "models",
    "Recipe": "recipe",
    "SweepSummary": "explore.sweep",
    "Verification": "provenance.verify",
    "environment_fingerprint": "environment",
    "extend": "reproduce",
    "generate": "api",
    "list_presets": "presets",
    "load_pipeline": "api",
    "load_preset": "presets",
    "read_manifest": "provenance.manifest",
    "regenerate": "reproduce",
    "run_batch": "batch.run",
    "run_sweep": "explore.sweep",
    "seed_everything": "determinism",
    "seed_worker": "determinism",
    "verify": "reproduce",
}

__all__ = [
    "AutoencoderKLCausalVideo",
    "BatchInputError",
    "BatchSummary",
    "Beginning",
    "Branch",
    "Clip",
    "FrameFile",
    "ModelSource",
    "Preset",
    "PyramidFlowMatchEulerDiscreteScheduler",
    "PyramidFlowPipeline",
    "PyramidFluxTransformer3DModel",
    "PyramidSD3Transformer3DModel",
    "Recipe",
    "SweepSummary",
    "Verification",
    "__version__",
    "environment_fingerprint",
    "extend",
    "generate",
    "list_presets",
    "load_pipeline",
    "load_preset",
    "read_manifest",
    "regenerate",
    "run_batch",
    "run_sweep",
    "seed_everything",
    "seed_worker",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
