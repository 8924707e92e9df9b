"""Which of many 64-bit hashes differ from one in a few bits: multi-index hashing (Norouzi et al. 2012).

A hash is four pieces of 16 bits. Two hashes that differ in eleven bits at most have a piece in which they
differ in two at most: 4 x 137 short lists hold every candidate. A million hashes take 25 MB.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

RADIUS = 11  # bits: the most that pieces which differ in two bits can promise
_PIECES, _BITS = 4, 16
_FLIPS = np.asarray(
    [sum(1 << bit for bit in bits) for count in range(3) for bits in combinations(range(_BITS), count)]
)


class NearIndex:
    """An index of uint64[N]."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        """Sort the hashes by each piece."""
        self._hashes = hashes
        self._orders: list[NDArray[np.int32]] = []  # places by piece
        self._starts: list[NDArray[np.int32]] = []  # where the places of each of 65,536 values begin
        for piece in range(_PIECES):
            keys = (hashes >> np.uint64(piece * _BITS)).astype(np.uint16)
            self._orders.append(np.argsort(keys, kind="stable").astype(np.int32))
            counts = np.bincount(keys, minlength=1 << _BITS)
            self._starts.append(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._hashes.nbytes + sum(array.nbytes for array in (*self._orders, *self._starts))

    def near(self, query: np.uint64) -> NDArray[np.int32]:
        """Places of the hashes that differ in :data:`RADIUS` bits at most, ascending."""
        places = np.concatenate([self._candidates(int(query), piece) for piece in range(_PIECES)])
        close = np.bitwise_count(self._hashes[places] ^ query) <= RADIUS
        return np.unique(places[close])

    def _candidates(self, query: int, piece: int) -> NDArray[np.int32]:
        """Places of the hashes whose piece differs in two bits at most."""
        keys = (query >> (piece * _BITS) & (1 << _BITS) - 1) ^ _FLIPS
        starts = self._starts[piece]
        first, lengths = starts[keys], starts[keys + 1] - starts[keys]
        before = np.cumsum(lengths) - lengths
        found: NDArray[np.int32] = self._orders[piece][
            np.repeat(first - before, lengths) + np.arange(lengths.sum())
        ]
        return found
