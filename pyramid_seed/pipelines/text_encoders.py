"""The text encoders of a pipeline: they encode equal texts once, and can be moved or freed after use."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from ..choices import AfterUse
from .memory import free_memory
from .text import (
    Encoders,
    PromptEmbeddings,
    TextEmbeddings,
    check_encoders,
    cut_of,
    encode_text,
    joined,
    text_embeddings,
)
from .text_inputs import EMBEDDINGS, check_text
from .text_memory import TextMemory


class TextEncodersMixin:
    """`encode_prompt`, and what happens to the encoders after it."""

    components: dict[str, Any]
    transformer: Any
    _execution_device: torch.device
    _offloaded_text = False

    @cached_property
    def _text_memory(self) -> TextMemory:
        return TextMemory()

    @property
    def text_widths(self) -> tuple[int, int]:
        """Widths of the sequence of embeddings and of the pooled ones that the transformer reads."""
        raise NotImplementedError

    def _text_encoders(self) -> Encoders:
        parts = self.components
        names = [("tokenizer" + end, "text_encoder" + end) for end in ("", "_2", "_3")]
        return [
            (parts[tokenizer], parts[encoder])
            for tokenizer, encoder in names
            if parts.get(encoder) is not None
        ]

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        max_sequence_length: int = 128,
        device: torch.device | None = None,
    ) -> PromptEmbeddings:
        """Embeddings of prompts and negative prompts, each text encoded as if it were alone.

        A call takes them: `pipe(**pipe.encode_prompt("a boat")._asdict())`. Under `torch.no_grad()` they are
        bit for bit those that a call makes, and equal texts are encoded once, see `TextMemory`. Otherwise
        gradients flow through, and the last bits differ: T5's attention then uses another kernel.

        Args:
            prompt: N texts, or one.
            negative_prompt: one for all, or one each; default: the empty text.
            do_classifier_free_guidance: whether negative prompts are encoded at all.
            num_videos_per_prompt: rows per prompt, next to each other in the output.
            prompt_embeds, prompt_attention_mask, pooled_prompt_embeds: embeddings (N, L, D), (N, L), (N, P)
                in place of a prompt; likewise the negative ones, of batch size N or 1.
            max_sequence_length: L, if no prompt_embeds are given.
            device: where the encoders compute; default: where the pipeline does.

        Returns:
            N num_videos_per_prompt rows, for all prompts.

        Raises:
            ValueError: the arguments do not fit; or the pipeline has no text encoders, or has freed them.
        """
        positive_values = (prompt_embeds, prompt_attention_mask, pooled_prompt_embeds)
        negative_values = (
            negative_prompt_embeds,
            negative_prompt_attention_mask,
            negative_pooled_prompt_embeds,
        )
        given = dict(zip(EMBEDDINGS, (*positive_values, *negative_values), strict=True))
        num_prompts = check_text(prompt, negative_prompt, given)
        positive, negative = text_embeddings(*positive_values), text_embeddings(*negative_values)
        device = device or self._execution_device
        length = max_sequence_length if prompt_embeds is None else prompt_embeds.shape[1]
        if positive is None:
            positive = self._encode_texts(prompt, num_prompts, length, device)
        if not do_classifier_free_guidance:
            return PromptEmbeddings(*positive.repeat(num_videos_per_prompt))
        if negative is None:
            negative = self._encode_texts(negative_prompt, num_prompts, length, device)
        elif negative.prompt_embeds.shape[0] < num_prompts:
            negative = negative.repeat(num_prompts)
        return PromptEmbeddings(
            *positive.repeat(num_videos_per_prompt), *negative.repeat(num_videos_per_prompt)
        )

    def _encode_texts(
        self, text: str | list[str] | None, count: int, max_sequence_length: int, device: torch.device
    ) -> TextEmbeddings:
        """Embeddings (count, ...) of `count` texts; a single text, or None, stands for all."""
        texts = text if isinstance(text, list) else [text or ""] * count
        encode = self._encode_text if torch.is_grad_enabled() else self.remembered_text
        rows = {words: encode(words, max_sequence_length, device) for words in dict.fromkeys(texts)}
        return joined([rows[words] for words in texts])

    def _encode_text(self, text: str, max_sequence_length: int, device: torch.device) -> TextEmbeddings:
        encoders = self._usable_encoders(text, device)
        if self.transformer is not None:
            check_encoders(encoders, self.text_widths)
        return encode_text(text, encoders, max_sequence_length, device)

    def _usable_encoders(self, text: str, device: torch.device) -> Encoders:
        """The encoders, on the device, to encode a text; ValueError if they were freed."""
        encoders = self._text_encoders()
        if not encoders:
            raise ValueError(
                f"the text encoders have been freed, and {text!r} was not encoded before that; give "
                "prompt_embeds, prompt_attention_mask and pooled_prompt_embeds, as encode_prompt gave them, "
                "or load the pipeline again"
            )
        if self._offloaded_text:
            for _, encoder in encoders:
                encoder.to(device)
            self._offloaded_text = False
        return encoders

    def remembered_text(
        self, text: str, max_sequence_length: int = 128, device: torch.device | None = None
    ) -> TextEmbeddings:
        """Embeddings (1, ...) of one text without gradients, encoded unless an equal text was recently.

        Raises:
            ValueError: the pipeline has no text encoders, or has freed them.
        """
        device = device or self._execution_device
        with torch.no_grad():
            return self._text_memory.get(
                text,
                max_sequence_length,
                device,
                self._text_encoders(),
                lambda: self._encode_text(text, max_sequence_length, device),
            )

    def text_cuts(self, text: str, max_sequence_length: int, name: str = "the prompt") -> tuple[str, ...]:
        """What each tokenizer cuts off a text, as messages; () if none cuts anything."""
        tokenizers = [self.components.get(part) for part in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        *clip, t5 = [tokenizer for tokenizer in tokenizers if tokenizer is not None]
        cuts = [cut_of(text, tokenizer, tokenizer.model_max_length, name) for tokenizer in clip]
        cuts.append(cut_of(text, t5, max_sequence_length, name))
        return tuple(cut for cut in cuts if cut is not None)

    def after_text(self, then: AfterUse) -> None:
        """Keep, move or free the encoders, as `AfterUse` says."""
        if then == "offload":
            self.offload_text_encoders()
        elif then == "free":
            self.free_text_encoders()

    def offload_text_encoders(self) -> None:
        """Move the text encoders to the CPU until the next new text; the rest stays where it is.

        Encoders that something else moves (`enable_model_cpu_offload` and the like) are left alone.
        """
        device = self._execution_device
        encoders = [encoder for _, encoder in self._text_encoders()]
        if device.type != "cpu" and all(encoder.device == device for encoder in encoders):
            for encoder in encoders:
                encoder.to("cpu")
            self._offloaded_text = True

    def free_text_encoders(self) -> None:
        """Free the text encoders for good. Recently encoded texts can still be used; new ones raise."""
        if encoders := self._text_encoders():
            self._text_memory.forget_encoders(encoders)
            del encoders
        for name in self.components:
            if name.startswith("text_encoder"):
                setattr(self, name, None)
        free_memory()
