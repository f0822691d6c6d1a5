"""Products and attention whose bits depend on how much is computed beside, as those of GPUs do.

A CPU may give each row the same bits whatever is beside it, and then a comparison would hold by luck.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyramid_seed.models import attention
from pyramid_seed.models.onednn_linear import OneDnnLinear


def let_rows_and_heads_matter(patch: pytest.MonkeyPatch) -> None:
    """Each product grows with the number of its rows, each attention with that of the heads in its call."""
    linear, attend = OneDnnLinear.forward, attention.dispatch_attention_fn

    def stand_in_linear(self: OneDnnLinear, input: torch.Tensor) -> torch.Tensor:
        return linear(self, input) * (1 + 1e-3 * input.shape[:-1].numel())

    def stand_in_attention(query: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        return attend(query, *rest, **options) * (1 + 1e-2 * query.shape[2] + 1e-3 * query.shape[0])

    patch.setattr(OneDnnLinear, "forward", stand_in_linear)
    patch.setattr(attention, "dispatch_attention_fn", stand_in_attention)
