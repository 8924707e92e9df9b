"""Captions against several references: CIDEr-D, and the F1 of the words that carry the meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ziya_visual.core.records import Prediction
from ziya_visual.eval.metrics import caption, tokenization
from ziya_visual.eval.results import Metric, Scope

MAX_NEW_TOKENS = 128


def measure(
    rows: Sequence[Prediction], scope: Scope, keywords: Callable[[str, str], Sequence[str]] | None
) -> list[Metric]:
    """``cider`` (English cut by PTB rules, Chinese by character) and ``keyword_f1`` in percent."""
    cut = tokenization.choose_segmenters(scope.lang, None)[0][0]
    candidates = tokenization.tokenize([row.prediction for row in rows], cut)
    references = [tokenization.tokenize(row.answers, cut) for row in rows]
    images = [row.image_id for row in rows]
    metrics = [scope.mean("cider", caption.cider(caption.prepare(candidates, references)), clusters=images)]
    if keywords is not None:
        f1 = caption.keyword_f1(
            [row.prediction for row in rows],
            [row.answers for row in rows],
            lambda text: keywords(text, scope.lang),
        )
        metrics.append(scope.mean("keyword_f1", 100 * f1, clusters=images))
    return metrics
