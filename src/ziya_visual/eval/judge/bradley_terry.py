"""Bradley-Terry strengths on the Elo scale: 1000 is the mean of all, 400 is ten to one.

The model says that ``a`` beats ``b`` with chance ``1 / (1 + 10 ** ((b - a) / 400))``; a tie is half a win for
each. Strengths are the maximum of the likelihood, found by Newton's method for many tables at once, which is
what makes a bootstrap of hundreds of draws cheap.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SCALE = 400 / math.log(10)
CENTER = 1000.0
RESAMPLES = 500
_PRIOR = 0.02  # of a tie, between every two models: a draw in which one never loses stays finite
_STEPS = 60
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Ratings:
    """float64[M] each; ``low`` and ``high`` are the 95 % interval."""

    rating: Floats
    low: Floats
    high: Floats


def rate(wins: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Ratings:
    """Strengths with bootstrap intervals that resample clusters.

    Args:
        wins: float64[clusters, M, M], the points that the row's model took from the column's; what is drawn
            together (both orders, all questions of a picture) is one cluster.
        seed: of the draws.
        resamples: how many.
    """
    clusters, size = wins.shape[:2]
    rating = _strengths(wins.sum(axis=0)[None])[0]
    # Equal clusters are interchangeable: drawing how often each kind comes is the same and far quicker.
    kinds = Counter(np.ascontiguousarray(cluster, np.float64).tobytes() for cluster in wins)
    table = np.frombuffer(b"".join(kinds)).reshape(len(kinds), size * size)
    often = np.array(list(kinds.values())) / clusters
    drawn = np.random.default_rng(seed).multinomial(clusters, often, size=resamples)
    found = _strengths((drawn.astype(np.float64) @ table).reshape(resamples, size, size))
    # Percentiles cover a little less than they say here; docs/judge.md has the measured coverage.
    margin = 1.96 * found.std(axis=0, ddof=1)
    return Ratings(rating, rating - margin, rating + margin)


def comparable(total: Floats) -> Ints:
    """int64[M]: models of one number are chained by points both ways, so that their gap is finite.

    Between two numbers the likelihood has no maximum (Ford, 1957): one side never took a point from the
    other, or they never met.
    """
    reach = (total > 0) | np.eye(len(total), dtype=bool)
    for via in range(len(total)):
        reach |= reach[:, via, None] & reach[None, via, :]
    mutual = reach & reach.T
    return np.array([int(np.argmax(row)) for row in mutual], np.int64)


def at_equal_length(a: Ints, b: Ints, points: Floats, ahead: Floats, size: int) -> tuple[Floats, float]:
    """Strengths if all answers were of one length: a logistic regression with the length as one more cause.

    Args:
        a: int64[N], the first model of each battle.
        b: int64[N], the second.
        points: float64[N], of ``a``: 1, 0.5 or 0.
        ahead: float64[N], log length of a's answer minus that of b's.
        size: number of models.

    Returns:
        Ratings float64[M], and the Elo points that an answer twice as long is worth.
    """
    rows = np.arange(len(a))
    design = np.zeros((len(a), size + 1))
    design[rows, a] += 1
    design[rows, b] -= 1
    design[:, size] = ahead
    weights = np.zeros(size + 1)
    # A weak pull towards zero keeps the sum of the strengths, which is free, and separated data in place.
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


def _strengths(wins: Floats) -> Floats:
    """Maximum-likelihood ratings of many tables: float64[R, M, M] -> float64[R, M]."""
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
