"""Texts that a pipeline has encoded recently, so that it encodes equal texts once."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from transformers import PreTrainedModel

from ..determinism import settings_in_force
from ..private_apis import attention_implementation, num_writes
from .text import Encoders, TextEmbeddings

REMEMBERED_TEXTS = 16
"""How many texts a pipeline remembers; with the published models, 1 MB each in bfloat16."""


class TextMemory:
    """Embeddings by text.

    What is remembered is bit for bit what encoding again would give: a text counts as equal only if nothing
    that affects its embeddings has changed, see `get`. The least recently used text is forgotten first.

    Args:
        limit: how many texts to remember.
    """

    def __init__(self, limit: int = REMEMBERED_TEXTS) -> None:
        self._limit = limit
        self._texts: OrderedDict[Hashable, TextEmbeddings] = OrderedDict()
        self._last_state: Hashable = None

    def get(
        self,
        prompt: str,
        max_sequence_length: int,
        device: torch.device,
        encoders: Encoders,
        encode: Callable[[], TextEmbeddings],
    ) -> TextEmbeddings:
        """The embeddings of a prompt: remembered, or what `encode()` returns.

        Texts are equal if they agree in words, length, device, determinism settings, autocast and state of
        the encoders (`encoders_state`). Without encoders, the state is the one that `forget_encoders` saw.
        """
        key = self._key(prompt, max_sequence_length, device, encoders)
        if key not in self._texts:
            self._texts[key] = encode()
        self._texts.move_to_end(key)
        while len(self._texts) > self._limit:
            self._texts.popitem(last=False)
        return self._texts[key]

    def has(
        self, prompt: str, max_sequence_length: int, device: torch.device, encoders: Encoders = ()
    ) -> bool:
        """Whether `get` would find the text without encoding it."""
        return self._key(prompt, max_sequence_length, device, encoders) in self._texts

    def _key(
        self, prompt: str, max_sequence_length: int, device: torch.device, encoders: Encoders
    ) -> Hashable:
        state = encoders_state(encoders) if encoders else self._last_state
        autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        return prompt, max_sequence_length, str(device), settings_in_force(), autocast, state

    def forget_encoders(self, encoders: Encoders) -> None:
        """The encoders are freed; what they encoded stays."""
        self._last_state = encoders_state(encoders)
        hash(self._last_state)  # now, while its weak references are alive


def encoders_state(encoders: Encoders) -> Hashable:
    """A value that changes when encoders, or their adapters, have changed.

    It covers which objects they are, which parameters they have, in which dtype, how often each was written
    to, and which peft adapters act at which scale; not the device: offloading changes no bit. A write through
    `.data` goes unnoticed, except peft's merging.
    """
    return tuple((weakref.ref(tokenizer), _encoder_state(encoder)) for tokenizer, encoder in encoders)


def _encoder_state(encoder: PreTrainedModel) -> Hashable:
    parameters = tuple((id(weight), weight.dtype, num_writes(weight)) for weight in encoder.parameters())
    adapters = tuple(
        repr([getattr(module, name) for name in ("active_adapters", "merged_adapters", "scaling")])
        for module in encoder.modules()
        if hasattr(module, "merged_adapters")
    )
    attention = attention_implementation(encoder.config)
    return weakref.ref(encoder), encoder.training, attention, parameters, adapters
