"""95 % percentile bootstrap intervals, seeded, by cluster: all questions of an image are drawn together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 8_000_000  # weights held at once (64 MB)


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
        clusters: what is drawn with replacement (the image of each question); items by default.
        groups: of each item, e.g. its question type.
        seed: of the draws.
        resamples: how many draws.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return 0.0, 0.0
    cluster = _codes(clusters) if clusters is not None else np.arange(len(values))
    group = _codes(groups) if groups is not None else np.zeros(len(values), np.int64)
    shape = int(cluster.max()) + 1, int(group.max()) + 1
    slot = cluster * shape[1] + group
    sums = np.bincount(slot, values, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    counts = np.bincount(slot, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(_draws(sums, counts, seed, resamples), [tail, 1 - tail])
    return float(low), float(high)


def _draws(sums: Floats, counts: Floats, seed: int, resamples: int) -> Floats:
    """The statistic of every resample: float64[resamples]."""
    rng = np.random.default_rng(seed)
    clusters = len(sums)
    share = np.full(clusters, 1 / clusters)
    block = max(1, _BLOCK // clusters)
    found = []
    for start in range(0, resamples, block):
        weights = rng.multinomial(clusters, share, size=min(block, resamples - start)).astype(np.float64)
        total = weights @ counts
        means = np.divide(weights @ sums, total, out=np.full_like(total, np.nan), where=total > 0)
        found.append(np.nanmean(means, axis=1))
    return np.concatenate(found)


def _codes(labels: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.int64)
