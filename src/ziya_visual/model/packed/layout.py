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


def even(count: int) -> int:
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
