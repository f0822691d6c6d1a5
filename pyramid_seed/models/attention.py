"""Attention of a sequence whose tokens see their own and earlier times.

The sequence is text (time 0), history clips oldest first, current latents: sorted by time. So what a time may
attend to is a prefix of the sequence, and no mask is needed. Padded text stands in front of the text, where
cutting it off leaves one piece.

Shape suffixes: B batch, S tokens, Q tokens that ask (the last Q of S), H heads, D head width, d = D / 2, N
tokens and n of them, C channels, t times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb

Rotary = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of every token, float32 (S, D)."""


@dataclass(frozen=True)
class PrefixPlan:
    """Who attends to whom, without a mask. Tensors are on the CPU.

    Attributes:
        stops: int64 (times,), how many tokens there are up to the end of each time, rising to S.
        padding: int64 (B,), tokens of padding at the front of each sample.
        num_current: tokens of the current latents, the last ones.
        is_stop: bool (S,), `stops` once more in a length that a compiled graph knows: one of its own would
            compile it again where by chance two lengths are equal.
    """

    stops: torch.Tensor
    padding: torch.Tensor
    num_current: int
    is_stop: torch.Tensor


def prefix_plan(stops: Iterable[int], padding: torch.Tensor, num_current: int) -> PrefixPlan:
    """The plan of times that end at `stops`, see there."""
    ends = torch.tensor([*stops])
    is_stop = torch.zeros(int(ends[-1]), dtype=torch.bool)
    is_stop[ends - 1] = True
    return PrefixPlan(ends, padding, num_current, is_stop)


def add_to_last(tokens_BNC: torch.Tensor, change_BnC: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, C) with a change (B, n, C) added to the last n."""
    num_changed = change_BnC.shape[1]
    kept, last_BnC = tokens_BNC.split([tokens_BNC.shape[1] - num_changed, num_changed], dim=1)
    return torch.cat([kept, last_BnC + change_BnC], dim=1)


class PyramidAttnProcessor:
    """Attention of the blocks of both families: of text and video with their own weights, or of one sequence.

    A family whose blocks have text says how they call the norms of its queries and keys.
    """

    text_norms: tuple[str, str]
    _attention_backend: AttentionBackendName | None = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        attention_mask: PrefixPlan | torch.Tensor,
        image_rotary_emb: Rotary,
        num_queries: int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, N, D), and text (B, L, D) if it comes apart, to the same; see `attend`.

        With `num_queries` only the last video tokens ask, and only for them something is returned. Text that
        does not ask, or that goes no further than this block (`context_pre_only`), is returned as it came.
        """
        heads = (attn.heads, -1)
        asking = hidden_states if num_queries is None else hidden_states[:, -num_queries:].contiguous()
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
            query = query[:, -asking.shape[1] :]
        else:
            query, key, value = attn.to_q(asking), attn.to_k(hidden_states), attn.to_v(hidden_states)
        query, key = attn.norm_q(query.unflatten(-1, heads)), attn.norm_k(key.unflatten(-1, heads))
        value = value.unflatten(-1, heads)
        if encoder_hidden_states is None:
            return self.attend(query, key, value, attention_mask, image_rotary_emb)

        text_asks = num_queries is None
        if attn.fused_projections:
            added = attn.to_added_qkv(encoder_hidden_states).chunk(3, dim=-1)
        else:
            projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)[not text_asks :]
            added = tuple(projection(encoder_hidden_states) for projection in projections)
        *text_query, text_key, text_value = (projected.unflatten(-1, heads) for projected in added)
        norm_query, norm_key = (getattr(attn, name) for name in self.text_norms)
        key, value = torch.cat([norm_key(text_key), key], dim=1), torch.cat([text_value, value], dim=1)
        if text_asks:
            query = torch.cat([norm_query(text_query[0]), query], dim=1)
        attended = self.attend(query, key, value, attention_mask, image_rotary_emb)
        num_text = attended.shape[1] - asking.shape[1]
        # Contiguous: of other inputs torch's linear asks whether the weights require gradients, for its bits.
        text, video = (part.contiguous() for part in attended.split([num_text, asking.shape[1]], dim=1))
        video = attn.to_out[1](attn.to_out[0](video))
        goes_on = text_asks and not attn.context_pre_only
        return video, attn.to_add_out(text) if goes_on else encoder_hidden_states

    def attend(
        self,
        query_BQHD: torch.Tensor,
        key_BSHD: torch.Tensor,
        value_BSHD: torch.Tensor,
        attention_mask: PrefixPlan | torch.Tensor,
        rotary: Rotary,
    ) -> torch.Tensor:
        """Attended values (B, Q, H * D).

        `attention_mask` is a plan, or a boolean mask (B, 1, S, S), which needs Q = S.
        """
        first = key_BSHD.shape[1] - query_BQHD.shape[1]
        cos, sin = rotary
        tokens = rotate(query_BQHD, (cos[first:], sin[first:])), rotate(key_BSHD, rotary), value_BSHD
        if isinstance(attention_mask, PrefixPlan):
            plan = attention_mask
            backend = None if self._attention_backend is None else self._attention_backend.value
            if torch.compiler.is_compiling():
                return compiled_attention(*tokens, plan.is_stop, plan.padding, backend).flatten(2)
            return prefix_attention(*tokens, plan.stops, plan.padding, backend).flatten(2)
        return dispatch_attention_fn(
            *tokens,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        ).flatten(2)


