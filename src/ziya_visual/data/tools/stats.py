"""``data stats``: what a dataset holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ziya_visual.core.records import Example
from ziya_visual.data.dataset import iter_records
from ziya_visual.data.formats import Reject

TOP = 10  # answers that are shown


def dataset_stats(path: Path) -> dict[str, Any]:
    """Counts and spreads of the readable records; nothing of a picture is decoded.

    Raises:
        DataError: there is no dataset.
    """
    rejects: Counter[str] = Counter()
    return _counted(_readable(path, rejects)) | {"rejects": rejects.total()}


def _readable(path: Path, rejects: Counter[str]) -> Iterable[Example]:
    for found in iter_records(path):
        if isinstance(found, Reject):
            rejects[found.where] += 1
        else:
            yield found


def _counted(examples: Iterable[Example]) -> dict[str, Any]:
    by: dict[str, Counter[str]] = {
        name: Counter() for name in ("by_task_and_lang", "by_source", "by_split", "by_origin")
    }
    pictures: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    lengths: dict[str, list[int]] = {"user": [], "assistant": []}
    turns: list[int] = []
    without = boxes = 0
    for example in examples:
        by["by_task_and_lang"][f"{example.task}/{example.lang}"] += 1
        by["by_source"][example.source] += 1
        by["by_split"][example.meta.get("split", "")] += 1
        by["by_origin"][example.provenance.origin] += 1
        if example.image_id is None:
            without += 1
        else:
            pictures[example.image_id] += 1
        turns.append(len(example.messages))
        boxes += len(example.boxes)
        for turn in example.messages:
            if turn.role in lengths:
                lengths[turn.role].append(len(turn.content))
        if example.task == "vqa":
            answers.update(example.answers[:1])
    return {
        "records": len(turns),
        "pictures": len(pictures),
        "without_picture": without,
        **{name: dict(sorted(counter.items())) for name, counter in by.items()},
        "texts_per_picture": _spread(list(pictures.values())),
        "turns": _spread(turns),
        "characters": {role: _spread(found) for role, found in lengths.items()},
        "boxes": boxes,
        "answers": len(answers),
        "top_answers": dict(answers.most_common(TOP)),
    }


def _spread(values: list[int]) -> dict[str, float]:
    """Least, median, mean, 95th percentile and most; empty of nothing."""
    if not values:
        return {}
    found = [*np.percentile(values, [0, 50, 95, 100]), np.mean(values)]
    names = ("min", "median", "p95", "max", "mean")
    return {name: round(float(value), 2) for name, value in zip(names, found, strict=True)}
