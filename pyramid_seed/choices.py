"""Words that options can take, in one place that imports nothing: the command line names them all."""

from __future__ import annotations

from typing import Literal, get_args

DeterminismLevel = Literal["strict", "relaxed"]
"""How far kernels are held to repeat themselves, see `determinism.determinism_level`."""
DETERMINISM_LEVELS: tuple[DeterminismLevel, ...] = get_args(DeterminismLevel)

AttentionPath = Literal["grouped", "prefix", "reference"]
"""`grouped`: every time attends to what lies before its end. Large times have a call without a mask, small
ones at the beginning share one or two calls and a mask; padded text is dropped, and what is constant in a
stage is built once. `prefix`: the same with a call for each time, for attention backends that take no mask,
and for clips made before there was `grouped`. `reference`: one call with a dense mask over the padded
sequence, all tokens through the last block, everything built again at every step."""
ATTENTION_PATHS: tuple[AttentionPath, ...] = get_args(AttentionPath)
DEFAULT_PATH: AttentionPath = "grouped"
EARLIER_DEFAULT_PATH: AttentionPath = "prefix"
"""That of clips which were made, or begun, before there was `grouped`."""

AfterUse = Literal["keep", "offload", "free"]
"""What becomes of the text encoders when all texts of a call are encoded: they stay where they are, move to
the CPU until the next new text, or are given up for good."""
AFTER_USE: tuple[AfterUse, ...] = get_args(AfterUse)

Fit = Literal["crop", "pad", "stretch"]
"""How an image of another size becomes a clip's first frame: cut to its shape around the middle, put on
black, or stretched."""
FITS: tuple[Fit, ...] = get_args(Fit)

Engine = Literal["launch", "ray"]
"""What shares a batch out: `launch`, the processes that a launcher has started, or one alone; `ray`, actors
of a Ray cluster."""
ENGINES: tuple[Engine, ...] = get_args(Engine)

LIST_FORMATS = ("txt", "jsonl", "csv", "yaml")
"""Of the list of a batch."""

DTYPES = ("float32", "bfloat16")
"""What the models can run in."""

MAX_SHARDS = 64
"""Pieces of the sequence of one half of guidance."""
MAX_WORKERS = 2 * MAX_SHARDS
"""Threads of a call: one for each piece of a step that is guided."""

VARIANTS = ("384p", "768p", "image")
"""The transformers of a published checkpoint."""
