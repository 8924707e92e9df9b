"""Scores with 95 % bootstrap intervals, the rows of ``results.json``, and what its pages are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import yaml

from ziya_visual.core.files import read_text
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic, interval, intervals, means

INTERVAL_RULE = "95 % percentile bootstrap, 1000 draws, seed 0"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its 95 % interval, in percent; CIDEr is as coco-caption gives it."""

    model: str
    split: str
    lang: str
    task: str
    name: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Scope:
    """The first four fields of a group of metrics: which model was measured on what."""

    model: str
    split: str
    lang: str
    task: str

    def mean(
        self,
        name: str,
        values: Sequence[float] | npt.NDArray[np.float64],
        *,
        clusters: Sequence[Hashable] | None = None,
        groups: Sequence[Hashable] | None = None,
        seed: int = 0,
    ) -> Metric:
        """Return the mean of ``values``, or the mean of the means of ``groups``, with its interval."""
        array = np.asarray(values, np.float64)
        value = float(array.mean())
        if groups is not None:
            members: dict[Hashable, list[float]] = {}
            for group, item in zip(groups, array, strict=True):
                members.setdefault(group, []).append(float(item))
            value = float(np.mean([np.mean(items) for items in members.values()]))
        low, high = interval(array, clusters=clusters, groups=groups, seed=seed)
        return Metric(self.model, self.split, self.lang, self.task, name, value, low, high, len(array))


@dataclass
class Scored:
    """The result of one form of ``score``.

    Attributes:
        failures: reason -> count.
        items: score name -> item -> value, for scores that are means over items.
        rule: the rule or segmenter behind the numbers, for the card; ``notes`` are further entries.
        not_computed: score name -> why it is missing.
        statistics: scores that have an interval but are not means over items.
        clusters: item -> the cluster it is resampled with (a question's image); by default the item.
        packages: packages whose versions determine the numbers.
    """

    scores: dict[str, float]
    failures: Counter[str] = field(default_factory=Counter)
    items: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: str = ""
    not_computed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    statistics: list[Statistic] = field(default_factory=list)
    clusters: dict[str, str] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)

    def clusters_of(self, statistic: Statistic) -> list[str]:
        """Return the cluster of each item of a statistic."""
        return [self.clusters.get(item, item) for item in statistic.items]


def find_intervals(scored: Scored) -> dict[str, list[float]]:
    """Return score name -> [low, high] for every score with more than one cluster."""
    bounds: dict[str, list[float]] = {}
    for statistic in [means(scored.items), *scored.statistics]:
        clusters = scored.clusters_of(statistic)
        if len(set(clusters)) > 1:
            limits = intervals(statistic.rows, statistic.score, clusters=clusters)
            bounds.update(dict(zip(statistic.names, limits.tolist(), strict=True)))
    return bounds


def differences(first: Scored, second: Scored) -> dict[str, dict[str, float]]:
    """Return score name -> first, second, difference, low, high, n, over the items that both systems have.

    Every bootstrap draw takes the same items for both systems, so items that are hard for both cancel out.
    """
    table: dict[str, dict[str, float]] = {}
    for a, b in _paired_statistics(first, second):
        width = a.rows.shape[1]
        rows = np.hstack([a.rows, b.rows])
        first_values, second_values = (side.score(side.rows.sum(axis=0)[None])[0] for side in (a, b))

        def gain(sums: Floats, a: Statistic = a, b: Statistic = b, width: int = width) -> Floats:
            return b.score(sums[:, width:]) - a.score(sums[:, :width])

        bounds = intervals(rows, gain, clusters=first.clusters_of(a))
        for name, x, y, (low, high) in zip(a.names, first_values, second_values, bounds, strict=True):
            row = {"first": x, "second": y, "difference": y - x, "low": low, "high": high, "n": len(a.items)}
            table[name] = {key: float(value) for key, value in row.items()}
    return table


def _paired_statistics(first: Scored, second: Scored) -> Iterator[tuple[Statistic, Statistic]]:
    # Each mean by itself, because the items of one question type are not those of another.
    for name, values in first.items.items():
        shared = [item for item in values if item in second.items.get(name, {})]
        if shared:
            a, b = ({name: {item: side.items[name][item] for item in shared}} for side in (first, second))
            yield means(a), means(b)
    for left in first.statistics:
        for right in second.statistics:
            names = [name for name in left.names if name in right.names]
            known = set(right.items)
            items = [item for item in left.items if item in known]
            if names and items:
                yield left.pick(names, items), right.pick(names, items)


def results(
    metrics: Sequence[Metric],
    *,
    seconds: Mapping[str, float],
    seed: int,
    versions: Mapping[str, str],
    card: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``results.json``, with numbers rounded to four decimals."""
    rows = [asdict(metric) for metric in metrics]
    for row in rows:
        row.update({key: round(row[key], 4) for key in ("value", "low", "high")})
    times = {name: round(value, 2) for name, value in seconds.items()}
    return {"metrics": rows, "seconds": times, "seed": seed, "versions": dict(versions), "card": dict(card)}


def published_results(path: Path) -> list[dict[str, Any]]:
    """Return the tables of published numbers in a YAML file."""
    tables: list[dict[str, Any]] = yaml.safe_load(read_text(path))
    return tables


def page_template(path: Path, **filters: Callable[..., str]) -> jinja2.Template:
    """Load the template of an HTML page, strict about undefined names."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= filters
    return environment.from_string(read_text(path))
