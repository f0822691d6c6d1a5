"""Attention in a sequence whose tokens attend to their own and earlier times.

A plan says who attends to whom, see `attention_plan`. Padded text stands in front of the text, so that
cutting it off leaves one piece.

Shape suffixes: B batch, S tokens, Q query tokens (the last Q of S), H heads, D head width, d = D / 2, N
tokens and n of them, C channels, t times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb

from .attention_plan import AttentionCall, AttentionPlan, attention_calls, marked_groups


class Rotary(NamedTuple):
    """Rotary tables of every token.

    Attributes:
        cos, sin: float32 (S, D), each value twice, as in diffusers.
        phases: complex64 (S, 1, d), the same numbers once.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    phases: torch.Tensor

    def last(self, num_tokens: int) -> Rotary:
        """The tables of the last tokens."""
        first = self.cos.shape[0] - num_tokens
        # Compiled code drops the phases: should d equal another length by chance, it would be compiled again.
        phases = self.phases if torch.compiler.is_compiling() else self.phases[first:]
        return Rotary(self.cos[first:], self.sin[first:], phases)


def rotary_tables(cos_SD: torch.Tensor, sin_SD: torch.Tensor) -> Rotary:
    """All tables, from the two that diffusers makes."""
    phases_Sd = torch.complex(*(table_SD[:, ::2].contiguous() for table_SD in (cos_SD, sin_SD)))
    return Rotary(cos_SD, sin_SD, phases_Sd[:, None])


MASKED_BACKENDS = ("native", "_native_cudnn", "_native_efficient", "_native_math")
"""diffusers' attention backends that take an additive mask; with others each time has its own call."""


def add_to_last(tokens_BNC: torch.Tensor, change_BnC: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, C) with a change (B, n, C) added to the last n of them."""
    num_changed = change_BnC.shape[1]
    kept, last_BnC = tokens_BNC.split([tokens_BNC.shape[1] - num_changed, num_changed], dim=1)
    return torch.cat([kept, last_BnC + change_BnC], dim=1)


class PyramidAttnProcessor:
    """Attention of both families' blocks: over text and video with separate weights, or over one sequence.

    A family whose blocks take text says what the norms of its queries and keys are called.
    """

    text_norms: tuple[str, str]
    _attention_backend: AttentionBackendName | None = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        attention_mask: AttentionPlan | torch.Tensor,
        image_rotary_emb: Rotary,
        num_queries: int | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, N, D), and text (B, L, D) if it is separate, to the same; see `attend`.

        With `num_queries`, only the last video tokens are queries, and only their values are returned. Text
        that has no queries, or that is not used after this block (`context_pre_only`), is returned unchanged.
        `out` receives the values of one sequence with a plan.
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
            return self.attend(
                query, key, value, attention_mask, image_rotary_emb, out, only_current=num_queries is not None
            )

        text_asks = num_queries is None
        if attn.fused_projections:
            added = attn.to_added_qkv(encoder_hidden_states).chunk(3, dim=-1)
        else:
            asked = (attn.add_k_proj, attn.add_v_proj)
            projections = (attn.add_q_proj, *asked) if text_asks else asked
            added = tuple(projection(encoder_hidden_states) for projection in projections)
        *text_query, text_key, text_value = (projected.unflatten(-1, heads) for projected in added)
        norm_query, norm_key = (getattr(attn, name) for name in self.text_norms)
        key, value = torch.cat([norm_key(text_key), key], dim=1), torch.cat([text_value, value], dim=1)
        if text_asks:
            query = torch.cat([norm_query(text_query[0]), query], dim=1)
        attended = self.attend(
            query, key, value, attention_mask, image_rotary_emb, only_current=not text_asks
        )
        num_text = attended.shape[1] - asking.shape[1]
        # Contiguous: else the bits of torch's linear depend on whether the weights require gradients.
        text, video = (part.contiguous() for part in attended.split([num_text, asking.shape[1]], dim=1))
        video = attn.to_out[1](attn.to_out[0](video))
        goes_on = text_asks and not attn.context_pre_only
        return video, attn.to_add_out(text) if goes_on else encoder_hidden_states

    def attend(
        self,
        query_BQHD: torch.Tensor,
        key_BSHD: torch.Tensor,
        value_BSHD: torch.Tensor,
        attention_mask: AttentionPlan | torch.Tensor,
        rotary: Rotary,
        out: torch.Tensor | None = None,
        *,
        only_current: bool = False,
    ) -> torch.Tensor:
        """Attended values (B, Q, H * D), in `out` if given and the sequence is whole.

        `attention_mask` is a plan, or a boolean mask (B, 1, S, S), which needs Q = S. With `only_current` the
        queries are the current tokens. If the sequence is in pieces, the tokens are those of one piece.
        """
        if isinstance(attention_mask, AttentionPlan) and (whole := attention_mask.sharded) is not None:
            tokens = whole.heads(query_BQHD, key_BSHD, value_BSHD, only_current=only_current)
            plan = replace(attention_mask, sharded=None)
            attended = self.attend(*tokens, plan, rotary, only_current=only_current)
            own = attended.unflatten(2, (-1, query_BQHD.shape[3]))
            return whole.rows(own, query_BQHD.shape[2], only_current=only_current).flatten(2)
        asking = rotary.last(query_BQHD.shape[1])
        tokens = rotate(query_BQHD, asking), rotate(key_BSHD, rotary), value_BSHD
        if isinstance(attention_mask, AttentionPlan):
            plan = attention_mask
            backend = None if self._attention_backend is None else self._attention_backend.value
            if torch.compiler.is_compiling():
                return compiled_attention(*tokens, plan.marks, plan.padding, backend).flatten(2)
            if out is not None:
                planned_attention(*tokens, plan.calls, backend, out.unflatten(2, query_BQHD.shape[2:]))
                return out
            return planned_attention(*tokens, plan.calls, backend).flatten(2)
        return dispatch_attention_fn(
            *tokens,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        ).flatten(2)


def rotate(tokens_BSHD: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Rotate the pairs of neighbouring values in tokens (B, S, H, D).

    diffusers' `apply_rotary_emb` does it by sums of real numbers, which compiled code fuses; otherwise one
    product of complex numbers is many times faster on a CPU.
    """
    if torch.compiler.is_compiling():
        return apply_rotary_emb(tokens_BSHD, (rotary.cos, rotary.sin), sequence_dim=1)
    pairs_BSHd = torch.view_as_complex(tokens_BSHD.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs_BSHd * rotary.phases).flatten(-2).to(tokens_BSHD.dtype)


