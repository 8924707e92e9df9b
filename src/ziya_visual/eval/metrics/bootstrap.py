"""Seeded 95 % percentile bootstrap intervals; all questions of an image are resampled together.

A score is a function of sums over items (a mean of a sum and a count, Bleu of n-gram counts, F1 of hits), so
a resample needs only the items' sums. Plain means go through the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats], Floats]

RESAMPLES = 1000
LEVEL = 0.95
_MAX_WEIGHTS = 8_000_000  # weights held in memory at once (64 MB)


@dataclass(frozen=True)
class Statistic:
    """K scores that are a function of sums over N items.

    ``rows`` float64[N, S] is what each item adds to the sums; ``score`` maps sums float64[R, S] to scores
    float64[R, K].
    """

    names: list[str]
    items: list[str]
    rows: Floats
    score: Score

    def pick(self, names: Sequence[str], items: Sequence[str]) -> Statistic:
        """Return this statistic restricted to some scores and items, in the order given."""
        row_of = {item: row for row, item in enumerate(self.items)}
        columns = [self.names.index(name) for name in names]
        rows = self.rows[[row_of[item] for item in items]]
        return Statistic(list(names), list(items), rows, lambda sums: self.score(sums)[:, columns])


def intervals(
    rows: Floats,
    score: Score,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Floats:
    """Return the 95 % interval of each score: float64[K, 2].

    ``rows`` and ``score`` are those of a :class:`Statistic`; a score is NaN where a resample leaves it
    undefined. ``clusters`` names the unit of resampling of each item (the image of a question), by default
    the item itself.
    """
    if clusters is not None:
        codes = _codes(clusters)
        sums = np.zeros((int(codes.max()) + 1, rows.shape[1]))
        np.add.at(sums, codes, rows)
        rows = sums
    rng = np.random.default_rng(seed)
    units = len(rows)
    block = max(1, _MAX_WEIGHTS // units)
    scores = []
    for start in range(0, resamples, block):
        draws = [rng.integers(units, size=units) for _ in range(min(block, resamples - start))]
        weights = np.array([np.bincount(draw, minlength=units) for draw in draws], np.float64)
        scores.append(score(weights @ rows))
    tail = (1 - LEVEL) / 2
    bounds: Floats = np.nanquantile(np.concatenate(scores), [tail, 1 - tail], axis=0).T
    return bounds


def interval(
    values: Sequence[float] | Floats,
    *,
    clusters: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of ``values`` float[N], resampled as in :func:`intervals`.

    With ``groups``, e.g. the items' question types, it is that of the mean over the groups of their means.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return 0.0, 0.0
    group = _codes(groups) if groups is not None else np.zeros(len(values), np.int64)
    kinds = int(group.max()) + 1
    rows = np.zeros((len(values), 2 * kinds))
    rows[np.arange(len(values)), group] = values
    rows[np.arange(len(values)), kinds + group] = 1

    def mean_of_means(sums: Floats) -> Floats:
        return np.asarray(np.nanmean(ratios(sums), axis=1, keepdims=True))

    low, high = intervals(rows, mean_of_means, clusters=clusters, seed=seed, resamples=resamples)[0]
    return float(low), float(high)


def ratios(sums: Floats) -> Floats:
    """Divide K sums by K counts, [R, 2K] -> float64[R, K]; NaN where the count is zero."""
    total, count = np.hsplit(sums, 2)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def means(values: Mapping[str, Mapping[str, float]]) -> Statistic:
    """Return the means of ``values`` (score name -> item -> value), each over its own items."""
    row_of: dict[str, int] = {}
    for by_item in values.values():
        for item in by_item:
            row_of.setdefault(item, len(row_of))
    rows = np.zeros((len(row_of), 2 * len(values)))
    for column, by_item in enumerate(values.values()):
        at = [row_of[item] for item in by_item]
        rows[at, column] = list(by_item.values())
        rows[at, len(values) + column] = 1
    return Statistic(list(values), list(row_of), rows, ratios)


def _codes(labels: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(label, len(codes)) for label in labels], np.int64)
