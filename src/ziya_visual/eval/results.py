"""``results.json``: one row per measured number, the form that the report, CI and the README read."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, write_json
from ziya_visual.eval.metrics.bootstrap import interval


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its 95 % interval; percent, except CIDEr, which is as coco-caption gives it."""

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
    """What a group of metrics is about: the first four fields of their rows."""

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
        """The mean of ``values``, or the mean of the means of ``groups``, with its bootstrap interval."""
        array = np.asarray(values, np.float64)
        if groups is None:
            value = float(array.mean())
        else:
            members: dict[Hashable, list[float]] = {}
            for group, one in zip(groups, array, strict=True):
                members.setdefault(group, []).append(float(one))
            value = float(np.mean([np.mean(found) for found in members.values()]))
        low, high = interval(array, clusters=clusters, groups=groups, seed=seed)
        return Metric(self.model, self.split, self.lang, self.task, name, value, low, high, len(array))


def results(
    metrics: Sequence[Metric],
    *,
    seconds: Mapping[str, float],
    seed: int,
    versions: Mapping[str, str],
    card: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of ``results.json`` (DESIGN), numbers rounded to four decimals."""
    rows = [asdict(metric) for metric in metrics]
    for row in rows:
        row.update({key: round(row[key], 4) for key in ("value", "low", "high")})
    times = {name: round(value, 2) for name, value in seconds.items()}
    return {"metrics": rows, "seconds": times, "seed": seed, "versions": dict(versions), "card": dict(card)}


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``results.json`` atomically."""
    write_json(path, content)


def read_results(path: Path) -> dict[str, Any]:
    """Read ``results.json``, refusing another form."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), list):
        raise DataError(f"{path}: is no results.json; expected an object with a list 'metrics'")
    return content
