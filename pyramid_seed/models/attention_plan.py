"""The calls that attention is made of: a few, however long the clip.

The sequence is text (time 0), history clips oldest first, current latents: sorted by time. So each time
attends to a prefix of the sequence. A time with its own call needs no mask; neighbouring times that share a
call see all of its keys except those that a mask hides.

Shape suffixes: B batch, S tokens, Q query tokens, K key tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import torch

from .shards import ShardedSequence

SMALL_TIME = 384
"""Tokens up to which a time shares calls: a coarse frame at 768p with 128 of text, a middle one at 384p."""
SHARED_TOKENS = 2304
"""Tokens from the start of the sequence among which times share calls: all coarse ones of 31 units at
384p. A mask slows a GPU down, but the calls of small times leave it waiting, see docs/performance.md."""
CALL_COST = 128**2
"""Pairs of query and key that may be computed needlessly to save a call."""
MASKED_PAIRS = 512**2
"""Pairs up to which samples with different padding share a call, and a mask."""


@dataclass(frozen=True)
class Group:
    """Neighbouring times that share a call.

    Attributes:
        stops: the number of tokens up to the end of each time.
        is_masked: whether all samples share it too; otherwise each sample with padding has its own.
    """

    stops: tuple[int, ...]
    is_masked: bool


@dataclass(frozen=True)
class AttentionCall:
    """One call: tokens `start` to `stop` are the queries, those from `front` to `stop` the keys.

    Attributes:
        samples: which samples of the batch.
        front: tokens of padding, neither queries nor keys; 0 where a mask hides them.
        start, stop: the queries, apart from padding; no other call for these samples has them.
        mask: additive (B or 1, 1, Q, K), 0 or minus infinity; None where all keys are visible.
    """

    samples: slice
    front: int
    start: int
    stop: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class AttentionPlan:
    """Who attends to whom.

    Attributes:
        calls: those of every block; the last block keeps only the current tokens as queries.
        num_current: number of tokens of the current latents, the last ones.
        marks: uint8 (S,) on the CPU: 1 at the last token of a time, 2 or, with a mask, 3 where a group ends.
            The groups once more, in a length that a compiled graph knows: a length of their own would make it
            compile again whenever two lengths happen to be equal.
        padding: int64 (B,) on the CPU, tokens of padding at the front of each sample.
        sharded: the sequence of which `num_current` counts one piece; None if it is not cut.
    """

    calls: tuple[AttentionCall, ...]
    num_current: int
    marks: torch.Tensor
    padding: torch.Tensor
    sharded: ShardedSequence | None = None


def attention_plan(
    stops: Sequence[int],
    padding: torch.Tensor,
    num_current: int,
    like: torch.Tensor,
    *,
    grouped: bool,
) -> AttentionPlan:
    """The plan for times that end at `stops`.

    Args:
        stops: the number of tokens up to the end of each time, rising to S.
        padding: int64 (B,), tokens of padding at the front of each sample.
        num_current: tokens of the current latents.
        like: a tensor with the device and dtype of the masks.
        grouped: let neighbouring times share calls; otherwise each has its own.
    """
    groups = [Group((stop,), is_masked=False) for stop in stops]
    if grouped:
        groups = time_groups(stops, is_padded=bool(padding.any()))
    marks = torch.zeros(stops[-1], dtype=torch.uint8)
    for group in groups:
        marks[torch.tensor(group.stops) - 1] = 1
        marks[group.stops[-1] - 1] = 3 if group.is_masked else 2
    return AttentionPlan(tuple(attention_calls(groups, padding, like)), num_current, marks, padding)


def marked_groups(marks: torch.Tensor) -> list[Group]:
    """The groups in `AttentionPlan.marks`."""
    groups: list[Group] = []
    stops: list[int] = []
    for place in marks.nonzero()[:, 0].tolist():
        stops.append(place + 1)
        if marks[place] > 1:
            groups.append(Group(tuple(stops), is_masked=bool(marks[place] == 3)))
            stops = []
    return groups


def time_groups(stops: Sequence[int], *, is_padded: bool) -> list[Group]:
    """Times that end at `stops`, in groups: small ones at the start in one or two, others alone."""
    starts = [0, *stops[:-1]]
    history = zip(starts, stops[:-1], strict=False)  # without the current latents
    shared = takewhile(lambda time: time[1] - time[0] <= SMALL_TIME and time[1] <= SHARED_TOKENS, history)
    num_shared = len([*shared])
    edges = sorted({0, *_cut(stops[:num_shared]), *range(num_shared, len(stops)), len(stops)})
    groups = []
    for begin, end in pairwise(edges):
        num_pairs = (stops[end - 1] - starts[begin]) * stops[end - 1]
        is_masked = end - begin > 1 or (is_padded and num_pairs <= MASKED_PAIRS)
        groups.append(Group(tuple(stops[begin:end]), is_masked))
    return groups


def _cut(stops: Sequence[int]) -> list[int]:
    """The index at which to cut the times that end at `stops` in two, if that pays.

    It saves the pairs of the first part's queries and the second part's keys, so the middle is best.
    """
    if not stops:
        return []
    spared = [stop * (stops[-1] - stop) for stop in stops]
    most = max(spared)
    return [spared.index(most) + 1] if most > CALL_COST else []


def attention_calls(
    groups: Sequence[Group], padding: torch.Tensor, like: torch.Tensor
) -> Iterator[AttentionCall]:
    """The calls for groups of times; arguments as in `attention_plan`."""
    num_tokens, fronts = groups[-1].stops[-1], padding.tolist()
    each_sample = [(slice(None), 0)]
    if any(fronts):
        each_sample = [(slice(i, i + 1), front) for i, front in enumerate(fronts)]
    if any(group.is_masked for group in groups):
        stops = torch.tensor([stop for group in groups for stop in group.stops])
        token_S = torch.arange(num_tokens)
        time_S = torch.bucketize(token_S, stops, right=True).to(like.device)
        real_BS = (token_S >= padding[:, None]).to(like.device) if any(fronts) else None
    start = 0
    for group in groups:
        stop = group.stops[-1]
        if group.is_masked:
            is_seen = (time_S[start:stop, None] >= time_S[:stop])[None]
            if real_BS is not None:
                is_seen = is_seen & (real_BS[:, start:stop, None] == real_BS[:, None, :stop])
            mask = like.new_zeros(is_seen.shape).masked_fill_(~is_seen, -torch.inf)
            yield AttentionCall(slice(None), 0, start, stop, mask[:, None])
        else:
            for samples, front in each_sample:
                yield AttentionCall(samples, front, start, stop, None)
        start = stop
