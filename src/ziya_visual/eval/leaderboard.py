"""A leaderboard from pairwise verdicts: Bradley-Terry strengths on the Elo scale with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from ziya_visual.core.errors import DataError
from ziya_visual.core.io import read_jsonl

Floats = npt.NDArray[np.float64]

SCALE = 400 / math.log(10)
CENTER = 1000.0
WINNERS = ("a", "b", "tie")
_PRIOR = 0.1  # ties added between every pair, so that a model that never lost has a finite strength
_STEPS = 60
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of two models answered a question better: ``winner`` is ``a``, ``b`` or ``tie``."""

    question: str
    a: str
    b: str
    winner: str
    lang: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of the table: rating with its 95 % interval, and how often the model won (ties are half)."""

    model: str
    rating: float
    low: float
    high: float
    wins: float
    battles: int


def read_verdicts(path: Path) -> list[Verdict]:
    """Verdicts from JSONL with ``question``, ``a``, ``b``, ``winner`` and optionally ``lang``, ``category``.

    Raises:
        DataError: a row without these, or a winner that is none of a, b, tie.
    """
    found = []
    for number, row in read_jsonl(path):
        if not isinstance(row, dict) or not {"question", "a", "b", "winner"} <= set(row):
            raise DataError(f"{path}: line {number} is no verdict; expected question, a, b, winner")
        if row["winner"] not in WINNERS or row["a"] == row["b"]:
            raise DataError(
                f"{path}: line {number}: winner {row['winner']!r} between {row['a']!r} and {row['b']!r}"
            )
        fields = {key: str(row.get(key, "")) for key in ("question", "a", "b", "winner", "lang", "category")}
        found.append(Verdict(**fields))
    if not found:
        raise DataError(f"{path}: holds no verdicts")
    return found


def leaderboard(verdicts: Sequence[Verdict], *, seed: int = 0, resamples: int = 500) -> list[Standing]:
    """Models by Bradley-Terry strength, the strongest first; 1000 is the mean of all, 400 is ten to one.

    Both orders of a question are drawn together: the bootstrap resamples questions.

    Args:
        verdicts: at least one.
        seed: of the bootstrap.
        resamples: draws behind the 95 % interval.
    """
    models = sorted({name for verdict in verdicts for name in (verdict.a, verdict.b)})
    wins = _question_wins(verdicts, models)
    total = wins.sum(axis=0)
    ratings = _ratings(total[None])[0]
    rng = np.random.default_rng(seed)
    questions = len(wins)
    weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    drawn = (weights @ wins.reshape(questions, -1)).reshape(resamples, *total.shape)
    # Percentiles cover a little less than they say here (94.3 against 94.8 % in simulated battles).
    margin = 1.96 * _ratings(drawn).std(axis=0, ddof=1)
    battles = total + total.T
    rows = [
        Standing(
            name,
            float(ratings[i]),
            float(ratings[i] - margin[i]),
            float(ratings[i] + margin[i]),
            float(total[i].sum()),
            int(battles[i].sum()),
        )
        for i, name in enumerate(models)
    ]
    return sorted(rows, key=lambda row: -row.rating)


def by_group(verdicts: Iterable[Verdict], key: str) -> dict[str, list[Verdict]]:
    """Verdicts by ``lang`` or ``category``."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(getattr(verdict, key), []).append(verdict)
    return groups


def anchors() -> list[dict[str, Any]]:
    """Published numbers with source and judge (``anchors.yaml``): listed apart, never ranked among ours."""
    text = (Path(__file__).parent / "anchors.yaml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found


def _question_wins(verdicts: Sequence[Verdict], models: list[str]) -> Floats:
    """float64[questions, models, models]: points that the row's model took from the column's."""
    place = {name: index for index, name in enumerate(models)}
    question = {name: index for index, name in enumerate(dict.fromkeys(v.question for v in verdicts))}
    wins = np.zeros((len(question), len(models), len(models)))
    for verdict in verdicts:
        cell = wins[question[verdict.question]]
        a, b = place[verdict.a], place[verdict.b]
        cell[a, b] += {"a": 1.0, "tie": 0.5, "b": 0.0}[verdict.winner]
        cell[b, a] += {"a": 0.0, "tie": 0.5, "b": 1.0}[verdict.winner]
    return wins


def _ratings(wins: Floats) -> Floats:
    """Maximum-likelihood strengths of many tables at once by Newton's method: [R, M, M] -> [R, M] in Elo."""
    size = wins.shape[-1]
    off = 1 - np.eye(size)
    wins = wins + _PRIOR / 2 * off
    games = wins + wins.transpose(0, 2, 1)
    strength = np.zeros(wins.shape[:2])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strength[:, None, :] - strength[:, :, None]))  # row beats column
        gradient = (wins - games * chance * off).sum(axis=2)
        curvature = games * chance * (1 - chance) * off
        hessian = -curvature
        hessian[:, range(size), range(size)] = curvature.sum(axis=2) + 1e-9
        # The sum of all strengths is free; this pins it to zero.
        step = np.linalg.solve(hessian + 1 / size, gradient[..., None])[..., 0]
        strength += np.clip(step, -2, 2)
        if np.abs(step).max() < _TOLERANCE:
            break
    ratings: Floats = CENTER + SCALE * (strength - strength.mean(axis=1, keepdims=True))
    return ratings