def rotate(tokens_BSHD: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Rotate the pairs of neighbouring values of tokens (B, S, H, D).

    What diffusers' `apply_rotary_emb` does by sums of real numbers, which compiled code fuses; otherwise one
    product of complex numbers is many times faster on a CPU.
    """
    if torch.compiler.is_compiling():
        return apply_rotary_emb(tokens_BSHD, rotary, sequence_dim=1)
    phases_S1d = torch.complex(*(table_SD[:, None, ::2].contiguous() for table_SD in rotary))
    pairs_BSHd = torch.view_as_complex(tokens_BSHD.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs_BSHd * phases_S1d).flatten(-2).to(tokens_BSHD.dtype)


def prefix_attention(
    query_BQHD: torch.Tensor,
    key_BSHD: torch.Tensor,
    value_BSHD: torch.Tensor,
    stops: torch.Tensor,
    padding: torch.Tensor,
    backend: str | None = None,
) -> torch.Tensor:
    """Attended values (B, Q, H, D) by one call for each time, see `PrefixPlan`; zero for padding.

    `backend` is a name of diffusers' attention dispatch; None takes the active one.
    """
    attended_BQHD = torch.zeros_like(query_BQHD, memory_format=torch.contiguous_format)
    num_before = key_BSHD.shape[1] - query_BQHD.shape[1]
    ends, fronts = stops.tolist(), padding.tolist()
    # Samples without padding share their calls.
    parts = [(slice(None), 0)] if not any(fronts) else [(slice(i, i + 1), n) for i, n in enumerate(fronts)]
    for samples, front in parts:
        start = max(front, num_before)
        for end in ends:
            if end <= start:
                continue
            asked = slice(start - num_before, end - num_before)
            attended_BQHD[samples, asked] = dispatch_attention_fn(
                query_BQHD[samples, asked],
                key_BSHD[samples, front:end],
                value_BSHD[samples, front:end],
                backend=backend,
            )
            start = end
    return attended_BQHD


@torch.library.custom_op("pyramid_seed::prefix_attention", mutates_args=())
def compiled_attention(
    query_BQHD: torch.Tensor,
    key_BSHD: torch.Tensor,
    value_BSHD: torch.Tensor,
    is_stop: torch.Tensor,
    padding: torch.Tensor,
    backend: str | None,
) -> torch.Tensor:
    """`prefix_attention` as compiled graphs call it: one operation, the same for any number of times."""
    return prefix_attention(query_BQHD, key_BSHD, value_BSHD, is_stop.nonzero()[:, 0] + 1, padding, backend)


@compiled_attention.register_fake
def _(query_BQHD: torch.Tensor, *_: Any) -> torch.Tensor:
    return query_BQHD.new_empty(query_BQHD.shape)
