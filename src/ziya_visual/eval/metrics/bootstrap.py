"""95 % percentile bootstrap intervals, seeded, by cluster: all questions of an image are drawn together.

A score is a function of sums over items (a mean of a sum and a count, Bleu of n-gram counts, F1 of hits), so
that a draw of items needs their sums alone. Whatever is a plain mean goes through the same code.
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
_BLOCK = 8_000_000  # weights held at once (64 MB)


@dataclass(frozen=True)
class Statistic:
    """Scores that are a function of sums over items.

    Attributes:
        names: of the K scores.
        items: of the N rows.
        rows: float64[N, S], what each item adds to the sums.
        score: float64[R, S] -> float64[R, K].
    """

    names: list[str]
    items: list[str]
    rows: Floats
    score: Callable[[Floats], Floats]

    def pick(self, names: Sequence[str], items: Sequence[str]) -> Statistic:
        """The same for some of the scores and items, in that order."""
        where = {item: row for row, item in enumerate(self.items)}
        columns = [self.names.index(name) for name in names]
        rows = self.rows[[where[item] for item in items]]
        return Statistic(list(names), list(items), rows, lambda sums: self.score(sums)[:, columns])


def intervals(
    rows: Floats,
    score: Score,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Floats:
    """The 95 % interval of each score: float64[K, 2].

    Args:
        rows: float64[N, S], what each item adds to the sums.
        score: float64[R, S] sums -> float64[R, K] scores; NaN where a draw leaves one undefined.
        clusters: what is drawn with replacement (the image of each question); items by default.
        seed: of the draws.
        resamples: how many draws.
    """
    if clusters is not None:
        code = _codes(clusters)
        sums = np.zeros((int(code.max()) + 1, rows.shape[1]))
        np.add.at(sums, code, rows)
        rows = sums
    rng = np.random.default_rng(seed)
    units = len(rows)
    block = max(1, _BLOCK // units)
    found = []
    for start in range(0, resamples, block):
        draws = [rng.integers(units, size=units) for _ in range(min(block, resamples - start))]
        weights = np.array([np.bincount(draw, minlength=units) for draw in draws], np.float64)
        found.append(score(weights @ rows))
    tail = (1 - LEVEL) / 2
    bounds: Floats = np.nanquantile(np.concatenate(found), [tail, 1 - tail], axis=0).T
    return bounds


def interval(
    values: Sequence[float] | Floats,
    *,
    clusters: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The 95 % interval of the mean of ``values``, or of the mean over ``groups`` of the group means.

    Args:
        values: float[N], one per item.
        clusters: what is drawn with replacement; items by default.
        groups: of each item, e.g. its question type.
        seed: of the draws.
        resamples: how many draws.
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
        means: Floats = np.nanmean(ratios(sums), axis=1, keepdims=True)
        return means

    low, high = intervals(rows, mean_of_means, clusters=clusters, seed=seed, resamples=resamples)[0]
    return float(low), float(high)


def ratios(sums: Floats) -> Floats:
    """The means of [R, 2K] columns, K sums and then K counts: float64[R, K], NaN where none is drawn."""
    total, count = np.hsplit(sums, 2)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def means(values: Mapping[str, Mapping[str, float]]) -> Statistic:
    """Means over items, each over its own: score name -> item -> value."""
    row: dict[str, int] = {}
    for found in values.values():
        for item in found:
            row.setdefault(item, len(row))
    rows = np.zeros((len(row), 2 * len(values)))
    for column, found in enumerate(values.values()):
        at = [row[item] for item in found]
        rows[at, column] = list(found.values())
        rows[at, len(values) + column] = 1
    return Statistic(list(values), list(row), rows, ratios)


def _codes(labels: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.int64)
