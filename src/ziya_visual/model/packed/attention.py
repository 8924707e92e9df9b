"""Plain attention in the compute dtype, for CPUs, and over packed rows by their segments.

On rows of a few hundred tokens with a dense mask the CPU's SDPA spends most of a step in its backward pass
(docs/log.md). Its forward pass is the faster one: ``inference`` is SDPA behind the same masks. Training keeps
to ``plain`` throughout, so that what is computed without gradients, for a cache, equals what is computed with
them. Importing this module registers both names with transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ziya_visual.data.packing import Ints, Lengths, segments

# A CPU prepares each new shape of a matrix product, which takes longer than it: all are rounded up.
EVEN_LENGTH, EVEN_SEGMENTS, EVEN_MANY = 8, 4, 16
GROWTH = 2.0  # the longest segment of a group by its shortest: more groups, or more empty places


@dataclass(frozen=True, slots=True)
class Group:
    """Segments side by side: (S, L); their rows, None of prefixes; float[S, 1, L, P + L], what they see."""

    shape: tuple[int, int]
    rows: Tensor | None
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Tree:
    """``tokens`` int64[G]: what lies in each place; ``places`` int64[T]: where each token lies.

    ``filled`` float[G, 1, 1] is 0 in a place that is empty. The prefixes, if there are any, come first.
    """

    groups: tuple[Group, ...]
    tokens: Tensor
    places: Tensor
    filled: Tensor

    @property
    def sizes(self) -> list[int]:
        """S * L of each group."""
        return [rows * columns for rows, columns in (group.shape for group in self.groups)]


def build_tree(lengths: Lengths, *, dtype: torch.dtype, device: torch.device) -> Tree:
    """The layout of packed rows; ``dtype`` is what attention is computed in."""
    found = segments(lengths)
    prefix = np.asarray([row[0] for row in lengths])
    columns = int(prefix.max())
    members = _alike(found.lengths, np.flatnonzero((found.branches > 0) & (found.lengths > 0)))
    if columns:
        members.insert(0, np.flatnonzero(found.branches == 0))
    groups, tokens, filled = [], [], []
    for number, some in enumerate(members):
        first = number == 0 and columns > 0  # the prefixes: they see themselves alone
        sizes = found.lengths[some]
        high, wide = (len(some), columns) if first else _even(len(some), int(sizes.max()))
        real = np.zeros((high, wide), bool)
        real[: len(some)] = np.arange(wide) < sizes[:, None]
        starts, rows = np.zeros((high, 1), np.int64), np.zeros(high, np.int64)
        starts[: len(some), 0], rows[: len(some)] = found.starts[some], found.rows[some]
        seen = _sees(real, prefix[rows], 0 if first else columns)
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(
            ~torch.from_numpy(seen), torch.finfo(dtype).min
        )
        index = None if first else torch.from_numpy(rows).to(device)
        groups.append(Group((high, wide), index, mask.to(device)))
        tokens.append(np.where(real, starts + np.arange(wide), 0).ravel())
        filled.append(real.ravel())
    where, real = np.concatenate(tokens), np.concatenate(filled)
    places = np.empty(int(found.lengths.sum()), np.int64)
    places[where[real]] = np.flatnonzero(real)
    at, back, weight = (torch.from_numpy(x).to(device) for x in (where, places, real[:, None, None]))
    return Tree(tuple(groups), at, back, weight.to(dtype))


def _alike(lengths: Ints, members: Ints) -> list[Ints]:
    """The members from the shortest to the longest, cut where one is much longer than its group's first."""
    groups = []
    left = members[np.argsort(lengths[members], kind="stable")]
    while len(left):
        end = np.searchsorted(lengths[left], GROWTH * lengths[left[0]], side="right")
        groups.append(left[:end])
        left = left[end:]
    return groups


def round_up(count: int) -> int:
    """A count of tokens rounded up, by a 32nd at most."""
    step = 1 << max(0, (count // 32).bit_length() - 1)
    return count + -count % step


def _even(segments: int, longest: int) -> tuple[int, int]:
    """Both rounded up."""
    step = EVEN_SEGMENTS if segments < 2 * EVEN_MANY else EVEN_MANY
    return segments + -segments % step, longest + -longest % EVEN_LENGTH


def _sees(real: np.ndarray, prefix: Ints, columns: int) -> np.ndarray:
    """bool[S, 1, L, columns + L]: a token sees its row's prefix, and its own segment up to itself."""
    count, longest = real.shape
    own = np.tri(longest, dtype=bool) & real[:, None, :]
    before = np.broadcast_to((np.arange(columns) < prefix[:, None])[:, None], (count, longest, columns))
    return np.concatenate([before, own], -1)[:, None]


def spread(states: Tensor, tree: Tree) -> Tensor:
    """float[T, H, E] -> float[G, H, E]: each token to its place; empty places hold anything finite."""
    moved: Tensor = _Moved.apply(states, tree.tokens, tree.places, None)
    return moved


def collect(states: Tensor, tree: Tree) -> Tensor:
    """float[G, H, E] -> float[T, H, E]: back again."""
    moved: Tensor = _Moved.apply(states, tree.places, tree.tokens, tree.filled)
    return moved


def repeat(prefixes: Tensor, rows: Tensor) -> Tensor:
    """float[N, P, H, E], int64[S] -> float[S, P, H, E]: each segment gets its row's prefix."""
    repeated: Tensor = _Repeated.apply(prefixes, rows)
    return repeated


class _Repeated(torch.autograd.Function):
    """``index_select`` whose gradient is summed by a matrix product: faster, and in float32 inside."""

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


class _Moved(torch.autograd.Function):
    """Rows of a tensor in another order. None counts twice: the gradient is moved, never summed."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, order: Tensor, back: Tensor, filled: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, filled)
        return states.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        back, filled = ctx.saved_tensors
        moved = grad.index_select(0, back)
        return moved if filled is None else moved * filled, None, None, None


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
