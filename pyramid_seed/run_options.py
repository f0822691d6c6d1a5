"""How a clip is made besides its settings: where the work is done, and in which way."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import check_choice
from .choices import (
    AFTER_USE,
    ATTENTION_PATHS,
    DETERMINISM_LEVELS,
    AfterUse,
    AttentionPath,
    DeterminismLevel,
)


@dataclass(frozen=True)
class RunOptions:
    """One value for `generate`, `run_batch`, `run_sweep`, the commands and the page.

    Attributes:
        device: where the model runs; None: the accelerator if there is one, else the CPU.
        noise_device: where noise is drawn; the CPU's is the same on all machines.
        determinism: "strict" or "relaxed".
        attention: how attention is computed; None: as the pipeline has it, "prefix" if nobody set another.
        compile: run the transformer's blocks through `torch.compile`.
        text_encoders: once the text is encoded, "keep" the encoders, "offload" them to the CPU, or "free"
            their memory.
    """

    device: str | None = None
    noise_device: str = "cpu"
    determinism: DeterminismLevel = "strict"
    attention: AttentionPath | None = None
    compile: bool = False
    text_encoders: AfterUse = "keep"

    def check(self) -> None:
        """Refuse what cannot be run here, before anything is loaded.

        Raises:
            ValueError: an unknown word, or a noise device that this machine does not have.
        """
        check_choice("determinism", self.determinism, DETERMINISM_LEVELS)
        if self.attention is not None:
            check_choice("attention", self.attention, ATTENTION_PATHS)
        check_choice("text_encoders", self.text_encoders, AFTER_USE)
        from .devices import usable_device

        usable_device(self.noise_device, "noise_device")
