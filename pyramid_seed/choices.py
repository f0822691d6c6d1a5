"""Words for options, in a module that imports nothing, as the command line lists them all."""

from __future__ import annotations

from typing import Literal, get_args

DeterminismLevel = Literal["strict", "relaxed"]
"""How strictly kernels must repeat themselves, see `determinism.determinism_level`."""
DETERMINISM_LEVELS: tuple[DeterminismLevel, ...] = get_args(DeterminismLevel)

AttentionPath = Literal["grouped", "prefix", "reference"]
"""`grouped`: every time attends to everything before its end. Large times have a call without a mask, small
ones at the start share one or two calls and a mask; padded text is dropped, and what is constant in a stage
is built once. `prefix`: the same with one call per time, for attention backends that take no mask, and for
clips made before `grouped` existed. `reference`: one call with a dense mask over the padded sequence, all
tokens through the last block, everything built anew at every step."""
ATTENTION_PATHS: tuple[AttentionPath, ...] = get_args(AttentionPath)
DEFAULT_PATH: AttentionPath = "grouped"
EARLIER_DEFAULT_PATH: AttentionPath = "prefix"
"""The path of clips made, or begun, before `grouped` existed."""

AfterUse = Literal["keep", "offload", "free"]
"""What happens to the text encoders once all texts of a call are encoded: they stay where they are, move to
the CPU until the next new text, or are freed for good."""
AFTER_USE: tuple[AfterUse, ...] = get_args(AfterUse)

Fit = Literal["crop", "pad", "stretch"]
"""How an image of another size becomes a clip's first frame: cropped around the middle, padded with black,
or stretched."""
FITS: tuple[Fit, ...] = get_args(Fit)

Engine = Literal["launch", "ray"]
"""Who shares a batch: `launch`, the processes that a launcher has started, or a single one; `ray`, actors of
a Ray cluster."""
ENGINES: tuple[Engine, ...] = get_args(Engine)

LIST_FORMATS = ("txt", "jsonl", "csv", "yaml")
"""The formats of a batch's list."""

DTYPES = ("float32", "bfloat16")
"""The dtypes in which the models can run."""

MAX_SHARDS = 64
"""Most pieces of the sequence of one half of guidance."""
MAX_WORKERS = 2 * MAX_SHARDS
"""Most threads of a call: one for each piece of a guided step."""

VARIANTS = ("384p", "768p", "image")
"""The transformers of a published checkpoint."""
