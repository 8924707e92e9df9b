"""Ratings of simulated battles: the right order, and intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ziya_visual.eval.judge.leaderboard import comparable_groups, fit_at_equal_length, fit_ratings

TRUE = np.array([1200.0, 1100, 1000, 900, 800])
BATTLES = 2000


def battles(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """float64[battles, 5, 5] of random pairings."""
    a = rng.integers(5, size=BATTLES)
    b = (a + rng.integers(1, 5, size=BATTLES)) % 5
    won = rng.random(BATTLES) < 1 / (1 + 10 ** ((TRUE[b] - TRUE[a]) / 400))
    wins = np.zeros((BATTLES, 5, 5))
    wins[np.arange(BATTLES), np.where(won, a, b), np.where(won, b, a)] = 1
    return wins


def test_a_thousand_simulated_leaderboards() -> None:
    repetitions, exact = 1000, 0
    covered = np.zeros(5)
    rng = np.random.default_rng(20231013)
    for seed in range(repetitions):
        found = fit_ratings(battles(rng), seed=seed, resamples=200)
        exact += np.array_equal(np.argsort(-found.rating), np.arange(5))
        covered += (found.low <= TRUE) & (found.high >= TRUE)
    share = covered.mean() / repetitions
    assert exact >= 0.99 * repetitions, f"{exact} of {repetitions} rankings exact"
    assert 0.93 <= share <= 0.97, f"intervals cover {share:.3f}; by model {covered / repetitions}"


def test_ratings_are_the_maximum_of_the_likelihood() -> None:
    # Two models, 3 to 1: 400 * log10(3) apart.
    wins = np.zeros((400, 2, 2))
    wins[:300, 0, 1], wins[300:, 1, 0] = 1, 1
    found = fit_ratings(wins)
    assert found.rating[0] - found.rating[1] == pytest.approx(400 * np.log10(3), abs=0.1)
    assert found.rating.mean() == pytest.approx(1000)


def test_what_is_drawn_together_widens_the_interval() -> None:
    alone = np.zeros((100, 2, 2))
    alone[:60, 0, 1], alone[60:, 1, 0] = 1, 1
    together = np.zeros((25, 2, 2))
    together[:15, 0, 1], together[15:, 1, 0] = 4, 4
    narrow, wide = fit_ratings(alone), fit_ratings(together)
    assert narrow.rating == pytest.approx(wide.rating)
    assert (wide.high - wide.low)[0] > 1.5 * (narrow.high - narrow.low)[0]


def test_only_chained_models_are_comparable() -> None:
    total = np.zeros((4, 4))
    total[0, 1] = total[1, 0] = total[2, 3] = total[3, 2] = 1

    def groups() -> list[list[int]]:
        numbers = comparable_groups(total)
        return [np.flatnonzero(numbers == number).tolist() for number in dict.fromkeys(numbers.tolist())]

    assert groups() == [[0, 1], [2, 3]]
    total[1, 2] = 1  # one way only: 2 never took a point
    assert groups() == [[0, 1], [2, 3]]
    total[3, 0] = 1
    assert groups() == [[0, 1, 2, 3]]


def test_length_is_told_apart_from_strength() -> None:
    """Equal models, one of which writes twice as long for a judge that likes that."""
    rng = np.random.default_rng(0)
    n = 4000
    a, b = np.zeros(n, np.int64), np.ones(n, np.int64)
    ahead = np.log(2) + rng.normal(0, 0.7, n)
    points = (rng.random(n) < 1 / (1 + np.exp(-1.2 * ahead))).astype(np.float64)
    wins = np.zeros((n, 2, 2))
    wins[:, 0, 1], wins[:, 1, 0] = points, 1 - points
    assert fit_ratings(wins).rating[0] > 1040
    ratings, per_doubling = fit_at_equal_length(a, b, points, ahead, 2)
    assert ratings[0] == pytest.approx(1000, abs=15)
    assert per_doubling == pytest.approx(1.2 * np.log(2) * 400 / np.log(10), rel=0.15)
