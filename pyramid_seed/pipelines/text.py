"""From a prompt to embeddings, one prompt at a time.

Kernels give other bits for other batch sizes, so a prompt is always encoded alone. Both families follow one
rule: the T5 encoder gives the sequence of embeddings, every CLIP encoder a pooled vector, and the pooled
vectors are concatenated in the order of the encoders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from diffusers.utils import logging
from transformers import PreTrainedModel, PreTrainedTokenizerBase, T5EncoderModel

from .beginning import Beginning
from .memory import contiguous_copy

logger = logging.get_logger(__name__)

Encoders: TypeAlias = Sequence[tuple[PreTrainedTokenizerBase, PreTrainedModel]]
"""(tokenizer, encoder) pairs; one T5 encoder, the others CLIP."""


class TextEmbeddings(NamedTuple):
    """The embeddings that a transformer reads: of one prompt, of several, or of a guidance pair.

    Attributes:
        prompt_embeds: (B, L, D) T5 embeddings.
        prompt_attention_mask: (B, L) int64, 1 for text and 0 for padding.
        pooled_prompt_embeds: (B, P) pooled CLIP embeddings.
    """

    prompt_embeds: torch.Tensor
    prompt_attention_mask: torch.Tensor
    pooled_prompt_embeds: torch.Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> TextEmbeddings:
        """The embeddings on a device in `dtype`; the mask on the CPU, where lengths are read from it."""
        return TextEmbeddings(
            self.prompt_embeds.to(device, dtype),
            self.prompt_attention_mask.cpu(),
            self.pooled_prompt_embeds.to(device, dtype),
        )

    def repeat(self, count: int) -> TextEmbeddings:
        """Every row `count` times, in adjacent rows."""
        return TextEmbeddings(*(values.repeat_interleave(count, dim=0) for values in self))

    def rows(self) -> list[TextEmbeddings]:
        """Each row alone, (1, ...), in its own memory."""
        rows = zip(*(values.split(1) for values in self), strict=True)
        return [TextEmbeddings(*map(contiguous_copy, row)) for row in rows]


class PromptEmbeddings(NamedTuple):
    """What `PyramidFlowPipeline.encode_prompt` returns: a call's arguments for embeddings.

    Attributes:
        prompt_embeds, prompt_attention_mask, pooled_prompt_embeds: of the prompts, see `TextEmbeddings`.
        negative_prompt_embeds, negative_prompt_attention_mask, negative_pooled_prompt_embeds: of the negative
            prompts; all None without guidance.
    """

    prompt_embeds: torch.Tensor
    prompt_attention_mask: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    negative_prompt_embeds: torch.Tensor | None = None
    negative_prompt_attention_mask: torch.Tensor | None = None
    negative_pooled_prompt_embeds: torch.Tensor | None = None

    @property
    def positive(self) -> TextEmbeddings:
        """The embeddings of the prompts."""
        return TextEmbeddings(*self[:3])

    @property
    def negative(self) -> TextEmbeddings | None:
        """The embeddings of the negative prompts."""
        return text_embeddings(*self[3:])


def text_embeddings(
    embeds: torch.Tensor | None, attention_mask: torch.Tensor | None, pooled_embeds: torch.Tensor | None
) -> TextEmbeddings | None:
    """The three as one value, or None without them; if one is given, the others must be."""
    if embeds is None or attention_mask is None or pooled_embeds is None:
        return None
    return TextEmbeddings(embeds, attention_mask, pooled_embeds)


def with_suffix(prompt: str | list[str] | None, suffix: str) -> str | list[str] | None:
    """Prompts with `suffix` appended to each."""
    if isinstance(prompt, list):
        return [text + suffix for text in prompt]
    return None if prompt is None else prompt + suffix


def joined(rows: Sequence[TextEmbeddings]) -> TextEmbeddings:
    """Several embeddings as one batch."""
    return TextEmbeddings(*(torch.cat(values) for values in zip(*rows, strict=True)))


def guidance_pair(negative: TextEmbeddings, positive: TextEmbeddings) -> TextEmbeddings:
    """Batch of two for classifier-free guidance: the negative prompt first."""
    if negative.prompt_embeds.shape[1:] != positive.prompt_embeds.shape[1:]:
        raise ValueError(
            "negative_prompt_embeds must have the shape of prompt_embeds, got "
            f"{tuple(negative.prompt_embeds.shape)} and {tuple(positive.prompt_embeds.shape)}"
        )
    return joined([negative, positive])


def text_digests(positive: TextEmbeddings, negative: TextEmbeddings | None) -> dict[str, str]:
    """`embeddings_digest` of a prompt and, where guided, of its negative prompt."""
    pairs = {"prompt": positive} | ({} if negative is None else {"negative_prompt": negative})
    return {name: embeddings_digest(embeddings) for name, embeddings in pairs.items()}


def clip_text_digests(
    positive: TextEmbeddings,
    negative: TextEmbeddings | None,
    *,
    is_guided: bool,
    beginning: Beginning | None,
) -> dict[str, str]:
    """The `text_digests` of a clip, as if it had been made in one go.

    Args:
        positive: embeddings of its prompt.
        negative: those of its negative prompt, None if that was not encoded.
        is_guided: whether any of its units was guided.
        beginning: its first units, if it continues from them; knows the digest of a negative prompt that
            guided them but was not encoded now.
    """
    digests = text_digests(positive, negative if is_guided else None)
    if is_guided and negative is None and beginning is not None:
        digests["negative_prompt"] = beginning.text_digests["negative_prompt"]
    return digests


def embeddings_digest(embeddings: TextEmbeddings) -> str:
    """SHA-256 (hexadecimal) of embeddings.

    It covers the bytes of the three tensors in order: floats as float32, integers as int64, little endian, C
    order.
    """
    digest = hashlib.sha256()
    for values in embeddings:
        kind = "<f4" if values.is_floating_point() else "<i8"
        array = values.detach().cpu().to(torch.float32 if kind == "<f4" else torch.int64).numpy()
        digest.update(array.astype(kind, copy=False).tobytes())
    return digest.hexdigest()


def encode_text(
    prompt: str,
    encoders: Encoders,
    max_sequence_length: int,
    device: torch.device,
) -> TextEmbeddings:
    """Encode one prompt.

    Args:
        prompt: the text.
        encoders: (tokenizer, encoder) pairs; one T5 encoder, the others CLIP.
        max_sequence_length: L, how many tokens of the text T5 gets; CLIP gets what its tokenizer allows. A
            longer text is cut, with a warning that names what is lost.
        device: where the encoders compute.
    """
    pooled: list[torch.Tensor] = []
    sequence: tuple[torch.Tensor, torch.Tensor] | None = None
    for tokenizer, encoder in encoders:
        is_t5 = isinstance(encoder, T5EncoderModel)
        length = max_sequence_length if is_t5 else tokenizer.model_max_length
        tokens = tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        if (cut := cut_of(prompt, tokenizer, length)) is not None:
            logger.warning(cut)
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        if is_t5:
            sequence = encoder(ids, attention_mask=mask).last_hidden_state, mask
        else:
            outputs = encoder(ids)
            pooled.append(outputs.text_embeds if "text_embeds" in outputs else outputs.pooler_output)
    assert sequence is not None
    return TextEmbeddings(*sequence, torch.cat(pooled, dim=-1))


def check_encoders(encoders: Encoders, widths: tuple[int, int]) -> None:
    """Check that the encoders together give what a transformer reads.

    Args:
        encoders: with their tokenizers.
        widths: of the T5 embeddings, and of the pooled vectors of all CLIP encoders together.

    Raises:
        ValueError: an encoder is missing, or belongs to another model.
    """
    t5 = [encoder.config.d_model for _, encoder in encoders if isinstance(encoder, T5EncoderModel)]
    clip = [
        encoder.config.projection_dim if hasattr(encoder, "text_projection") else encoder.config.hidden_size
        for _, encoder in encoders
        if not isinstance(encoder, T5EncoderModel)
    ]
    if t5 != [widths[0]] or sum(clip) != widths[1]:
        raise ValueError(
            f"text needs one T5 encoder of width {widths[0]} and CLIP encoders of {widths[1]} together, got "
            f"T5 of {t5} and CLIP of {clip}; set the encoder that is missing (text_encoder, text_encoder_2, "
            "text_encoder_3), or give prompt_embeds, prompt_attention_mask and pooled_prompt_embeds"
        )
    for tokenizer, encoder in encoders:
        if tokenizer is None:
            raise ValueError(
                f"{type(encoder).__name__} has no tokenizer, got None; set the pipeline's tokenizers"
            )


def cut_of(
    text: str, tokenizer: PreTrainedTokenizerBase, length: int, name: str = "the prompt"
) -> str | None:
    """What a tokenizer that keeps `length` tokens cuts off a text, as a message; None if nothing."""
    ids = tokenizer(text, padding=False, truncation=False, verbose=False).input_ids
    if len(ids) <= length:
        return None
    lost = tokenizer.decode(ids[length - 1 : -1])
    return f"{name} has {len(ids)} tokens, {type(tokenizer).__name__} keeps {length}; lost: {lost!r}"
