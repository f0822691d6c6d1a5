"""How a clip is made, apart from its settings: where the work is done, and in which way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from .checks import check_choice
from .choices import (
    AFTER_USE,
    ATTENTION_PATHS,
    DETERMINISM_LEVELS,
    MAX_WORKERS,
    AfterUse,
    AttentionPath,
    DeterminismLevel,
)
from .fields import about, described_fields, with_fields_listed


@dataclass(frozen=True)
class RunOptions:
    """The options that `generate`, `run_batch`, `run_sweep`, the commands and the page share."""

    device: str | None = about(
        "torch device of the model (default: an accelerator, else the CPU)", metavar="DEVICE", default=None
    )
    noise_device: str = about(
        "where noise is drawn; the CPU's is the same on all machines", metavar="DEVICE", default="cpu"
    )
    determinism: DeterminismLevel = about(
        "strict: the same bits on every run, or an error; relaxed: kernels chosen for speed",
        choices=DETERMINISM_LEVELS,
        default="strict",
    )
    attention: AttentionPath | None = about(
        "grouped: a few calls, however long the clip; prefix: one for each latent frame, without a mask; "
        "reference: one with a dense mask, as in the original; results differ in the last bits (default: "
        "grouped, or what the pipeline was set to)",
        choices=ATTENTION_PATHS,
        default=None,
    )
    compile: bool = about(
        "compile the transformer: the first call takes minutes, later ones are faster; results differ in the "
        "last bits",
        default=False,
    )
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS, title="a whole number of at least 1")] | None = about(
        "threads that compute at a time at level strict on a CPU; the clip is the same with any number "
        "(default: all cores that may be used)",
        default=None,
    )
    text_encoders: AfterUse = about(
        "once the text is encoded, keep the encoders, offload them to the CPU, or, for a single clip, free "
        "their memory before the rest of the model is loaded",
        choices=AFTER_USE,
        default="keep",
    )
    prompt_embeds: str | None = about(
        "texts that `pyramid-seed encode` wrote, .safetensors; the text encoders are then not needed",
        metavar="FILE",
        default=None,
    )

    def arguments(self) -> dict[str, Any]:
        """Arguments for `generate`, `run_batch` and `run_sweep`; None leaves the choice to them."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def check(self) -> None:
        """Refuse options that cannot work here, before anything is loaded.

        Raises:
            ValueError: a word or device is unknown, or this machine does not have the noise device.
        """
        for name, field in RUN_OPTIONS.items():
            value = getattr(self, name)
            if field.choices and not (value is None and field.default is None):
                check_choice(name, value, field.choices)
        RUN_OPTIONS["workers"].decode(self.workers)
        from .devices import parse_device, usable_device

        if self.device is not None:
            parse_device(self.device)
        usable_device(self.noise_device, "noise_device")


RUN_OPTIONS = described_fields(RunOptions)
"""Every option by name, with its sentence for people."""

with_fields_listed("Attributes", RUN_OPTIONS)(RunOptions)
