"""Plain attention in the compute dtype, for CPUs, and over packed rows by their segments.

On rows of a few hundred tokens with a dense mask the CPU's SDPA spends most of a step in its backward pass
(docs/log.md). Its forward pass is the faster one: ``inference`` is SDPA behind the same masks. Training keeps
to ``plain`` throughout, so that what is computed without gradients, for a cache, equals what is computed with
them. Importing this module registers both names with transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ziya_visual.model.packed.layout import Tree, collect, repeat, spread

PLAIN, INFERENCE = "plain", "inference"


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Tree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Softmax attention: float[B, H, Lq, E] and twice float[B, Hk, Lk, E] -> float[B, Lq, H, E].

    ``attention_mask`` is additive or boolean (true: seen), broadcast to [B, H, Lq, Lk]. With a ``tree``
    the batch is one, its tokens those of packed rows, and the mask is not looked at. Dropout is not supported
    and must be 0.
    """
    assert dropout == 0.0, "plain attention has no dropout"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise ValueError(f"{type(module).__name__} does not hand `tree` on to its attention; use `sdpa`")
        return softmax_attention(query, key, value, attention_mask, scale), None
    return tree_attention(query, key, value, tree, scale), None


def inference_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Shapes and mask as of :func:`plain_attention`; without trees and dropout."""
    mask = None if attention_mask is None else _additive(attention_mask, query.dtype)
    fewer_keys = key.shape[1] != query.shape[1]
    seen = functional.scaled_dot_product_attention(
        query, key, value, mask, scale=scaling, enable_gqa=fewer_keys
    )
    return seen.transpose(1, 2).contiguous(), None


def tree_attention(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float) -> Tensor:
    """Each segment sees itself so far and its row's prefix: shapes as above, with B = 1."""
    whole = [
        spread(x[0].transpose(0, 1).to(value.dtype), tree).split(tree.sizes) for x in (query, key, value)
    ]
    prefix: tuple[Tensor, ...] = ()
    found = []
    for group, *states in zip(tree.groups, *whole, strict=True):
        q, *own = (x.unflatten(0, group.shape) for x in states)
        if group.rows is None:
            prefix = tuple(own)
        elif prefix:
            own = [torch.cat([repeat(p, group.rows), x], 1) for p, x in zip(prefix, own, strict=True)]
        k, v = own
        seen = softmax_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), group.mask, scale)
        found.append(seen.flatten(0, 1))
    return collect(torch.cat(found), tree)[None]


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Shapes and mask as of :func:`plain_attention`."""
    batch, heads, rows, _ = query.shape
    if key.shape[1] != heads:
        times = heads // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))
    if mask is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        bias = _additive(mask, query.dtype).expand(batch, heads, rows, key.shape[1]).flatten(0, 1)
        # Scaled, multiplied and added by one kernel: the scores are most of what a step writes.
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
    return torch.bmm(weights, value).unflatten(0, (batch, heads)).transpose(1, 2).contiguous()


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


AttentionInterface.register(PLAIN, plain_attention)
AttentionInterface.register(INFERENCE, inference_attention)
AttentionMaskInterface.register(PLAIN, eager_mask)  # unlike the SDPA mask it is never left out
AttentionMaskInterface.register(INFERENCE, eager_mask)
