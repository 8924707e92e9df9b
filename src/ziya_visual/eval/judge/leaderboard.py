"""``leaderboard``: judged folders become tables, one a judge, by language and category.

What cannot be compared is not: judges, protocols and what a judge sees make tables of their own, models that
no battles chain together are not ranked against each other, a judge that the controls expose ranks nobody,
and published numbers stand apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_text, write_json, write_text
from ziya_visual.eval.judge import diagnostics
from ziya_visual.eval.judge.bradley_terry import RESAMPLES, at_equal_length, comparable, rate
from ziya_visual.eval.judge.verdicts import (
    CANNOT_KNOW,
    MAX_FAILURES,
    RELATIVE,
    REVIEWS,
    RULE,
    Battle,
    Review,
    battles,
    by_judge,
    read_reviews,
)

_HERE = Path(__file__).parent
_POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}


def leaderboard(folders: Sequence[Path], *, out: Path, seed: int = 0) -> dict[str, Any]:
    """Write ``leaderboard.json`` and a self-contained ``leaderboard.html`` in which every verdict opens.

    Args:
        folders: of ``judge`` runs.
        out: the folder to write into.
        seed: of the bootstrap.

    Returns:
        The content of the JSON file: ``judges`` with tables, controls and warnings, ``agreement`` between
        them, ``published`` numbers.

    Raises:
        DataError: a folder without reviews, or nothing to compare in any of them.
    """
    groups = by_judge(review for folder in folders for review in _read(folder))
    fought = {key: battles(reviews) for key, reviews in groups.items()}
    if not any(fought.values()):
        raise DataError(
            f"{', '.join(map(str, folders))}: no battle of two models; judge two, or give the folders of both"
        )
    content = {
        "judges": [_judge(key, groups[key], fought[key], seed) for key in groups],
        "agreement": _agreements(fought),
        "published": published_results(),
    }
    write_json(out / "leaderboard.json", content)
    unread = [[review for review in reviews if review.scores is None] for reviews in groups.values()]
    write_text(out / "leaderboard.html", _page(content, list(fought.values()), unread))
    return content


def _read(folder: Path) -> list[Review]:
    path = folder / REVIEWS
    if not path.is_file():
        raise DataError(f"{path}: absent; give the --out folder of a finished judge run")
    return read_reviews(path)


def _judge(
    key: tuple[str, str, str], reviews: Sequence[Review], fought: Sequence[Battle], seed: int
) -> dict[str, Any]:
    """Everything that one judge under one protocol says, and what speaks against it."""
    name, protocol, sees = key
    found = diagnostics.controls(reviews)
    withheld = ""
    if found["failures"] > MAX_FAILURES * found["reviews"]:
        withheld = (
            f"no scores in {found['failures']} of {found['reviews']} reviews, more than {MAX_FAILURES:.0%}"
        )
    elif protocol != RULE and diagnostics.unbelievable(found):
        withheld = "the controls below show that this judge does not tell these answers apart"
    return {
        "judge": name or "unnamed",
        "protocol": protocol,
        "sees": sees,
        "cannot_know": CANNOT_KNOW[sees],
        "controls": found,
        "warnings": diagnostics.warnings(found, protocol),
        "withheld": withheld,
        "tables": [] if withheld else list(_tables(fought, seed)),
        "relative": [] if withheld else _relative(reviews) if protocol == RELATIVE else [],
    }


def _tables(fought: Sequence[Battle], seed: int) -> Iterable[dict[str, Any]]:
    """All battles, those of each language, and of each category in it."""
    slices: dict[tuple[str, str], list[Battle]] = {}
    for battle in fought:
        for lang, category in itertools.product(("", battle.lang), ("", *battle.categories)):
            members = slices.setdefault((lang, category), [])
            if not members or members[-1] is not battle:
                members.append(battle)
    langs = {battle.lang for battle in fought}
    for (lang, category), members in sorted(slices.items()):
        # With one language its tables are those of all; with several a category is shown by language.
        if (lang and len(langs) == 1) or (category and not lang and len(langs) > 1):
            continue
        yield {"lang": lang, "category": category, **table_of(members, seed=seed)}


def table_of(fought: Sequence[Battle], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Standings, the strongest first.

    Returns:
        ``rows``: ``model``, ``rank`` (one more than the models whose interval is wholly above), ``rating``
        with ``low`` and ``high`` (95 %), ``equal_length`` (the rating if all answers were equally long),
        ``wins`` (ties are half), ``battles``, ``share`` won in percent; ``per_doubling``: Elo points of an
        answer twice as long; ``apart``: a sentence where models cannot be compared, whose ratings are then
        ``None``.
    """
    models = sorted({name for battle in fought for name in (battle.a, battle.b)})
    wins = _wins(fought, models)
    total = wins.sum(axis=0)
    apart = _apart(fought, models, total)
    ratings = rate(wins, seed=seed, resamples=resamples)
    equal, per_doubling = _equal_length(fought, models)
    rows: list[dict[str, Any]] = []
    for place, model in enumerate(models):
        won, played = float(total[place].sum()), float(total[place].sum() + total[:, place].sum())
        row: dict[str, Any] = {"model": model, "rank": None, "equal_length": None}
        for name in ("rating", "low", "high"):
            row[name] = None if apart else round(float(getattr(ratings, name)[place]), 1)
        if equal is not None and not apart:
            row["equal_length"] = round(equal[place], 1)
        rows.append(row | {"wins": won, "battles": int(played), "share": round(100 * won / played, 1)})
    rows.sort(key=lambda row: (-(row["rating"] or 0), -row["share"]))
    if not apart:
        for row in rows:
            row["rank"] = 1 + sum(other["low"] > row["high"] for other in rows)
    return {"rows": rows, "per_doubling": None if apart else per_doubling, "apart": apart}


