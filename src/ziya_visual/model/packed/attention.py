"""Attention in the compute dtype for CPUs, segment by segment over packed rows.

A dense mask over a packed row costs its length squared, although no branch sees another branch, and the CPU's
SDPA spends most of a training step in its backward pass (docs/log.md). Here segments of similar length lie
side by side, and each attends to itself and to its row's prefix: K branches cost K times one branch.

Training uses ``plain`` for everything, so features computed without gradients for the cache equal those
computed with gradients. ``inference`` is SDPA with the same masks, which is faster forward. Importing this
module registers both names with transformers.

Legend: B batch, H heads, Hk key heads, E head width, Lq and Lk query and key lengths. T tokens, N rows, P the
longest prefix; a group has S segments of at most L tokens; G places in all groups, T of them filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ziya_visual.data.packing import Ints, Lengths, segments

PLAIN, INFERENCE = "plain", "inference"
# A CPU prepares every new shape of a matrix product, which takes longer than the product: round shapes up.
LENGTH_STEP, SEGMENTS_STEP, MANY_SEGMENTS_STEP = 8, 4, 16
GROWTH = 2.0  # a group's longest segment over its shortest; less means more groups, more means more padding


@dataclass(frozen=True, slots=True)
class Group:
    """Segments side by side."""

    shape: tuple[int, int]  # (S, L)
    rows: Tensor | None  # int64[S], the row of each segment; None for the group of prefixes
    mask: Tensor  # float[S, 1, L, P + L], additive


@dataclass(frozen=True, slots=True)
class PackedTree:
    """The layout of packed rows for attention; prefixes, if there are any, form the first group."""

    groups: tuple[Group, ...]
    tokens: Tensor  # int64[G], the token in each place
    places: Tensor  # int64[T], the place of each token
    filled: Tensor  # float[G, 1, 1], 0 in an empty place


def build_tree(lengths: Lengths, *, dtype: torch.dtype, device: torch.device) -> PackedTree:
    """Lay out packed rows for attention that is computed in ``dtype``."""
    layout = segments(lengths)
    prefix = np.asarray([row[0] for row in lengths])
    columns = int(prefix.max())
    members = _similar_lengths(layout.lengths, np.flatnonzero((layout.branches > 0) & (layout.lengths > 0)))
    if columns:
        members.insert(0, np.flatnonzero(layout.branches == 0))
    groups, tokens, filled = [], [], []
    for number, group in enumerate(members):
        is_prefix = number == 0 and columns > 0  # prefixes attend to themselves alone
        sizes = layout.lengths[group]
        high, wide = (len(group), columns) if is_prefix else _rounded_shape(len(group), int(sizes.max()))
        real = np.zeros((high, wide), bool)
        real[: len(group)] = np.arange(wide) < sizes[:, None]
        starts, rows = np.zeros((high, 1), np.int64), np.zeros(high, np.int64)
        starts[: len(group), 0], rows[: len(group)] = layout.starts[group], layout.rows[group]
        visible = torch.from_numpy(_visible(real, prefix[rows], 0 if is_prefix else columns))
        index = None if is_prefix else torch.from_numpy(rows).to(device)
        groups.append(Group((high, wide), index, additive_mask(visible, dtype).to(device)))
        tokens.append(np.where(real, starts + np.arange(wide), 0).ravel())
        filled.append(real.ravel())
    all_tokens, all_filled = np.concatenate(tokens), np.concatenate(filled)
    places = np.empty(int(layout.lengths.sum()), np.int64)
    places[all_tokens[all_filled]] = np.flatnonzero(all_filled)
    arrays = (all_tokens, places, all_filled[:, None, None])
    token_of, place_of, weight = (torch.from_numpy(array).to(device) for array in arrays)
    return PackedTree(tuple(groups), token_of, place_of, weight.to(dtype))


def _similar_lengths(lengths: Ints, members: Ints) -> list[Ints]:
    """Split segments, shortest first, so that no group's longest exceeds ``GROWTH`` times its shortest."""
    groups = []
    remaining = members[np.argsort(lengths[members], kind="stable")]
    while len(remaining):
        end = np.searchsorted(lengths[remaining], GROWTH * lengths[remaining[0]], side="right")
        groups.append(remaining[:end])
        remaining = remaining[end:]
    return groups


