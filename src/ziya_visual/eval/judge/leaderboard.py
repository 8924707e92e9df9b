"""``leaderboard``: turn judged folders into one table for each judge, by language and category.

Judges, protocols and what a judge sees have separate tables. Models that no chain of battles connects are not
ranked against each other, and a judge whose controls fail ranks nobody.

Ratings are Bradley-Terry strengths on the Elo scale: their mean is 1000 and 400 points are odds of ten to
one, so ``a`` beats ``b`` with probability ``1 / (1 + 10 ** ((b - a) / 400))``. A tie is half a win for each.
Newton's method maximizes the likelihood of many tables at once, so a bootstrap of hundreds of resamples is
cheap.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import write_json, write_text
from ziya_visual.eval.judge import diagnostics
from ziya_visual.eval.judge.judgments import (
    LIMITS,
    RELATIVE,
    REVIEWS,
    RULE,
    Battle,
    Judgment,
    decide_battles,
    read_judgments,
    withhold_reason,
)
from ziya_visual.eval.results import page_template, published_results

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
JudgeKey = tuple[str, str, str]  # judge, protocol, what the judge sees

SCALE = 400 / math.log(10)
CENTER = 1000.0
RESAMPLES = 500
_PRIOR = 0.02  # of a tie between every two models, so that a resample in which one never loses stays finite
_STEPS = 60
_TOLERANCE = 1e-6
_FOLDER = Path(__file__).parent
PUBLISHED = _FOLDER / "published.yaml"  # published judge scores, never ranked with ours
_POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}


def leaderboard(folders: Sequence[Path], *, out: Path, seed: int = 0) -> dict[str, Any]:
    """Write ``leaderboard.json`` and a self-contained ``leaderboard.html`` in which every verdict opens.

    ``folders`` are output folders of ``judge``; at least one must compare two models. ``seed`` is that of the
    bootstrap. Returns the content of the JSON file: ``judges`` with tables, controls and warnings,
    ``agreement`` between them, and ``published`` numbers.
    """
    groups: dict[JudgeKey, list[Judgment]] = {}
    for folder in folders:
        if not (folder / REVIEWS).is_file():
            raise DataError(f"{folder / REVIEWS}: absent; give the --out folder of a finished judge run")
        for judgment in read_judgments(folder / REVIEWS):
            groups.setdefault((judgment.judge, judgment.protocol, judgment.sees), []).append(judgment)
    battles = {key: decide_battles(judgments) for key, judgments in groups.items()}
    if not any(battles.values()):
        raise DataError(
            f"{', '.join(map(str, folders))}: no battle of two models; judge two, or give the folders of both"
        )
    judges = [_judge_entry(key, groups[key], battles[key], seed) for key in groups]
    published = published_results(PUBLISHED)
    content = {"judges": judges, "agreement": _agreements(battles), "published": published}
    write_json(out / "leaderboard.json", content)
    unscored = [[j for j in judgments if j.scores is None] for judgments in groups.values()]
    template = page_template(_FOLDER / "leaderboard.html.jinja")
    page = template.render(content, battles=list(battles.values()), unscored=unscored)
    write_text(out / "leaderboard.html", page)
    return content


def _judge_entry(
    key: JudgeKey, judgments: Sequence[Judgment], battles: Sequence[Battle], seed: int
) -> dict[str, Any]:
    """Return all verdicts of one judge under one protocol, with its warnings."""
    name, protocol, sees = key
    controls = diagnostics.compute_controls(judgments)
    withheld = withhold_reason(controls["failures"], controls["reviews"])
    if not withheld and protocol != RULE and diagnostics.is_unreliable(controls):
        withheld = "the controls below show that this judge does not tell these answers apart"
    return {
        "judge": name or "unnamed",
        "protocol": protocol,
        "sees": sees,
        "cannot_know": LIMITS[sees],
        "controls": controls,
        "warnings": diagnostics.list_warnings(controls, protocol),
        "withheld": withheld,
        "tables": [] if withheld else list(_tables(battles, seed)),
        "relative": _relative(judgments) if protocol == RELATIVE and not withheld else [],
    }


def _tables(battles: Sequence[Battle], seed: int) -> Iterable[dict[str, Any]]:
    """Yield the tables of all battles, of each language, and of each category within a language."""
    slices: dict[tuple[str, str], list[Battle]] = {}
    for battle in battles:
        for key in dict.fromkeys(itertools.product(("", battle.lang), ("", *battle.categories))):
            slices.setdefault(key, []).append(battle)
    langs = {battle.lang for battle in battles}
    for (lang, category), members in sorted(slices.items()):
        # With one language its tables equal those of all; with several, categories are split by language.
        if (lang and len(langs) == 1) or (category and not lang and len(langs) > 1):
            continue
        yield {"lang": lang, "category": category, **rank_models(members, seed=seed)}


def rank_models(battles: Sequence[Battle], *, seed: int = 0) -> dict[str, Any]:
    """Return the standings, strongest model first.

    Returns:
        ``rows``: ``model``, ``rank`` (one more than the models whose interval is wholly above), ``rating``
        with ``low`` and ``high`` (95 %), ``equal_length`` (the rating if all answers were equally long),
        ``wins`` (a tie is half), ``battles`` and ``share`` won in percent. ``per_doubling``: Elo points for
        an answer twice as long. ``apart``: why models cannot be compared; ratings are then ``None``.
    """
    models = sorted({name for battle in battles for name in (battle.a, battle.b)})
    wins = _wins(battles, models)
    total = wins.sum(axis=0)
    apart = _why_apart(battles, models, total)
    ratings = fit_ratings(wins, seed=seed)
    equal, per_doubling = (None, None) if apart else _equal_length(battles, models)
    rows: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        won, played = float(total[index].sum()), float(total[index].sum() + total[:, index].sum())
        row: dict[str, Any] = {"model": model, "rank": None}
        row["equal_length"] = None if equal is None else round(equal[index], 1)
        for name, values in ratings._asdict().items():
            row[name] = None if apart else round(float(values[index]), 1)
        rows.append(row | {"wins": won, "battles": int(played), "share": round(100 * won / played, 1)})
    rows.sort(key=lambda row: (-(row["rating"] or 0), -row["share"]))
    if not apart:
        for row in rows:
            row["rank"] = 1 + sum(other["low"] > row["high"] for other in rows)
    return {"rows": rows, "per_doubling": per_doubling, "apart": apart}


def _why_apart(battles: Sequence[Battle], models: Sequence[str], total: Floats) -> str:
    """Return why these battles give no ratings, or an empty string."""
    if all(battle.winner == "tie" for battle in battles):
        return "no ratings: every battle is a tie"
    groups: dict[int, list[str]] = {}
    for model, group in zip(models, comparable_groups(total).tolist(), strict=True):
        groups.setdefault(group, []).append(model)
    if len(groups) == 1:
        return ""
    names = " and ".join(", ".join(members) for members in groups.values())
    return f"no ratings: between {names}, points were never taken both ways, so the gap has no bound"


def _wins(battles: Sequence[Battle], models: Sequence[str]) -> Floats:
    """Return float64[clusters, M, M], points by cluster; all battles of a picture are one cluster."""
    index = {name: place for place, name in enumerate(models)}
    names = [battle.image or f"{battle.lang} {battle.question_id}" for battle in battles]
    cluster = {name: place for place, name in enumerate(dict.fromkeys(names))}
    wins = np.zeros((len(cluster), len(models), len(models)))
    for name, battle in zip(names, battles, strict=True):
        a, b, points = index[battle.a], index[battle.b], _POINTS[battle.winner]
        wins[cluster[name], a, b] += points
        wins[cluster[name], b, a] += 1 - points
    return wins


def _equal_length(
    battles: Sequence[Battle], models: Sequence[str]
) -> tuple[list[float] | None, float | None]:
    """Return ratings at equal length and the worth of doubling it; ``None`` if the lengths cannot tell."""
    longer = np.array([math.log((1 + b.lengths[0]) / (1 + b.lengths[1])) for b in battles])
    pairs = [frozenset((b.a, b.b)) for b in battles]
    sign = np.array([1 if b.a <= b.b else -1 for b in battles])
    for pair in dict.fromkeys(pairs):
        members = np.array([other == pair for other in pairs])
        if not diagnostics.lengths_overlap((longer * sign)[members]):
            return None, None
    index = {name: place for place, name in enumerate(models)}
    a, b = (np.array([index[getattr(battle, side)] for battle in battles]) for side in ("a", "b"))
    points = np.array([_POINTS[battle.winner] for battle in battles])
    ratings, per_doubling = fit_at_equal_length(a, b, points, longer, len(models))
    return ratings.tolist(), round(per_doubling, 1)


def _relative(judgments: Sequence[Judgment]) -> list[dict[str, Any]]:
    """Return LLaVA's percentage of each candidate against its reference, by language and category."""
    groups: dict[tuple[str, str, str, str], list[tuple[float, ...]]] = {}
    for judgment in judgments:
        if judgment.scores is not None:
            for category in ("", *judgment.categories):
                key = (judgment.models[1], judgment.models[0], judgment.lang, category)
                groups.setdefault(key, []).append(judgment.scores)
    rows = []
    for key, scores in groups.items():
        reference, candidate = (sum(side) / len(scores) for side in zip(*scores, strict=True))
        row: dict[str, Any] = dict(zip(("model", "reference", "lang", "category"), key, strict=True))
        value = round(100 * candidate / reference, 1) if reference else None
        rows.append(row | {"value": value, "n": len(scores)})
    return rows