def _apart(fought: Sequence[Battle], models: Sequence[str], total: Any) -> str:
    """Why these battles give no ratings, or nothing."""
    if all(battle.winner == "tie" for battle in fought):
        return "no ratings: every battle is a tie"
    chains: dict[int, list[str]] = {}
    for model, chain in zip(models, comparable(total).tolist(), strict=True):
        chains.setdefault(chain, []).append(model)
    if len(chains) == 1:
        return ""
    groups = " and ".join(", ".join(names) for names in chains.values())
    return f"no ratings: between {groups} points were never taken both ways, so that the gap has no bound"


def _wins(fought: Sequence[Battle], models: Sequence[str]) -> Any:
    """float64[clusters, M, M]: points by cluster; all battles of a picture are drawn together."""
    place = {name: index for index, name in enumerate(models)}
    names = [battle.image or f"{battle.lang} {battle.question}" for battle in fought]
    cluster = {name: index for index, name in enumerate(dict.fromkeys(names))}
    wins = np.zeros((len(cluster), len(models), len(models)))
    for name, battle in zip(names, fought, strict=True):
        a, b, points = place[battle.a], place[battle.b], _POINTS[battle.winner]
        wins[cluster[name], a, b] += points
        wins[cluster[name], b, a] += 1 - points
    return wins


def _equal_length(fought: Sequence[Battle], models: Sequence[str]) -> tuple[list[float] | None, float | None]:
    """Ratings at equal length and what doubling is worth; ``None`` where lengths cannot tell."""
    ahead = np.array([math.log((1 + b.lengths[0]) / (1 + b.lengths[1])) for b in fought])
    pairs = [frozenset((b.a, b.b)) for b in fought]
    turned = np.array([1 if b.a <= b.b else -1 for b in fought])
    for pair in dict.fromkeys(pairs):
        members = np.array([one == pair for one in pairs])
        if not diagnostics.lengths_overlap((ahead * turned)[members]):
            return None, None
    place = {name: index for index, name in enumerate(models)}
    a, b = (np.array([place[getattr(battle, side)] for battle in fought]) for side in ("a", "b"))
    points = np.array([_POINTS[battle.winner] for battle in fought])
    ratings, per_doubling = at_equal_length(a, b, points, ahead, len(models))
    return [float(rating) for rating in ratings], round(per_doubling, 1)


def _relative(reviews: Sequence[Review]) -> list[dict[str, Any]]:
    """LLaVA's percentages of every candidate against its reference, by language and category."""
    groups: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for review in reviews:
        if review.scores is not None:
            for category in ("", *review.categories):
                key = (review.models[1], review.models[0], review.lang, category)
                groups.setdefault(key, []).append((review.scores[0], review.scores[1]))
    rows = []
    for (model, reference, lang, category), pairs in groups.items():
        low, high = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
        value = round(100 * high / low, 1) if low else None
        row = {"model": model, "reference": reference, "lang": lang, "category": category}
        rows.append({**row, "value": value, "n": len(pairs)})
    return rows


def _agreements(fought: dict[tuple[str, str, str], list[Battle]]) -> list[dict[str, Any]]:
    """Every two judges; a rule judge comes first and makes it a calibration."""
    keys = sorted(fought, key=lambda key: key[1] != RULE)
    found = []
    for first, second in itertools.combinations(keys, 2):
        numbers = diagnostics.agreement(fought[first], fought[second])
        if numbers is not None:
            names = {"first": " / ".join(first[:2]), "second": " / ".join(second[:2])}
            found.append({**names, "calibration": first[1] == RULE, **numbers})
    return found


def published_results() -> list[dict[str, Any]]:
    """Return published judge scores from ``published.yaml``; they are never ranked with ours."""
    tables: list[dict[str, Any]] = yaml.safe_load(read_text(_HERE / "published.yaml"))
    return tables


def _page(
    content: dict[str, Any], fought: Sequence[Sequence[Battle]], unread: Sequence[Sequence[Review]]
) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(read_text(_HERE / "leaderboard.html.jinja"))
    return template.render(content, fought=fought, unread=unread)