def round_up(count: int) -> int:
    """Round a number of tokens up, by at most one 32nd."""
    step = 1 << max(0, (count // 32).bit_length() - 1)
    return count + -count % step


def _rounded_shape(segments: int, longest: int) -> tuple[int, int]:
    step = SEGMENTS_STEP if segments < 2 * MANY_SEGMENTS_STEP else MANY_SEGMENTS_STEP
    return segments + -segments % step, longest + -longest % LENGTH_STEP


def _visible(real: np.ndarray, prefix: Ints, columns: int) -> np.ndarray:
    """Return bool[S, 1, L, columns + L]: a token sees its row's prefix and its segment up to itself."""
    count, longest = real.shape
    segment = np.tri(longest, dtype=bool) & real[:, None, :]
    before = np.broadcast_to((np.arange(columns) < prefix[:, None])[:, None], (count, longest, columns))
    return np.concatenate([before, segment], -1)[:, None]


class _Repeat(torch.autograd.Function):
    """``index_select`` whose gradient is summed by a matrix product: faster, and in float32 inside.

    float[N, P, H, E], int64[S] -> float[S, P, H, E]: each segment gets its row's prefix.
    """

    @staticmethod
    def forward(ctx: Any, prefixes: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = len(prefixes)
        return prefixes.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        belongs = (torch.arange(ctx.count, device=rows.device)[:, None] == rows).to(grad.dtype)
        return (belongs @ grad.flatten(1)).unflatten(1, grad.shape[1:]), None


class _Reorder(torch.autograd.Function):
    """Rows of a tensor in another order; no row counts twice, so the gradient is moved and never summed."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, order: Tensor, back: Tensor, filled: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, filled)
        return vectors.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        back, filled = ctx.saved_tensors
        moved = grad.index_select(0, back)
        return moved if filled is None else moved * filled, None, None, None


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: PackedTree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute softmax attention: float[B, H, Lq, E] and twice float[B, Hk, Lk, E] -> float[B, Lq, H, E].

    ``attention_mask`` is additive or boolean (true means visible) and broadcasts to [B, H, Lq, Lk]. With a
    ``tree`` B is 1, the tokens are those of packed rows, and the mask is ignored. ``dropout`` must be 0.
    """
    assert dropout == 0.0, "plain attention has no dropout"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise ValueError(f"{type(module).__name__} does not pass `tree` to its attention; use `sdpa`")
        return _softmax_attention(query, key, value, attention_mask, scale), None
    return _tree_attention(query, key, value, tree, scale), None


def inference_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute :func:`plain_attention` by SDPA, without trees and dropout."""
    mask = None if attention_mask is None else additive_mask(attention_mask, query.dtype)
    grouped = key.shape[1] != query.shape[1]
    attended = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped)
    return attended.transpose(1, 2).contiguous(), None


def _tree_attention(query: Tensor, key: Tensor, value: Tensor, tree: PackedTree, scale: float) -> Tensor:
    """Let each segment attend to itself, causally, and to its row's prefix; B is 1."""
    sizes = [rows * columns for rows, columns in (group.shape for group in tree.groups)]
    by_place = [  # float[G, H, E]; empty places hold some finite numbers
        _Reorder.apply(x[0].transpose(0, 1).to(value.dtype), tree.tokens, tree.places, None).split(sizes)
        for x in (query, key, value)
    ]
    prefix: tuple[Tensor, ...] = ()
    outputs = []
    for group, *tensors in zip(tree.groups, *by_place, strict=True):
        q, *keys_values = (x.unflatten(0, group.shape) for x in tensors)
        if group.rows is None:
            prefix = tuple(keys_values)
        elif prefix:
            pairs = zip(prefix, keys_values, strict=True)
            keys_values = [torch.cat([_Repeat.apply(p, group.rows), x], 1) for p, x in pairs]
        q, k, v = (x.transpose(1, 2) for x in (q, *keys_values))
        attended = _softmax_attention(q, k, v, group.mask, scale)
        outputs.append(attended.flatten(0, 1))
    by_token: Tensor = _Reorder.apply(torch.cat(outputs), tree.places, tree.tokens, tree.filled)
    return by_token[None]


def _softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    batch, heads, rows, _ = query.shape
    if key.shape[1] != heads:
        times = heads // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
    if mask is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        additive = additive_mask(mask, query.dtype).expand(batch, heads, rows, key.shape[1]).flatten(0, 1)
        # One kernel scales, multiplies and adds: the scores are most of what a step writes.
        scores = torch.baddbmm(additive, query, key.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
    return torch.bmm(weights, value).unflatten(0, (batch, heads)).transpose(1, 2).contiguous()


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a boolean mask (true means visible) as numbers to add: 0 if visible, else the dtype's lowest."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


AttentionInterface.register(PLAIN, plain_attention)
AttentionInterface.register(INFERENCE, inference_attention)
AttentionMaskInterface.register(PLAIN, eager_mask)  # unlike the SDPA mask, this one is never left out
AttentionMaskInterface.register(INFERENCE, eager_mask)
