"""Packed rows: an image (or any shared prefix) once, then all its texts as branches of one row.

A worked example, prefix ``P P`` and branches ``a b`` and ``c d``; row i sees column j where there is an x::

              P P a b c d     branch  position
         P    x . . . . .        0        0
         P    x x . . . .        0        1
         a    x x x . . .        1        2
         b    x x x x . .        1        3
         c    x x . . x .        2        2
         d    x x . . x x        2        3

So each branch computes what it would compute alone behind the prefix. Legend: B rows, L tokens a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ziya_visual.data.chat_format import Encoded

IGNORE = -100
PADDING = -1
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Branch:
    """One text of a row and the number of its language, by which losses are summed."""

    encoded: Encoded
    lang: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A shared prefix and the texts that continue it."""

    prefix: Sequence[int]
    branches: Sequence[Branch]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """int64[B, L] each. ``labels`` holds the token to be predicted *at* a position, ``IGNORE`` elsewhere.

    ``branch_ids``: 0 the prefix, 1.. the branches, ``PADDING`` behind them. ``langs`` belongs to ``labels``.
    """

    input_ids: Ints
    position_ids: Ints
    branch_ids: Ints
    labels: Ints
    langs: Ints


def pack(rows: Sequence[Row], *, pad_id: int) -> PackedBatch:
    """Lay each row out as in the module's example and pad all to the longest.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("nothing to pack: no rows")
    length = max(len(row.prefix) + sum(len(b.encoded.ids) for b in row.branches) for row in rows)
    shape = (len(rows), length)
    input_ids = np.full(shape, pad_id, np.int64)
    position_ids = np.zeros(shape, np.int64)
    branch_ids = np.full(shape, PADDING, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    langs = np.zeros(shape, np.int64)
    for r, row in enumerate(rows):
        start = len(row.prefix)
        input_ids[r, :start] = row.prefix
        position_ids[r, :start] = np.arange(start)
        branch_ids[r, :start] = 0
        at = start
        for number, branch in enumerate(row.branches, start=1):
            ids = np.asarray(branch.encoded.ids, np.int64)
            end = at + len(ids)
            input_ids[r, at:end] = ids
            position_ids[r, at:end] = np.arange(start, start + len(ids))
            branch_ids[r, at:end] = number
            labels[r, at : end - 1] = np.where(branch.encoded.supervised[1:], ids[1:], IGNORE)
            langs[r, at:end] = branch.lang
            at = end
    return PackedBatch(input_ids, position_ids, branch_ids, labels, langs)
