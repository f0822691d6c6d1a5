"""How the transformer computes: what changes the last bits of a clip and nothing else about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionPath = Literal["prefix", "reference"]
"""`prefix`: every latent frame attends to what lies before it, by calls without a mask; padded text is
dropped, and what is constant in a stage is built once. `reference`: one call with a dense mask over the
padded sequence, everything built again at every step."""
ATTENTION_PATHS: tuple[AttentionPath, ...] = ("prefix", "reference")


@dataclass(frozen=True)
class Execution:
    """How the transformer computes.

    Attributes:
        attention: see `AttentionPath`.
        backend: the kernels, by their name in diffusers' attention dispatch.
        compiled: whether `torch.compile` was used.
    """

    attention: AttentionPath = "prefix"
    backend: str = "native"
    compiled: bool = False

    def __post_init__(self) -> None:
        check_attention_path(self.attention)


def check_attention_path(path: str) -> None:
    """Raise ValueError for what is no `AttentionPath`."""
    if path not in ATTENTION_PATHS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION_PATHS)}, got {path!r}; use 'prefix'")
