"""The text encoders of a pipeline: used once for equal texts, and moved or given up after use when asked."""

from __future__ import annotations

import gc
from functools import cached_property
from typing import Any

import torch

from ..choices import AfterUse
from .text import Encoders, TextEmbeddings, encode_text
from .text_memory import TextMemory


class TextEncodersMixin:
    """`encode_prompt` and what becomes of the encoders after it."""

    components: dict[str, Any]
    _execution_device: torch.device
    _offloaded_text = False

    @cached_property
    def _text_memory(self) -> TextMemory:
        return TextMemory()

    def _text_encoders(self) -> Encoders:
        names = [("tokenizer" + end, "text_encoder" + end) for end in ("", "_2", "_3")]
        return [
            (getattr(self, tokenizer), getattr(self, encoder))
            for tokenizer, encoder in names
            if getattr(self, encoder) is not None
        ]

    @torch.no_grad()
    def encode_prompt(
        self, prompt: str, max_sequence_length: int = 128, device: torch.device | None = None
    ) -> TextEmbeddings:
        """Embeddings of one prompt: (1, L, D), mask (1, L), pooled (1, P).

        Raises:
            ValueError: the pipeline has no text encoders, or none any more.
        """
        device = device or self._execution_device
        encoders = self._text_encoders()
        if not encoders:
            raise ValueError(
                f"the text encoders are gone and {prompt!r} was not encoded while they were there; give "
                "prompt_embeds, prompt_attention_mask and pooled_prompt_embeds, as encode_prompt gave them, "
                "or load the pipeline again"
            )
        if self._offloaded_text:
            for _, encoder in encoders:
                encoder.to(device)
            self._offloaded_text = False
        return encode_text(prompt, encoders, max_sequence_length, device)

    def remembered_text(self, prompt: str, max_sequence_length: int = 128) -> TextEmbeddings:
        """What `encode_prompt` gives, encoded only if equal text was not encoded lately, see `TextMemory`."""
        return self._text_memory.get(
            prompt,
            max_sequence_length,
            self._execution_device,
            self._text_encoders(),
            lambda: self.encode_prompt(prompt, max_sequence_length),
        )

    def after_text(self, then: AfterUse) -> None:
        """Do with the encoders what `AfterUse` says."""
        if then == "offload":
            self.offload_text_encoders()
        elif then == "free":
            self.free_text_encoders()

    def offload_text_encoders(self) -> None:
        """Move the text encoders to the CPU until the next new text; the rest stays where it is.

        Encoders that something else moves (`enable_model_cpu_offload` and its like) are left to it.
        """
        device = self._execution_device
        encoders = [encoder for _, encoder in self._text_encoders()]
        if device.type != "cpu" and all(encoder.device == device for encoder in encoders):
            for encoder in encoders:
                encoder.to("cpu")
            self._offloaded_text = True

    def free_text_encoders(self) -> None:
        """Give up the text encoders. Texts that were encoded lately can still be used; new ones raise."""
        if encoders := self._text_encoders():
            self._text_memory.forget_encoders(encoders)
            del encoders
        for name in self.components:
            if name.startswith("text_encoder"):
                setattr(self, name, None)
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
