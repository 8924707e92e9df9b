"""Where the tokens of packed rows go for attention: segments of like length side by side, in one tensor each.

A dense mask over a packed row costs its length squared, though a branch sees no other branch. Here each
segment meets its own tokens and its row's prefix alone: K branches cost K times what one does.

Legend: T tokens, N rows, P the longest prefix, H heads, E width of a head; of a group S segments, L its
longest; G places of all groups, of which T are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziya_visual.data.packing import Ints, Lengths, segments

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
    chosen = [np.flatnonzero(found.branches == 0)] if prefix.any() else []
    chosen += _alike(found.lengths, np.flatnonzero((found.branches > 0) & (found.lengths > 0)))
    groups, tokens, filled = [], [], []
    for number, members in enumerate(chosen):
        rows, sizes = found.rows[members], found.lengths[members]
        longest = int(sizes.max())
        real = np.arange(longest) < sizes[:, None]
        first = number == 0 and bool(prefix.any())
        seen = _sees(
            real, np.zeros(len(rows), np.int64) if first else prefix[rows], 0 if first else prefix.max()
        )
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(
            ~torch.from_numpy(seen), torch.finfo(dtype).min
        )
        index = None if first else torch.from_numpy(rows).to(device)
        groups.append(Group((len(members), longest), index, mask.to(device)))
        tokens.append(np.where(real, found.starts[members][:, None] + np.arange(longest), 0).ravel())
        filled.append(real.ravel())
    where, real = np.concatenate(tokens), np.concatenate(filled)
    places = np.empty(int(found.lengths.sum()), np.int64)
    places[where[real]] = np.flatnonzero(real)
    tensors = (torch.from_numpy(x).to(device) for x in (where, places, real[:, None, None]))
    index, back, weight = tensors
    return Tree(tuple(groups), index, back, weight.to(dtype))


def _alike(lengths: Ints, members: Ints) -> list[Ints]:
    """The members from the shortest to the longest, cut where one is much longer than its group's first."""
    groups = []
    left = members[np.argsort(lengths[members], kind="stable")]
    while len(left):
        end = np.searchsorted(lengths[left], GROWTH * lengths[left[0]], side="right")
        groups.append(left[:end])
        left = left[end:]
    return groups


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
