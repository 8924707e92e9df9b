"""A mixture of datasets, sampled by temperature.

A dataset of n records has weight n ** (1 / temperature): 1 samples in proportion to size, 2 (square root)
favours small datasets, infinity samples all alike (Arivazhagan et al. 2019, arXiv 1907.05019, for languages).
Languages share the draws equally. A draw depends only on the seed and its number, and every record of a
dataset is drawn once before any is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ziya_visual.core.errors import DataError

_BLOCK = 4096  # number of draws computed together


@dataclass(frozen=True, slots=True)
class Part:
    """The size and the language of one dataset of the mixture."""

    size: int
    lang: str


class Mixture:
    """An endless sequence of draws, numbered from 0; each picks a dataset and a record in it."""

    def __init__(self, parts: Mapping[str, Part], *, seed: int, temperature: float = 2.0) -> None:
        """Weigh the datasets; ``DataError`` if there is none, one is empty, or the temperature is below 1."""
        empty = [name for name, part in parts.items() if part.size < 1]
        if not parts or empty:
            raise DataError(f"a mixture needs records; {empty[0] if empty else 'it'} has none")
        if not temperature >= 1:
            raise DataError(f"a mixture's temperature is {temperature}, expected 1 (by size) or more")
        self._parts, self._seed, self._names = dict(parts), seed, sorted(parts)
        self.shares = self._shares(temperature)
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._block: tuple[int, np.ndarray] = (-1, np.empty(0))
        self._drawn = 0
        self._counts: Counter[str] = Counter()

    def _shares(self, temperature: float) -> dict[str, float]:
        """Return the share of draws that each dataset has; the shares add up to 1."""
        weights = {name: part.size ** (1 / temperature) for name, part in self._parts.items()}
        langs = Counter[str]()
        for name, weight in weights.items():
            langs[self._parts[name].lang] += weight
        return {
            name: weight / langs[self._parts[name].lang] / len(langs)
            for name, weight in sorted(weights.items())
        }

    def draws(self, start: int, count: int) -> list[tuple[str, int]]:
        """Return ``count`` draws from number ``start``, each as (dataset name, record number)."""
        if start != self._drawn:
            self._seek(start)
        return [self._next() for _ in range(count)]

    def _seek(self, drawn: int) -> None:
        """Move to the state after ``drawn`` draws."""
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
        """Return the dataset indices of a block of draws."""
        rng = np.random.default_rng((self._seed, 0, number))
        return rng.choice(len(self._names), _BLOCK, p=list(self.shares.values()))

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """Return the order of a dataset's records in an epoch, and drop that of the epoch before."""
        if (name, epoch) not in self._orders:
            self._orders.pop((name, epoch - 1), None)
            rng = np.random.default_rng((self._seed, 1, self._names.index(name), epoch))
            self._orders[name, epoch] = rng.permutation(self._parts[name].size)
        return self._orders[name, epoch]

    def report(self, drawn: int) -> list[dict[str, Any]]:
        """Return one row per dataset after ``drawn`` draws: its expected and actual share, and its epochs."""
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