def _agreements(battles: Mapping[JudgeKey, list[Battle]]) -> list[dict[str, Any]]:
    """Compare every two judges; a rule judge comes first, which makes the comparison a calibration."""
    rows = []
    for first, second in itertools.combinations(sorted(battles, key=lambda key: key[1] != RULE), 2):
        numbers = diagnostics.compare_judges(battles[first], battles[second])
        if numbers is not None:
            names = {"first": " / ".join(first[:2]), "second": " / ".join(second[:2])}
            rows.append({**names, "calibration": first[1] == RULE, **numbers})
    return rows


class Ratings(NamedTuple):
    """Ratings as float64[M] arrays; ``low`` and ``high`` bound the 95 % interval."""

    rating: Floats
    low: Floats
    high: Floats


def fit_ratings(wins: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Ratings:
    """Fit ratings, with bootstrap intervals that resample clusters.

    ``wins`` float64[clusters, M, M] holds the points that the row's model took from the column's; a cluster
    is resampled as a whole (both orders, all questions of a picture).
    """
    clusters, size = wins.shape[:2]
    rating = _max_likelihood(wins.sum(axis=0)[None])[0]
    # Equal clusters are interchangeable: drawing how often each kind occurs is equivalent and far quicker.
    kinds = Counter(np.ascontiguousarray(cluster, np.float64).tobytes() for cluster in wins)
    table = np.frombuffer(b"".join(kinds)).reshape(len(kinds), size * size)
    frequencies = np.array(list(kinds.values())) / clusters
    counts = np.random.default_rng(seed).multinomial(clusters, frequencies, size=resamples)
    resampled = _max_likelihood((counts.astype(np.float64) @ table).reshape(resamples, size, size))
    # Percentile intervals would cover slightly too little; docs/judge.md has the measured coverage of these.
    margin = 1.96 * resampled.std(axis=0, ddof=1)
    return Ratings(rating, rating - margin, rating + margin)


def comparable_groups(total: Floats) -> Ints:
    """Return int64[M], group numbers: models of one group are linked by points both ways.

    Between two groups the likelihood has no maximum (Ford, 1957).
    """
    groups: Ints = connected_components(total > 0, connection="strong")[1]
    return groups


def fit_at_equal_length(a: Ints, b: Ints, points: Floats, longer: Floats, size: int) -> tuple[Floats, float]:
    """Fit ratings as if all answers had one length: logistic regression with length as another predictor.

    In each of N battles, ``a`` took ``points`` (1, 0.5 or 0) from ``b``, and the log length of its answer was
    greater by ``longer``. Returns the ratings float64[M] of ``size`` models, and the Elo points that doubling
    the length is worth.
    """
    rows = np.arange(len(a))
    design = np.zeros((len(a), size + 1))
    design[rows, a] += 1
    design[rows, b] -= 1
    design[:, size] = longer
    weights = np.zeros(size + 1)
    # A weak ridge fixes the free sum of the strengths and keeps separable data finite.
    ridge = np.full(size + 1, 1e-2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (points - chance) - ridge * weights
        hessian = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(ridge)
        step = np.clip(np.linalg.solve(hessian, gradient), -2, 2)
        weights += step
        if np.abs(step).max() < _TOLERANCE:
            break
    strength = weights[:size] - weights[:size].mean()
    return CENTER + SCALE * strength, float(SCALE * weights[size] * math.log(2))


def _max_likelihood(wins: Floats) -> Floats:
    """Return the maximum-likelihood ratings of many tables: float64[R, M, M] -> float64[R, M]."""
    size = wins.shape[-1]
    off = 1 - np.eye(size)
    wins = wins + _PRIOR / 2 * off
    games = wins + wins.transpose(0, 2, 1)
    strength = np.zeros(wins.shape[:2])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strength[:, None, :] - strength[:, :, None]))  # the row beats the column
        gradient = (wins - games * chance * off).sum(axis=2)
        curvature = games * chance * (1 - chance) * off
        hessian = -curvature
        hessian[:, range(size), range(size)] = curvature.sum(axis=2) + 1e-9
        # Adding 1 / size fixes the free sum of the strengths at zero.
        step = np.linalg.solve(hessian + 1 / size, gradient[..., None])[..., 0]
        strength += np.clip(step, -2, 2)
        if np.abs(step).max() < _TOLERANCE:
            break
    ratings: Floats = CENTER + SCALE * (strength - strength.mean(axis=1, keepdims=True))
    return ratings
