"""What stays the same through the steps of one stage."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch

from .attention import Rotary
from .attention_plan import AttentionPlan


@dataclass(frozen=True)
class StageContext:
    """Everything that a transformer step needs besides the current latents and the timestep.

    Attributes:
        text: projected text tokens (B, L, inner_dim); except on the reference path, without the padding that
            all samples share, and with the rest of the padding in front.
        history: embedded history tokens (B, N, inner_dim); N is 0 for the first unit.
        pooled: the text's part of the time and text embedding, (B, inner_dim).
        rotary: rotary tables of the whole sequence: text, history, current.
        attention: who attends to whom: a plan, or the dense mask (B, 1, S, S) of the reference path.
    """

    text: torch.Tensor
    history: torch.Tensor
    pooled: torch.Tensor
    rotary: Rotary
    attention: AttentionPlan | torch.Tensor


@dataclass
class StageMemory:
    """What the first step of a stage leaves for the others; there is one per stage, text and path.

    Attributes:
        context: None before the first step.
        lock: held while the context is made, as several pieces of a step may ask for it.
    """

    context: StageContext | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
