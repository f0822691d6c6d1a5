"""Checks of prompts and of embeddings given in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch

EMBEDDINGS = tuple(
    sign + name
    for sign in ("", "negative_")
    for name in ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
)
Embeddings = Mapping[str, torch.Tensor | None]
"""All `EMBEDDINGS`, None for those not given."""


def check_text(
    prompt: str | list[str] | None, negative_prompt: str | list[str] | None, embeddings: Embeddings
) -> int:
    """Check prompts against the embeddings given; returns the number of prompts.

    Raises:
        ValueError: both text and embeddings are given for the same thing, or neither; a text is not one; or
            numbers do not match.
    """
    _check_kind(prompt, embeddings, prefix="")
    _check_kind(negative_prompt, embeddings, prefix="negative_")
    embeds = embeddings["prompt_embeds"]
    if prompt is None and embeds is None:
        raise ValueError("give a prompt or prompt_embeds")
    count = embeds.shape[0] if embeds is not None else len(prompt) if isinstance(prompt, list) else 1
    negative_embeds = embeddings["negative_prompt_embeds"]
    if negative_embeds is not None and negative_embeds.shape[0] not in (1, count):
        raise ValueError(
            f"negative_prompt_embeds must have batch size 1 or {count}, got {negative_embeds.shape[0]}"
        )
    if isinstance(negative_prompt, list) and len(negative_prompt) != count:
        raise ValueError(
            f"negative_prompt must be a str or have one entry for each of the {count} prompts, "
            f"got {len(negative_prompt)}"
        )
    return count


def _check_kind(text: str | list[str] | None, embeddings: Embeddings, *, prefix: str) -> None:
    """Check one kind of text, prompts or negative ones: text, or all three embeddings, or nothing."""
    names = [prefix + name for name in ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")]
    missing = [name for name in names if embeddings[name] is None]
    present = [name for name in names if embeddings[name] is not None]
    for name in present:
        values = embeddings[name]
        if not isinstance(values, torch.Tensor) or not values.ndim or values.is_complex():
            raise ValueError(f"{name} must be a tensor of real numbers for each prompt, got {values!r:.60}")
    if present and missing:
        raise ValueError(f"{', '.join(present)} must come with {', '.join(missing)}")
    if present and text is not None:
        raise ValueError(f"give either {prefix}prompt or {prefix}prompt_embeds, not both")
    if text is not None and not _is_text(text):
        raise ValueError(f"{prefix}prompt must be a str or a non-empty list of str, got {text!r}")


def _is_text(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def check_embeddings(embeddings: Embeddings, text_widths: tuple[int, int], length: int) -> int:
    """Check the shapes of embeddings; returns L, from `prompt_embeds` if given, else `length`.

    They must be (N, L, D), (N, L) and (N, P), with the same L for prompts and negative prompts.

    Args:
        embeddings: all six, None for those not given.
        text_widths: D and P.
        length: L where no embeddings are given.
    """
    prompt_embeds = embeddings["prompt_embeds"]
    length = length if prompt_embeds is None or prompt_embeds.ndim < 2 else prompt_embeds.shape[1]
    for prefix in ("", "negative_"):
        embeds = embeddings[prefix + "prompt_embeds"]
        if embeds is None:
            continue
        shapes = {
            "prompt_embeds": (embeds.shape[0], length, text_widths[0]),
            "prompt_attention_mask": (embeds.shape[0], length),
            "pooled_prompt_embeds": (embeds.shape[0], text_widths[1]),
        }
        for name, shape in shapes.items():
            values = embeddings[prefix + name]
            if values is not None and tuple(values.shape) != shape:
                raise ValueError(f"{prefix}{name} must have shape {shape}, got {tuple(values.shape)}")
    return length
