"""How sure a score is: its interval, and the paired difference of two systems, from what each item adds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ziya_visual.eval.metrics.bootstrap import Floats, Statistic, intervals, means
from ziya_visual.eval.score.files import Scored

RULE = "95 % percentile bootstrap, 1000 draws, seed 0"


def find_intervals(scored: Scored) -> dict[str, list[float]]:
    """Score name -> [low, high], where more than one cluster was scored."""
    found = {}
    for statistic in [means(scored.items), *scored.statistics]:
        clusters = _clusters(scored, statistic)
        if len(set(clusters)) > 1:
            bounds = intervals(statistic.rows, statistic.score, clusters=clusters)
            found.update(dict(zip(statistic.names, bounds.tolist(), strict=True)))
    return found


def differences(first: Scored, second: Scored) -> dict[str, dict[str, float]]:
    """Score name -> first, second, difference, low, high, n, over the items that both systems hold.

    Both are drawn together: the same items in every draw, so that what is hard for both cancels out.
    """
    table: dict[str, dict[str, float]] = {}
    for a, b in _pairs(first, second):
        width = a.rows.shape[1]
        rows, clusters = np.hstack([a.rows, b.rows]), _clusters(first, a)
        one, other = a.score(a.rows.sum(axis=0)[None])[0], b.score(b.rows.sum(axis=0)[None])[0]

        def gain(sums: Floats, a: Statistic = a, b: Statistic = b, width: int = width) -> Floats:
            return b.score(sums[:, width:]) - a.score(sums[:, :width])

        bounds = intervals(rows, gain, clusters=clusters)
        for name, x, y, (low, high) in zip(a.names, one, other, bounds, strict=True):
            table[name] = {
                "first": float(x),
                "second": float(y),
                "difference": float(y - x),
                "low": float(low),
                "high": float(high),
                "n": float(len(a.items)),
            }
    return table


def _pairs(first: Scored, second: Scored) -> Iterator[tuple[Statistic, Statistic]]:
    # Each mean by itself: the items of one question type are not those of another.
    for name, values in first.items.items():
        shared = [item for item in values if item in second.items.get(name, {})]
        if shared:
            a, b = ({name: {item: side.items[name][item] for item in shared}} for side in (first, second))
            yield means(a), means(b)
    for one in first.statistics:
        for other in second.statistics:
            names = [name for name in one.names if name in other.names]
            known = set(other.items)
            items = [item for item in one.items if item in known]
            if names and items:
                yield one.pick(names, items), other.pick(names, items)


def _clusters(scored: Scored, statistic: Statistic) -> list[str]:
    return [scored.clusters.get(item, item) for item in statistic.items]
