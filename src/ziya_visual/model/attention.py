"""Plain attention in the compute dtype, for CPUs.

On rows of a few hundred tokens with a dense mask the CPU's SDPA spends most of a step in its backward pass:
for the miniature's language model a step took 0.83 s with it and 0.58 s with this (4 heads of 48, 40 rows
of about 280 tokens, bfloat16, two cores). Importing this module registers the name ``plain`` with
transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

PLAIN = "plain"


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Softmax attention: float[B, H, Lq, E] and twice float[B, Hk, Lk, E] -> float[B, Lq, H, E].

    ``attention_mask`` is additive or boolean (true: seen), broadcast to [B, H, Lq, Lk]. Dropout is not
    supported and must be 0.
    """
    assert dropout == 0.0, "plain attention has no dropout"
    batch, heads, rows, _ = query.shape
    if key.shape[1] != heads:
        times = heads // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))
    if attention_mask is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        bias = _additive(attention_mask, query.dtype).expand(batch, heads, rows, key.shape[1]).flatten(0, 1)
        # Scaled, multiplied and added by one kernel: the scores are most of what a step writes.
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
    return torch.bmm(weights, value).unflatten(0, (batch, heads)).transpose(1, 2).contiguous(), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


AttentionInterface.register(PLAIN, plain_attention)
AttentionMaskInterface.register(PLAIN, eager_mask)  # unlike the SDPA mask it is never left out
