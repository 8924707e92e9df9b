"""LLaVA's summary of judge reviews, together with controls for the judge's own biases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ziya_visual.core.errors import DataError
from ziya_visual.eval.judge.diagnostics import compute_controls, length_adjusted_score, list_warnings
from ziya_visual.eval.judge.judgments import RUBRIC, Judgment, read_judgments, withhold_reason
from ziya_visual.eval.results import Scored

_RESAMPLES = 1000


def score_judge(*, reviews: Path, stored: bool = False) -> Scored:
    """Return LLaVA's summary: 100 x mean candidate / mean reference, by category and pooled.

    Both orders of a pairwise file count alike. Rubric grades (0 to 1) become means in percent. A review
    without scores is a failure: it is counted and named in the notes, and never becomes a number.

    ``reviews`` are LLaVA's rows or ours, of one protocol and pair of models; answer 1 is the reference unless
    the row says otherwise. ``stored`` takes their ``tuple`` or ``score`` instead of reading the text again.
    """
    rows = read_judgments(reviews)
    _refuse_mixtures(rows, reviews)
    if not stored and not any(row.text or row.failure for row in rows):
        raise DataError(f"{reviews}: no row has a review text; take its stored scores with --stored")
    pairs: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    unread: list[str] = []
    for review in rows:
        pair = review.stored_scores if stored else review.scores
        if pair is None:
            unread.append(review.question_id)
            continue
        for name in ("all", *review.categories):
            pairs[name].append(pair)
    disagree = [
        {"question_id": row.question_id, "text": list(row.scores), "stored": list(row.stored_scores)}
        for row in rows
        if row.scores is not None and row.stored_scores is not None and row.scores != row.stored_scores
    ]
    failures = Counter({"unread": len(unread), "stored_disagrees": len(disagree)})
    withheld = withhold_reason(len(unread), len(rows))
    scores = {} if withheld else _summary(pairs, graded=rows[0].protocol == RUBRIC)
    notes = {"unread_questions": unread, "stored_disagrees": disagree, "withheld": withheld}
    notes |= _notes(rows, pairs["all"]) if scores else {}
    rule = "stored scores" if stored else "scores read from the text"
    return Scored(scores | {"failures": float(len(unread))}, +failures, {}, rule, {}, notes)


def _refuse_mixtures(rows: Sequence[Judgment], path: Path) -> None:
    protocols = sorted({row.protocol for row in rows})
    if len(protocols) > 1:
        raise DataError(f"{path}: has reviews of {' and '.join(protocols)}; score one protocol at a time")
    models = sorted({row.models for row in rows})
    if len(models) > 1:
        shown = "; ".join(" and ".join(names) for names in models[:3])
        raise DataError(
            f"{path}: reviews of {len(models)} pairings ({shown}); ziya-visual leaderboard ranks them"
        )


def _summary(pairs: dict[str, list[tuple[float, ...]]], *, graded: bool) -> dict[str, float]:
    """Return ``all``, every category, and ten times the mean of each side as ``all/reference`` ..."""
    scores = {}
    for category, scored in pairs.items():
        means = [sum(side) / len(scored) for side in zip(*scored, strict=True)]
        if graded:
            scores[category] = round(100 * means[0], 1)
            continue
        # LLaVA rounds the means to three decimals before it divides.
        reference, candidate = (round(mean, 3) for mean in means)
        if reference:
            scores[category] = round(100 * candidate / reference, 1)
        scores[f"{category}/reference"] = round(10 * reference, 1)
        scores[f"{category}/candidate"] = round(10 * candidate, 1)
    return scores


def _notes(rows: Sequence[Judgment], pairs: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """Return the interval, controls of the judge's biases, and warnings."""
    controls = compute_controls(rows)
    notes: dict[str, Any] = {"interval": _interval(np.array(pairs)), "controls": controls}
    notes["warnings"] = list_warnings(controls, rows[0].protocol)
    if rows[0].protocol != RUBRIC:
        notes["length_adjusted"] = length_adjusted_score(rows)
    return notes


def _interval(pairs: Any) -> list[float] | None:
    """Return the 95 % bootstrap interval of ``all`` over the reviews; ``None`` if the reference may be 0."""
    draws = np.random.default_rng(0).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    means = pairs[draws].mean(axis=1)
    if pairs.shape[1] == 2 and means[:, 0].min() == 0:
        return None
    ratio = means[:, -1] / (means[:, 0] if pairs.shape[1] == 2 else 1)
    return [round(float(100 * bound), 1) for bound in np.quantile(ratio, [0.025, 0.975])]
