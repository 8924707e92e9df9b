"""Visual questions with short answers: exact match after the language's normalisation, by question type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ziya_visual.core.records import Example, Prediction
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.eval.results import Metric, Scope

MAX_NEW_TOKENS = 24


def is_right(row: Prediction) -> bool:
    """Whether a prediction is one of its true answers."""
    return same_answer(row.prediction, row.answers, row.lang)


def measure(rows: Sequence[Prediction], scope: Scope, *, seed: int = 0) -> list[Metric]:
    """``accuracy``, the mean over the question types, and ``type:...``; intervals resample images."""
    types = [row.meta.get("question_type", "all") for row in rows]
    images = [row.image_id for row in rows]
    right = [100.0 * is_right(row) for row in rows]
    metrics = [scope.mean("accuracy", right, clusters=images, groups=types, seed=seed)]
    for kind in sorted(set(types) - {"all"}):
        members = [i for i, found in enumerate(types) if found == kind]
        metrics.append(
            scope.mean(
                f"type:{kind}", [right[i] for i in members], clusters=[images[i] for i in members], seed=seed
            )
        )
    return metrics


def majority_answers(examples: Sequence[Example]) -> list[str]:
    """The most frequent answer of each question's type, counted in these very examples.

    No constant answer per type scores higher on them, so that a model above this baseline has looked; the
    most frequent answer of the training data could only be weaker.
    """
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        counts.setdefault(example.meta.get("question_type", "all"), Counter())[example.answers[0]] += 1
    best = {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}
    return [best[example.meta.get("question_type", "all")] for example in examples]