def planned_attention(
    query_BQHD: torch.Tensor,
    key_BSHD: torch.Tensor,
    value_BSHD: torch.Tensor,
    calls: Sequence[AttentionCall],
    backend: str | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attended values (B, Q, H, D) by the calls of a plan, in `out` if given.

    Padding gets finite values that nothing reads. `backend` is a name in diffusers' attention dispatch; None
    uses the active one.
    """
    num_before = key_BSHD.shape[1] - query_BQHD.shape[1]

    asking = [call for call in calls if call.stop > num_before]

    def attended(call: AttentionCall, first: int) -> torch.Tensor:
        """For the tokens from `first` on."""
        asked = slice(first - num_before, call.stop - num_before)
        return dispatch_attention_fn(
            query_BQHD[call.samples, asked],
            key_BSHD[call.samples, call.front : call.stop],
            value_BSHD[call.samples, call.front : call.stop],
            attn_mask=None if call.mask is None else call.mask[:, :, first - call.start :],
            backend=backend,
        )

    if len(asking) == 1 and out is None:  # of all samples
        return attended(asking[0], num_before)
    attended_BQHD = query_BQHD.new_empty(query_BQHD.shape) if out is None else out
    for call in asking:
        first = max(call.start, call.front, num_before)
        if call.start <= num_before < first:
            attended_BQHD[call.samples, : first - num_before] = 0
        attended_BQHD[call.samples, first - num_before : call.stop - num_before] = attended(call, first)
    return attended_BQHD


@torch.library.custom_op("pyramid_seed::planned_attention", mutates_args=())
def compiled_attention(
    query_BQHD: torch.Tensor,
    key_BSHD: torch.Tensor,
    value_BSHD: torch.Tensor,
    marks: torch.Tensor,
    padding: torch.Tensor,
    backend: str | None,
) -> torch.Tensor:
    """`planned_attention` as compiled graphs call it: one operation, whatever the number of times."""
    calls = attention_calls(marked_groups(marks), padding, query_BQHD)
    return planned_attention(query_BQHD, key_BSHD, value_BSHD, [*calls], backend)


@compiled_attention.register_fake
def _(query_BQHD: torch.Tensor, *_: Any) -> torch.Tensor:
    return query_BQHD.new_empty(query_BQHD.shape)
