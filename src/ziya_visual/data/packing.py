"""Packed rows: an image (or any shared prefix) once, then all its texts as branches of one row.

A worked example, prefix ``P P`` and branches ``a b`` and ``c d``; row i sees column j where there is an x::

              P P a b c d     branch  position
         P    x . . . . .        0        0
         P    x x . . . .        0        1
         a    x x x . . .        1        2
         b    x x x x . .        1        3
         c    x x . . x .        2        2
         d    x x . . x x        2        3

So each branch computes what it would compute alone behind the prefix. Rows lie one behind the other, without
padding. Legend: T tokens of all rows, S segments: a segment is a prefix or a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ziya_visual.data.chat.chat_format import Encoded

IGNORE = -100
Ints = NDArray[np.int64]
Lengths = tuple[tuple[int, ...], ...]  # of each row its prefix's, then its branches', in tokens


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
    """All rows one behind the other, int64[T] each.

    ``labels`` holds the token to be predicted *at* a position, ``IGNORE`` elsewhere; ``langs`` belongs to it.
    """

    input_ids: Ints
    position_ids: Ints
    labels: Ints
    langs: Ints
    lengths: Lengths


@dataclass(frozen=True, slots=True)
class Segments:
    """Prefixes and branches as they lie, int64[S] each. A prefix is branch 0 of its row."""

    rows: Ints
    branches: Ints
    starts: Ints
    lengths: Ints


def segments(lengths: Lengths) -> Segments:
    """Where everything lies in packed rows of these lengths."""
    sizes = np.asarray([size for row in lengths for size in row], np.int64)
    rows = np.repeat(np.arange(len(lengths)), [len(row) for row in lengths])
    branches = np.concatenate([np.arange(len(row)) for row in lengths])
    return Segments(rows, branches, np.cumsum(sizes) - sizes, sizes)


def some_rows(batch: PackedBatch, first: int, end: int) -> PackedBatch:
    """Rows ``first`` to ``end`` alone."""
    start, stop = (sum(map(sum, batch.lengths[:row])) for row in (first, end))
    arrays = (batch.input_ids, batch.position_ids, batch.labels, batch.langs)
    ids, positions, labels, langs = (array[start:stop] for array in arrays)
    return PackedBatch(ids, positions, labels, langs, batch.lengths[first:end])


def pack(rows: Sequence[Row]) -> PackedBatch:
    """Lay rows out as in the module's example, one behind the other.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("nothing to pack: no rows")
    ids, positions, labels, langs = [], [], [], []
    for row in rows:
        start = len(row.prefix)
        parts = [(np.asarray(row.prefix, np.int64), 0, np.full(start, IGNORE), 0)]
        for branch in row.branches:
            own = np.asarray(branch.encoded.ids, np.int64)
            learnt = np.full(len(own), IGNORE)
            learnt[:-1] = np.where(branch.encoded.supervised[1:], own[1:], IGNORE)
            parts.append((own, start, learnt, branch.lang))
        for own, begins, learnt, lang in parts:
            ids.append(own)
            positions.append(np.arange(begins, begins + len(own)))
            labels.append(learnt)
            langs.append(np.full(len(own), lang))
    lengths = tuple((len(row.prefix), *(len(b.encoded.ids) for b in row.branches)) for row in rows)
    arrays = [np.concatenate(found) for found in (ids, positions, labels, langs)]
    return PackedBatch(arrays[0], arrays[1], arrays[2], arrays[3], lengths)
