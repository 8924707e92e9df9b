"""Which data set the next record comes from: sampling by temperature, counted exactly, from any draw on.

A set of n records weighs n ** (1 / temperature): 1 draws in proportion to size, 2 (square root) lifts the
small ones, infinity draws all alike (Arivazhagan et al. 2019, arXiv 1907.05019, for languages). Languages
share the draws equally, or in proportion to their sets' weights. A draw is a function of the seed and its
number alone, and every record of a set is drawn once before any is drawn again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ziya_visual.core.errors import DataError

_BLOCK = 4096  # draws that are made together


@dataclass(frozen=True, slots=True)
class Part:
    """A data set of the mixture: how many records, in which language."""

    size: int
    lang: str


class Mixture:
    """Which record of which set each draw takes; draws are numbered from 0 without end."""

    def __init__(
        self, parts: Mapping[str, Part], *, seed: int, temperature: float = 2.0, balance: bool = True
    ) -> None:
        """Weigh the sets; with ``balance`` every language is drawn as often as any other.

        Raises:
            DataError: there is no set, one is empty, or the temperature is below 1.
        """
        empty = [name for name, part in parts.items() if part.size < 1]
        if not parts or empty:
            raise DataError(f"a mixture needs records; {empty[0] if empty else 'it'} has none")
        if not temperature >= 1:
            raise DataError(f"a mixture's temperature is {temperature}, expected 1 (by size) or more")
        self._parts, self._seed, self._names = dict(parts), seed, sorted(parts)
        self.shares = self._shares(temperature, balance)
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._block: tuple[int, np.ndarray] = (-1, np.empty(0))
        self._drawn = 0
        self._counts: Counter[str] = Counter()

    def _shares(self, temperature: float, balance: bool) -> dict[str, float]:
        """The part of the draws that each set has; they add up to 1."""
        weights = {name: part.size ** (1 / temperature) for name, part in self._parts.items()}
        langs = Counter[str]()
        for name, weight in weights.items():
            langs[self._parts[name].lang] += weight
        total = sum(weights.values())
        return {
            name: weight / langs[self._parts[name].lang] / len(langs) if balance else weight / total
            for name, weight in sorted(weights.items())
        }

    def draws(self, start: int, count: int) -> list[tuple[str, int]]:
        """The draws of these numbers, each (name of a set, number of a record in it)."""
        if start != self._drawn:
            self._seek(start)
        return [self._next() for _ in range(count)]

    def _seek(self, drawn: int) -> None:
        """Stand where so many have been drawn."""
        whole, rest = divmod(drawn, _BLOCK)
        blocks = [*(self._chosen(number) for number in range(whole)), self._chosen(whole)[:rest]]
        counts = np.sum([np.bincount(block, minlength=len(self._names)) for block in blocks], axis=0)
        self._counts = Counter(dict(zip(self._names, counts.tolist(), strict=True)))
        self._drawn = drawn
        self._orders.clear()

    def _next(self) -> tuple[str, int]:
        number, place = divmod(self._drawn, _BLOCK)
        if self._block[0] != number:
            self._block = number, self._chosen(number)
        name = self._names[self._block[1][place]]
        epoch, row = divmod(self._counts[name], self._parts[name].size)
        record = int(self._order(name, epoch)[row])
        self._drawn += 1
        self._counts[name] += 1
        return name, record

    def _chosen(self, number: int) -> np.ndarray:
        """The sets of a block of draws."""
        rng = np.random.default_rng((self._seed, 0, number))
        return rng.choice(len(self._names), _BLOCK, p=list(self.shares.values()))

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """The order of a set's records in one of its epochs; that of the last one is dropped."""
        if (name, epoch) not in self._orders:
            self._orders.pop((name, epoch - 1), None)
            rng = np.random.default_rng((self._seed, 1, self._names.index(name), epoch))
            self._orders[name, epoch] = rng.permutation(self._parts[name].size)
        return self._orders[name, epoch]

    def report(self, drawn: int) -> list[dict[str, Any]]:
        """What so many draws saw, a row a set: its share, wanted and drawn, and how often records came."""
        self._seek(drawn)
        return [
            {
                "name": name,
                "lang": self._parts[name].lang,
                "records": self._parts[name].size,
                "share": share,
                "drawn": self._counts[name],
                "drawn_share": self._counts[name] / max(1, self._drawn),
                "epochs": self._counts[name] / self._parts[name].size,
            }
            for name, share in self.shares.items()
        ]
